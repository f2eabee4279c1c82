//! What a function's name tells: whether it may be a stage of a query, and which.

/// Words a query stage is named with, what they are worth, and the stage they mean.
const WORDS: [(&str, i32, &str); 58] = [
    ("query", 4, "query"),
    ("search", 5, "search"),
    ("execute", 5, "execute"),
    ("exec", 3, "execute"),
    ("run", 3, "execute"),
    ("request", 4, "query"),
    ("handle", 3, "query"),
    ("handler", 2, "query"),
    ("serve", 3, "query"),
    ("dispatch", 3, "query"),
    ("process", 3, "execute"),
    ("statement", 2, "query"),
    ("command", 2, "query"),
    ("parse", 4, "parse"),
    ("parser", 3, "parse"),
    ("plan", 4, "plan"),
    ("planner", 4, "plan"),
    ("bind", 2, "plan"),
    ("prepare", 3, "plan"),
    ("analyze", 3, "plan"),
    ("rewrite", 3, "plan"),
    ("resolve", 2, "plan"),
    ("optimize", 4, "optimize"),
    ("optimizer", 3, "optimize"),
    ("pipeline", 4, "pipeline"),
    ("task", 3, "pipeline"),
    ("submit", 3, "queue"),
    ("enqueue", 3, "queue"),
    ("push", 1, "queue"),
    ("schedule", 3, "queue"),
    ("segment", 4, "segment"),
    ("shard", 4, "segment"),
    ("partition", 3, "segment"),
    ("merge", 4, "merge"),
    ("reduce", 4, "merge"),
    ("combine", 4, "merge"),
    ("collect", 2, "merge"),
    ("aggregate", 4, "aggregate"),
    ("finalize", 4, "aggregate"),
    ("group", 1, "aggregate"),
    ("scan", 4, "scan"),
    ("filter", 2, "scan"),
    ("index", 3, "index"),
    ("lookup", 2, "index"),
    ("knn", 4, "index"),
    ("hnsw", 4, "index"),
    ("join", 4, "join"),
    ("sort", 4, "sort"),
    ("order", 1, "sort"),
    ("fetch", 3, "fetch"),
    ("retrieve", 3, "fetch"),
    ("insert", 3, "insert"),
    ("upsert", 3, "insert"),
    ("delete", 1, "insert"),
    ("select", 3, "query"),
    ("commit", 2, "commit"),
    ("flush", 2, "io"),
    ("compute", 2, "execute"),
];

/// Beginnings of names that answer a question or change a field, rather than do work.
const SMALL: [&str; 22] = [
    "get",
    "set",
    "is",
    "has",
    "to",
    "from",
    "as",
    "can",
    "with",
    "make",
    "create_",
    "add",
    "try_get",
    "copy",
    "equals",
    "hash",
    "serialize",
    "deserialize",
    "verify",
    "register",
    "print",
    "supports",
];

/// Parts of names that are machinery of the language and its libraries.
const NOISE: [&str; 30] = [
    "std::",
    "boost::",
    "__gnu_cxx::",
    "fmt::",
    "absl::",
    "google::protobuf",
    "pybind11::",
    "nlohmann::",
    "rapidjson::",
    "spdlog::",
    "icu_",
    "core::ptr",
    "core::fmt",
    "core::iter",
    "alloc::",
    "hashbrown::",
    "serde",
    "<impl",
    "operator",
    "{lambda",
    "[clone",
    "_Hashtable",
    "allocator",
    "unique_ptr",
    "shared_ptr",
    "__cxx",
    "re2::",
    "jemalloc",
    "mi_",
    "~",
];

/// What the name of a function is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameScore {
    /// The higher the more it looks like a stage; 0 or less: not a candidate.
    pub score: i32,
    /// The stage it looks like.
    pub stage: Option<&'static str>,
}

/// Whether a name in the symbol table is worth demangling.
#[must_use]
pub fn could_be_stage(linkage: &[u8]) -> bool {
    let lower = linkage.to_ascii_lowercase();
    WORDS.iter().any(|(word, ..)| memchr::memmem::find(&lower, word.as_bytes()).is_some())
}

