//! Maps that are read, and maps that are refused with the place and the fix.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::model::{Moment, OrphanPolicy, Scope, Takes, VirtAddr};
use crate::target::BuildId;

const WHOLE: &str = r#"
version = 1
name = "engine"
description = "An engine"
system = "my_engine"
orphans = "keep"

[match]
object = "*/engine"
functions = ["engine::Server::*"]
versions = ">=2.5, <2.6"
builds = { 0102030405060708 = "2.5.1" }

[[span]]
name = "request"
function = "engine::Server::handle(*)"
root = true
stage = "search"
operation = "search"
required = true

[[span]]
name = "scan"
linkage = "_ZN6engine4scanEv"
object = "libengine.so*"

[[span]]
name = "scan"
address = 0x4711

[[handoff]]
name = "queue"
give = { function = "engine::push", key = ["*(arg(1) + 0x10)", "arg(2)"] }
take = { function = "engine::run", object = "libengine.so", key = ["*(arg(1)-8)", "arg(2)"] }
until = { function = "engine::~Job", key = ["arg(1)", "arg(2)"] }
takes = "any"
scope = "target"
span = "wait"
"#;

fn parse(text: &str) -> Result<SymbolMap, MapError> {
    parse_map(text, MapOrigin::File(PathBuf::from("my.toml")))
}

/// A map with a root, and `more` behind it.
fn with(more: &str) -> String {
    format!(
        "version = 1\nname = \"m\"\nsystem = \"s\"\n[[span]]\nname = \"r\"\nfunction = \"f\"\nroot = true\n{more}"
    )
}

