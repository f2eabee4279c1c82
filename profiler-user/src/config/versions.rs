//! Which versions a map is for: `>=2.5, <2.6`.

use std::cmp::Ordering;

/// A version: numbers with dots between. Compared number by number, what is missing being 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version(Vec<u64>);

impl Version {
    /// Reads `2.5.1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split('.')
            .map(|part| {
                let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                part.parse().ok().filter(|_| digits)
            })
            .collect::<Option<_>>()
            .map(Self)
    }

    fn compare(&self, other: &Self) -> Ordering {
        let longest = self.0.len().max(other.0.len());
        let part = |version: &Self, at| version.0.get(at).copied().unwrap_or(0);
        (0..longest)
            .map(|at| part(self, at).cmp(&part(other, at)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// Comparisons that a version of the range passes, every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions(Vec<(Comparison, Version)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
    Exactly,
}

impl Versions {
    /// Reads `>=2.5, <2.6`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        use Comparison::{Above, AtLeast, AtMost, Below, Exactly};
        const SIGNS: [(&str, Comparison); 5] =
            [(">=", AtLeast), ("<=", AtMost), (">", Above), ("<", Below), ("=", Exactly)];
        text.split(',')
            .map(|part| {
                let part = part.trim();
                SIGNS.iter().find_map(|(sign, comparison)| {
                    let version = part.strip_prefix(sign)?;
                    Some((*comparison, Version::parse(version.trim())?))
                })
            })
            .collect::<Option<_>>()
            .map(Self)
    }

    pub(super) fn hold(&self, version: &Version) -> bool {
        self.0.iter().all(|(comparison, bound)| {
            let order = version.compare(bound);
            match comparison {
                Comparison::AtLeast => order.is_ge(),
                Comparison::AtMost => order.is_le(),
                Comparison::Above => order.is_gt(),
                Comparison::Below => order.is_lt(),
                Comparison::Exactly => order.is_eq(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        let hold = |versions, version| {
            Versions::parse(versions).unwrap().hold(&Version::parse(version).unwrap())
        };
        assert!(hold(">=2.5, <2.6", "2.5.1") && hold(">=2.5, <2.6", "2.5"));
        assert!(!hold(">=2.5, <2.6", "2.6.0") && !hold(">=2.5, <2.6", "2.10"));
        assert!(hold("= 16", "16.0") && hold(">2", "2.0.1") && hold("<=2.0", "2"));
        assert!(!hold("<2.10", "2.11") && hold("<2.10", "2.9"));
    }

    #[test]
    fn anything_else_is_no_range() {
        for wrong in ["", "2.5", ">=", ">=2.x", "~2.5", ">=2.5,", ">=2.5 <2.6", ">=+2", ">=2..5"] {
            assert_eq!(Versions::parse(wrong), None, "{wrong}");
        }
    }
}