/// Scores a demangled name without its parameters.
#[must_use]
pub fn score(base: &str, size: u64) -> NameScore {
    let plain = without_arguments(base);
    let mut parts = plain.rsplit("::").filter(|part| !part.is_empty());
    let method = parts.next().unwrap_or_default();
    let class = parts.next().unwrap_or_default();
    let (of_method, stage) = best(method);
    let (of_class, class_stage) = best(class);
    let mut score = 2 * of_method + of_class;
    // A constructor is named like its class.
    if method == class {
        score -= 12;
    }
    let small = words_of(method);
    let begins = small.first().map_or("", String::as_str);
    if SMALL.iter().any(|word| word.trim_end_matches('_') == begins) {
        score -= 5;
    }
    if NOISE.iter().any(|noise| base.contains(noise)) {
        score -= 12;
    }
    if method.starts_with('~') {
        return NameScore { score: -20, stage: None };
    }
    let angles = base.matches('<').count();
    score -= i32::try_from(angles.min(4)).unwrap_or(4);
    score += match size {
        // Of unknown length: hand-written assembly.
        0 => -3,
        1..=15 => -8,
        16..=31 => -4,
        32..=95 => -2,
        96..=255 => 0,
        _ => 2,
    };
    NameScore { score, stage: stage.or(class_stage) }
}

/// The stage a name means.
#[must_use]
pub fn stage_of(base: &str) -> Option<&'static str> {
    score(base, 0).stage
}

/// The words of an identifier, in lower case: `ExecuteTask_now` → execute, task, now.
pub(super) fn words_of(identifier: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for character in identifier.chars() {
        let boundary = !character.is_ascii_alphanumeric()
            || (character.is_ascii_uppercase() && !before.is_ascii_uppercase());
        if (boundary || words.is_empty()) && words.last().is_none_or(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if character.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(character.to_ascii_lowercase());
        }
        before = character;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The best word of an identifier, and the stage of the first that has one.
fn best(identifier: &str) -> (i32, Option<&'static str>) {
    let words = words_of(identifier);
    let known = |word: &String| WORDS.iter().find(|(known, ..)| is_form_of(word, known));
    let found: Vec<_> = words.iter().filter_map(known).collect();
    let strongest = found.iter().max_by_key(|(_, value, _)| *value);
    (strongest.map_or(0, |(_, value, _)| *value), strongest.map(|(_, _, stage)| *stage))
}

/// `parse`, `parses`, `parsing`, `parsed`; in C also without a boundary: `pgparse`.
fn is_form_of(word: &str, known: &str) -> bool {
    let stem = known.strip_suffix('e').unwrap_or(known);
    match word.strip_prefix(stem) {
        Some(rest) => {
            matches!(rest, "" | "e" | "s" | "es" | "ed" | "ing" | "r" | "er" | "or" | "ion")
        }
        None => known.len() >= 4 && word.ends_with(known),
    }
}

/// The class or module a function belongs to, without its namespaces; none of a plain function.
#[must_use]
pub fn class_of(base: &str) -> Option<String> {
    let plain = without_arguments(base);
    let mut parts = plain.rsplit("::").filter(|part| !part.is_empty());
    parts.next()?;
    parts.next().map(str::to_owned)
}

/// `a::B<c, d>::e` → `a::B::e`.
pub(super) fn without_arguments(base: &str) -> String {
    let mut depth = 0_usize;
    base.chars()
        .filter(|character| match character {
            '<' | '(' | '{' | '[' => {
                depth += 1;
                false
            }
            '>' | ')' | '}' | ']' => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => depth == 0,
        })
        .collect()
}

/// Whether an object is part of every program: nothing in it is a stage of anybody's query.
#[must_use]
pub fn is_runtime(file_name: &str) -> bool {
    const RUNTIME: [&str; 40] = [
        "libc.",
        "libc-",
        "ld-linux",
        "ld-",
        "libm.",
        "libm-",
        "libpthread",
        "libdl",
        "librt",
        "libstdc++",
        "libgcc_s",
        "libc++",
        "libgomp",
        "libssl",
        "libcrypto",
        "libz.",
        "libz-",
        "libzstd",
        "liblz4",
        "liblzma",
        "libbz2",
        "libpython",
        "libtcmalloc",
        "libjemalloc",
        "libmimalloc",
        "libuuid",
        "libresolv",
        "libnss",
        "libnsl",
        "libutil",
        "libffi",
        "libexpat",
        "libicu",
        "libgfortran",
        "libquadmath",
        "libtinfo",
        "libreadline",
        "libselinux",
        "libsystemd",
        "libcap",
    ];
    file_name.starts_with('[') || RUNTIME.iter().any(|name| file_name.starts_with(name))
}

/// Whether an executable runs programs of another language: its own functions are stages of none.
#[must_use]
pub fn is_interpreter(file_name: &str) -> bool {
    const INTERPRETERS: [&str; 12] = [
        "python", "pypy", "node", "ruby", "perl", "php", "java", "lua", "Rscript", "bash", "sh",
        "dash",
    ];
    let stem = file_name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&stem)
}

/// What a function of the C library does with a file descriptor, its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketUse {
    /// Takes bytes from it.
    Read,
    /// Gives bytes to it.
    Write,
}