/// What is said of the map, in one piece, and "LINE:COLUMN".
fn refused(text: &str) -> (String, String) {
    match parse(text) {
        Err(MapError::Invalid(diagnostic)) => {
            let Diagnostic { line, column, .. } = *diagnostic;
            (diagnostic.to_string(), format!("{line}:{column}"))
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Asserts that `text` is refused at `place` (the bytes of `text` where the caret stands) and that
/// the message holds all of `says`.
#[track_caller]
fn assert_refused(text: &str, place: &str, says: &[&str]) {
    let (message, at) = refused(text);
    let offset = text.find(place).expect("the place is in the text");
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    assert_eq!(at, format!("{line}:{column}"), "{message}");
    assert!(message.contains(&format!("--> my.toml:{at}\n")), "{message}");
    for part in says {
        assert!(message.contains(part), "no `{part}` in\n{message}");
    }
}

#[test]
fn every_field_is_read() {
    let map = parse(WHOLE).unwrap();
    assert_eq!(map.name, "engine");
    assert_eq!(map.description, "An engine");
    assert_eq!(map.system, "my_engine");
    assert_eq!(map.orphans, OrphanPolicy::Keep);
    assert_eq!(
        map.matching,
        Some(MatchDecl {
            object: "*/engine".into(),
            functions: vec!["engine::Server::*".into()],
            versions: Some(">=2.5, <2.6".into()),
            builds: vec![Build { id: BuildId((1..=8).collect()), version: "2.5.1".into() }],
        })
    );
    let [request, scan, again] = map.spans.as_slice() else { panic!("{:?}", map.spans) };
    assert_eq!(request.selector.select, Select::Function("engine::Server::handle(*)".into()));
    assert_eq!(request.selector.object, None);
    assert!(request.root && request.required);
    assert_eq!(request.stage.as_deref(), Some("search"));
    assert_eq!(request.operation.as_deref(), Some("search"));
    assert_eq!(request.line, 14);
    assert_eq!(scan.selector.select, Select::Linkage("_ZN6engine4scanEv".into()));
    assert_eq!(scan.selector.object.as_deref(), Some("libengine.so*"));
    assert!(!scan.root && !scan.required);
    assert_eq!(again.selector.select, Select::Address(VirtAddr(0x4711)));
    assert_eq!(again.name, scan.name);
    let [queue] = map.handoffs.as_slice() else { panic!("{:?}", map.handoffs) };
    assert_eq!(&*queue.name, "queue");
    assert_eq!(queue.give.key, [KeyExpr::ArgWord(1, 16), KeyExpr::Arg(2)]);
    assert_eq!(queue.give.moment, Moment::Enter);
    assert_eq!(queue.take.key, [KeyExpr::ArgWord(1, -8), KeyExpr::Arg(2)]);
    assert_eq!(queue.take.moment, Moment::Enter);
    assert_eq!(queue.take.selector.object.as_deref(), Some("libengine.so"));
    assert_eq!(queue.until.as_ref().unwrap().key, [KeyExpr::Arg(1), KeyExpr::Arg(2)]);
    assert_eq!((queue.takes, queue.scope), (Takes::Any, Scope::Target));
    assert_eq!(queue.span.as_deref(), Some("wait"));
    assert_eq!(queue.line, 31);
}

#[test]
fn what_is_left_out_has_its_default() {
    let map = parse(&with(
        "[[handoff]]\nname = \"h\"\ngive = { function = \"f\", key = \"arg(1)\" }\ntake = { function = \"g\", key = \"arg(1)\" }\n",
    ))
    .unwrap();
    assert_eq!(map.description, "");
    assert_eq!(map.orphans, OrphanPolicy::Drop);
    assert_eq!(map.matching, None);
    let handoff = map.handoffs.first().unwrap();
    assert_eq!((handoff.takes, handoff.scope), (Takes::Times(1), Scope::Process));
    assert_eq!(handoff.span, None);
}

#[test]
fn an_unknown_field_names_the_nearest() {
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfucntion = \"f\"\n"),
        "fucntion",
        &["unknown field `fucntion`", "did you mean `function`?", "`linkage`", "`required`"],
    );
    assert_refused(&with("[span.attributes]\n\"a\" = \"b\"\n"), "attributes", &["unknown field"]);
    assert_refused("version = 1\nname = \"m\"\nsystm = \"s\"\n", "systm", &["`system`?"]);
    assert_refused(
        &with("[[handoff]]\nname = \"h\"\ngiv = { function = \"f\", key = \"ret\" }\n"),
        "giv ",
        &["did you mean `give`?"],
    );
    assert_refused(
        &with("[[handoff]]\nname = \"h\"\ngive = { function = \"f\", keys = \"ret\" }\n"),
        "keys",
        &["did you mean `key`?"],
    );
}

#[test]
fn an_unknown_value_names_the_nearest() {
    assert_refused(
        &format!("orphans = \"kep\"\n{}", with("")),
        "\"kep\"",
        &["did you mean `keep`?", "`drop`"],
    );
}

#[test]
fn the_version_is_checked_before_anything_else() {
    assert_refused("version = 2\nfuture = 1\n", "2", &["version 2", "reads `version = 1`"]);
    assert_refused("name = \"x\"\n", "name", &["does not say its version", "version = 1"]);
    assert_refused("version = \"1\"\n", "\"1\"", &["invalid type"]);
}

#[test]
fn broken_toml_names_the_place() {
    for (text, at) in [
        ("version = 1\nname = \"x\n", "2:10"),
        ("version = 1\n version = 1\n", "2:2"),
        ("version = 1\n[[span]\n", "2:8"),
        ("version = 1\nname = m\n", "2:8"),
    ] {
        assert_eq!(refused(text).1, at, "{text}");
    }
}

#[test]
fn a_missing_field_is_named() {
    assert_refused(
        "version = 1\nsystem = \"s\"\n",
        "version",
        &["missing field `name`", "add name"],
    );
    assert_refused(
        &with("[[span]]\nfunction = \"g\"\n"),
        "[[span]]\nfunction",
        &["missing field `name`"],
    );
    assert_refused(
        &with("[[handoff]]\nname = \"h\"\ngive = { function = \"f\", key = \"ret\" }\n"),
        "[[handoff]]",
        &["missing field `take`", "a hand-off has two sides: add take = {"],
    );
    assert_refused(
        &with("[[handoff]]\nname = \"h\"\ntake = { function = \"f\", key = \"ret\" }\n"),
        "[[handoff]]",
        &["missing field `give`", "a hand-off has two sides"],
    );
}

#[test]
fn single_brackets_are_explained() {
    assert_refused(
        "version = 1\nname = \"m\"\nsystem = \"s\"\n[span]\nname = \"x\"\n",
        "[span]",
        &["`[[span]]`"],
    );
}

#[test]
fn a_map_needs_spans_and_a_root() {
    assert_refused(
        "version = 1\nname = \"m\"\nsystem = \"s\"\n",
        "\"m\"",
        &["declares no spans", "[[span]]"],
    );
    let rootless =
        "version = 1\nname = \"m\"\nsystem = \"s\"\n[[span]]\nname = \"x\"\nfunction = \"f\"\n";
    assert_refused(rootless, "\"x\"", &["no span is a root", "root = true", "orphans = \"keep\""]);
    assert!(parse(&format!("orphans = \"keep\"\n{rootless}")).is_ok());
}

#[test]
fn a_selector_is_exactly_one() {
    assert_refused(
        &with("[[span]]\nname = \"x\"\n"),
        "[[span]]\nname = \"x\"",
        &["names no function", "exactly one of"],
    );
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"f\"\naddress = 0x10\n"),
        "0x10",
        &["chosen in two ways"],
    );
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"f\"\nlinkage = \"_Zf\"\n"),
        "\"_Zf\"",
        &["chosen in two ways"],
    );
    assert_refused(&with("[[span]]\nname = \"x\"\naddress = -1\n"), "-1", &["no address"]);
    assert_refused(&with("[[span]]\nname = \"x\"\naddress = 0\n"), "0\n", &["no address"]);
    assert_refused(
        &with("[[span]]\nname = \"x\"\nlinkage = \"a b\"\n"),
        "\"a b\"",
        &["`function`"],
    );
}

