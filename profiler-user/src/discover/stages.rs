//! Names of spans, from names of functions.

use rustc_hash::FxHashMap;

use super::names::{without_arguments, words_of};

/// A span's name for a function: its last part in snake case, with its class where that alone is
/// taken.
#[derive(Debug, Default)]
pub(super) struct SpanNames {
    taken: FxHashMap<String, u32>,
}

impl SpanNames {
    pub(super) fn name(&mut self, base: &str) -> String {
        let plain = without_arguments(base);
        let mut parts = plain.rsplit("::").filter(|part| !part.is_empty());
        let method = words_of(parts.next().unwrap_or_default()).join("_");
        let class = words_of(parts.next().unwrap_or_default()).join("_");
        let method = if method.is_empty() { "call".to_owned() } else { method };
        let with_class =
            if class.is_empty() { method.clone() } else { format!("{class}_{method}") };
        let name = if self.taken.contains_key(&method) { with_class } else { method };
        let count = self.taken.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}_{count}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_once() {
        let mut names = SpanNames::default();
        assert_eq!(names.name("a::Planner::CreatePlan"), "create_plan");
        assert_eq!(names.name("a::Binder::CreatePlan"), "binder_create_plan");
        assert_eq!(names.name("b::Binder::CreatePlan"), "binder_create_plan_2");
        assert_eq!(names.name("a::B<a::C>::run"), "run");
        assert_eq!(names.name("{lambda()#1}"), "call");
    }
}