/// The functions of the C library through which requests come and answers go.
#[must_use]
pub fn socket_use(linkage: &[u8]) -> Option<SocketUse> {
    match linkage {
        b"read" | b"recv" | b"recvfrom" | b"recvmsg" | b"readv" => Some(SocketUse::Read),
        b"write" | b"send" | b"sendto" | b"sendmsg" | b"writev" => Some(SocketUse::Write),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_apart() {
        for (identifier, words) in [
            ("ExecuteTask", &["execute", "task"][..]),
            ("exec_simple_query", &["exec", "simple", "query"]),
            ("HTTPServer", &["httpserver"]),
            ("search2", &["search2"]),
            ("_x", &["x"]),
            ("", &[]),
        ] {
            assert_eq!(words_of(identifier), words, "{identifier}");
        }
    }

    #[test]
    fn stages_score_and_machinery_does_not() {
        for (base, stage) in [
            ("duckdb::DuckDBPyConnection::Execute", "execute"),
            ("duckdb::Planner::CreatePlan", "plan"),
            ("duckdb::PipelineTask::ExecuteTask", "execute"),
            ("duckdb::Optimizer::Optimize", "optimize"),
            ("exec_simple_query", "query"),
            ("pg_parse_query", "query"),
            ("kv::Server::handle", "query"),
            ("kv::merge", "merge"),
            ("kv::Store::scan", "scan"),
            ("tantivy::query::query_parser::parse", "parse"),
        ] {
            let found = score(base, 400);
            assert!(found.score > 5, "{base}: {found:?}");
            assert_eq!(found.stage, Some(stage), "{base}");
        }
        for base in [
            "std::vector<duckdb::Query>::push_back",
            "duckdb::Query::Query",
            "duckdb::Query::~Query",
            "duckdb::Query::GetName",
            "duckdb::Vector::Reference",
            "pybind11::cpp_function::dispatcher",
        ] {
            assert!(score(base, 200).score < 4, "{base}: {:?}", score(base, 200));
        }
    }

    #[test]
    fn tiny_functions_are_worth_less() {
        assert!(score("a::Search", 20).score < score("a::Search", 500).score);
    }

    #[test]
    fn what_is_demangled_has_a_word() {
        assert!(could_be_stage(b"_ZN6duckdb7Planner10CreatePlanERNS_12SQLStatementE"));
        assert!(!could_be_stage(b"_ZN1a1bEv"));
    }

    #[test]
    fn objects_that_everybody_has() {
        for runtime in ["libc.so.6", "libstdc++.so.6.0.30", "ld-linux-x86-64.so.2", "[vdso]"] {
            assert!(is_runtime(runtime), "{runtime}");
        }
        assert!(!is_runtime("_duckdb.cpython-311-x86_64-linux-gnu.so"));
        for interpreter in ["python3.11", "node", "ruby3.1"] {
            assert!(is_interpreter(interpreter), "{interpreter}");
        }
        assert!(!is_interpreter("postgres") && !is_interpreter("nodetool"));
    }
}