#[test]
fn bad_globs_are_refused() {
    for (glob, says) in [
        ("", "is empty"),
        (" f", "blanks"),
        ("*", "matches everything"),
        ("*?*", "matches everything"),
        ("_ZN6milvus6SearchEv", "linkage = \"_ZN6milvus6SearchEv\""),
        ("_RNvC5serve3run", "linkage = "),
        ("a::Search(int", "has no end"),
    ] {
        let typed = format!("\"{glob}\"");
        let text = with(&format!("[[span]]\nname = \"x\"\nfunction = {typed}\n"));
        assert_refused(&text, &typed, &[says]);
    }
    let text = with("[[span]]\nname = \"x\"\nfunction = 'a\\.b'\n");
    assert_refused(&text, "\\.b", &["no escapes"]);
    let text = with("[match]\nobject = \"*\"\n");
    assert_refused(&text, "\"*\"", &["matches everything"]);
    for glob in [
        "a::Search(int, *",
        "(anonymous namespace)::f",
        "operator()",
        "operator<",
        "main.(*Server).Search",
    ] {
        assert!(parse(&with(&format!("[[span]]\nname = \"x\"\nfunction = \"{glob}\"\n"))).is_ok());
    }
}

#[test]
fn names_and_stages_are_checked() {
    assert_refused(&with("[[span]]\nname = \"\"\nfunction = \"g\"\n"), "\"\"", &["is empty"]);
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"g\"\nstage = \"Io wait\"\n"),
        "\"Io wait\"",
        &["cannot name a stage", "lower-case"],
    );
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"g\"\nstage = \"io-wait\"\n"),
        "\"io-wait\"",
        &["cannot name a stage"],
    );
    assert!(parse(&with("").replace("\"s\"", "\"microsoft.sql_server\"")).is_ok());
    assert_refused(
        &with("").replace("\"m\"", "\"my/map\""),
        "\"my/map\"",
        &["cannot name a symbol map"],
    );
    assert_refused(&with("").replace("\"s\"", "\"My SQL\""), "\"My SQL\"", &["lower case"]);
    assert_refused(
        &with("[[span]]\nname = \"a\\u0007\"\nfunction = \"g\"\n"),
        "\"a\\u0007\"",
        &["control character"],
    );
}

#[test]
fn an_operation_belongs_to_a_root() {
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"g\"\noperation = \"op\"\n"),
        "\"op\"",
        &["no root", "root = true"],
    );
}

