//! "Did you mean".

/// Up to `count` of `candidates` that are like `given`, nearest first, ties in order.
pub(crate) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    count: usize,
) -> Vec<&'a str> {
    let given = given.to_lowercase();
    let mut near: Vec<_> = candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&given, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count() / 2)
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(count).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_strangers_not_at_all() {
        let fields = ["function", "linkage", "address"];
        assert_eq!(nearest("fucntion", fields, 2), ["function"]);
        assert_eq!(nearest("Adress", fields, 2), ["address"]);
        assert_eq!(nearest("xyz", fields, 2), Vec::<&str>::new());
    }
}