#[test]
fn one_function_is_one_span() {
    assert_refused(
        &with("[[span]]\nname = \"x\"\nfunction = \"f\"\n"),
        "[[span]]\nname = \"x\"",
        &["a span already, on line 4"],
    );
    assert!(
        parse(&with("[[span]]\nname = \"x\"\nfunction = \"f\"\nobject = \"lib.so\"\n")).is_ok(),
        "the same name in another object is another function"
    );
}

fn handoff(give: &str, take: &str, more: &str) -> String {
    with(&format!(
        "[[handoff]]\nname = \"h\"\ngive = {{ function = \"g\", key = {give} }}\ntake = {{ function = \"t\", key = {take} }}\n{more}"
    ))
}

#[test]
fn handoff_names_are_unique() {
    let one = handoff("\"ret\"", "\"arg(1)\"", "");
    let two = one.split_once("[[handoff]]").unwrap().1.replace("\"h\"", "\"h\"  # again");
    assert_refused(
        &format!("{one}[[handoff]]{two}"),
        "\"h\"  # again",
        &["declared already, on line 8"],
    );
}

#[test]
fn keys_are_checked() {
    assert_refused(
        &handoff("\"arg(1)\"", "\"argh(1)\"", ""),
        "argh(1)",
        &["unexpected `argh`", "arg(N)"],
    );
    assert_refused(&handoff("\"arg(1)\"", "\"  arg(12)\"", ""), "12)", &["no argument 12"]);
    assert_refused(&handoff("[\"ret\", \"*(ret+x)\"]", "\"ret\"", ""), "x)", &["OFF is"]);
    assert_refused(
        &handoff("\"\\u0061rg(0)\"", "\"ret\"", ""),
        "\"\\u0061rg(0)\"",
        &["no argument 0"],
    );
    assert_refused(
        &handoff("[\"arg(1)\", \"ret\"]", "[\"arg(1)\", \"arg(2)\"]", ""),
        "\"ret\"",
        &["mixes arguments with the return value"],
    );
    assert_refused(
        &handoff("[\"arg(1)\", \"arg(3)\"]", "\"arg(2)\"", ""),
        "\"arg(2)\"",
        &["the giver's key has 2 words, the taker's 1 word"],
    );
    let until = "until = { function = \"u\", key = [\"arg(1)\", \"arg(3)\"] }\n";
    assert_refused(
        &handoff("\"arg(1)\"", "\"arg(2)\"", until),
        "[\"arg(1)\", \"arg(3)\"]",
        &["the giver's key has 1 word, that of `until` 2 words"],
    );
    assert_refused(&handoff("\"arg(1)\"", "\"ret\"", ""), "\"ret\"", &["it has ended by then"]);
    assert_refused(&handoff("[]", "\"ret\"", ""), "[]", &["0 words", "1 to 8"]);
    let nine = format!("[{}]", ["\"ret\""; 9].join(", "));
    assert_refused(&handoff(&nine, "\"ret\"", ""), &nine, &["9 words"]);
    assert_refused(&handoff("5", "\"ret\"", ""), "5 }", &["key expression"]);
    assert_refused(&handoff("[1]", "\"ret\"", ""), "1]", &["expected a string"]);
}

#[test]
fn takes_is_a_number_or_any() {
    for (typed, takes) in [("3", Takes::Times(3)), ("\"any\"", Takes::Any)] {
        let map = parse(&handoff("\"ret\"", "\"arg(1)\"", &format!("takes = {typed}\n"))).unwrap();
        assert_eq!(map.handoffs.first().unwrap().takes, takes);
    }
    for typed in ["0", "-1", "\"all\"", "4294967296", "1.5"] {
        let text = handoff("\"ret\"", "\"ret\"", &format!("takes = {typed}\n"));
        assert_refused(&text, &format!("{typed}\n"), &["\"any\""]);
    }
}

#[test]
fn versions_and_builds_must_agree() {
    let with = |fields: &str| with(&format!("[match]\nobject = \"*/e\"\n{fields}\n"));
    for (fields, place, says) in [
        ("versions = \"2.5\"", "\"2.5\"", ">=2.5, <2.6"),
        ("builds = { zz = \"2.5\" }", "\"2.5\"", "hexadecimal"),
        ("builds = { 0102030405060708 = \"v2\" }", "\"v2\"", "numbers with dots"),
        (
            "versions = \"<2\"\nbuilds = { 0102030405060708 = \"2.5\" }",
            "\"2.5\"",
            "outside of `versions`",
        ),
    ] {
        assert_refused(&with(fields), place, &[says]);
    }
}

#[test]
fn every_built_in_map_is_valid_and_has_the_name_it_is_listed_by() {
    for built_in in built_in() {
        let map = built_in.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(map.name, built_in.name);
        assert_ne!(map.description, "");
        assert!(map.matching.is_some());
        assert_eq!(load_map(built_in.name, &[]).unwrap().map, map);
    }
}

#[test]
fn a_map_is_a_built_in_name_or_a_path() {
    let error = load_map("milvus-light", &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean `milvus-lite`?"), "{error}");
    let error = load_map("zzz", &[]).unwrap_err().to_string();
    assert!(
        error.contains("duckdb") && error.contains("milvus-lite") && !error.contains("mean"),
        "{error}"
    );
    let error = load_map("./none", &[]).unwrap_err().to_string();
    assert!(error.contains("cannot read the symbol map ./none"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own.toml");
    std::fs::write(&path, WHOLE).unwrap();
    let map = load_map(path.to_str().unwrap(), &[]).unwrap().map;
    assert_eq!(map.origin, MapOrigin::File(path));
}

#[test]
fn several_maps_become_one() {
    let first = parse(&with("")).unwrap();
    let second = parse(WHOLE).unwrap();
    let mut same_function = parse(&with("").replace("\"m\"", "\"n\"")).unwrap();
    same_function.spans[0].name = "other".into();

    let merged = merge(vec![first.clone(), second.clone(), same_function]).unwrap();
    assert_eq!(merged.name, "m+engine+n");
    assert_eq!(merged.system, "s");
    assert_eq!(merged.orphans, OrphanPolicy::Keep);
    let names: Vec<_> = merged.spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["r", "request", "scan", "scan"], "the earlier map holds");
    assert_eq!(merged.handoffs, second.handoffs);

    assert_eq!(merge(vec![first.clone()]).unwrap(), first);
    assert!(matches!(merge(vec![]), Err(MapError::NoMap)));
    assert!(matches!(merge(vec![first.clone(), first.clone()]), Err(MapError::MapTwice { .. })));
    let mut renamed = second.clone();
    renamed.name = "engine2".into();
    let error = merge(vec![first, second, renamed]).unwrap_err();
    let MapError::HandoffTwice { first, second, handoff } = error else { panic!("{error}") };
    assert_eq!((&*first, &*second, &*handoff), ("engine", "engine2", "queue"));
}

#[test]
fn the_schema_knows_the_fields_and_what_they_mean() {
    let schema = schema();
    let fields = schema.pointer("/properties").unwrap().as_object().unwrap();
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    for name in ["version", "name", "description", "system", "orphans", "match", "span", "handoff"]
    {
        assert!(names.contains(&name), "{name} in {names:?}");
        assert!(fields[name].pointer("/description").is_some(), "{name}: {}", fields[name]);
    }
    assert_eq!(schema.pointer("/additionalProperties"), Some(&serde_json::Value::Bool(false)));
    assert!(!schema.to_string().contains("Spanned"));
}

proptest! {
    /// Whatever a slip of the keyboard makes of a map, the answer is a map or an error.
    #[test]
    fn no_text_panics(at in 0..WHOLE.len(), cut in 0_usize..12, typed in "\\PC{0,6}") {
        let mut text: Vec<char> = WHOLE.chars().collect();
        text.splice(at..(at + cut).min(text.len()), typed.chars());
        let text: String = text.into_iter().collect();
        if let Err(error) = parse(&text) {
            prop_assert!(error.to_string().contains("--> my.toml:"));
        }
    }
}
