//! Whole plans: from a map and what was found to probes, rules and reasons.

use std::collections::HashSet;

use profiler_common::{Capture, Cookie, MAX_PROBES, MAX_WORDS, Role, Source};

use super::fixtures;
use super::*;
use crate::config::{
    EndDecl, HandoffDecl, KeyExpr, MapOrigin, Select, Selector, SpanDecl, SymbolMap,
};
use crate::model::{Moment, OrphanPolicy, Pid, Scope, Takes};
use crate::plan::{PlanError, PlannedProbe, ProbePlan, build, selectors};
use crate::symbols::{Found, Nothing};
use crate::target::{MappedObject, Target};

/// `push rbx; pop rbx; ret`: a function with one enter and one exit.
pub(super) const PLAIN: &str = "53 5b c3";

pub(super) fn select(pattern: &str) -> Selector {
    Selector { select: Select::Function(pattern.to_owned()), object: None }
}

pub(super) fn span(name: &str) -> SpanDecl {
    SpanDecl {
        name: name.into(),
        selector: select(name),
        root: false,
        stage: None,
        system: "sys".into(),
        operation: None,
        required: false,
        only_in_trace: false,
        fold: false,
        context: None,
        line: 7,
    }
}

fn required(name: &str) -> SpanDecl {
    SpanDecl { required: true, ..span(name) }
}

pub(super) fn enters(key: &[KeyExpr]) -> EndDecl {
    EndDecl { selector: select("enters"), key: key.to_vec(), moment: Moment::Enter }
}

fn returns(key: &[KeyExpr]) -> EndDecl {
    EndDecl { moment: Moment::Exit, ..enters(key) }
}

pub(super) fn handoff(name: &str, give: EndDecl, take: EndDecl) -> HandoffDecl {
    let (takes, scope) = (Takes::Times(1), Scope::Process);
    HandoffDecl { name: name.into(), give, take, until: None, takes, scope, span: None, line: 9 }
}

pub(super) fn map(spans: Vec<SpanDecl>, handoffs: Vec<HandoffDecl>) -> SymbolMap {
    SymbolMap {
        name: "test".to_owned(),
        origin: MapOrigin::BuiltIn,
        system: "sys".to_owned(),
        description: String::new(),
        orphans: OrphanPolicy::Keep,
        matching: None,
        spans,
        handoffs,
    }
}

pub(super) fn found(functions: &[&Function]) -> Found {
    Found { functions: functions.iter().map(|f| (*f).clone()).collect(), nothing: None }
}

fn nothing(why: Nothing) -> Found {
    Found { functions: Vec::new(), nothing: Some(why) }
}

/// Plans with `all` the functions there are.
fn plan_in(map: &SymbolMap, found: &[Found], all: &[Function]) -> Result<ProbePlan, PlanError> {
    let object = MappedObject {
        path: "/opt/server".into(),
        open_path: "/opt/server".into(),
        inode: (1, 2),
        file: (1, 2),
    };
    let target = Target {
        pid: Pid(1),
        name: "server".to_owned(),
        objects: vec![object],
        passed_over: vec![],
    };
    let lookup = |object: ObjectId, address: VirtAddr| {
        all.iter().find(|f| f.object == object && f.code.address == address).cloned()
    };
    let plan = build(map, &target, found, &lookup, KernelForms::default())?;
    let mut seen = HashSet::new();
    for (index, probe) in plan.probes.iter().enumerate() {
        assert_eq!(probe.id.index(), index);
        assert!(probe.sites.iter().any(|site| site.role == Role::Enter));
        for site in &probe.sites {
            assert!(seen.insert((site.object, site.offset, site.role)), "two sites on one");
            assert_eq!(site.offset.0, site.address.0 + BIAS);
        }
    }
    assert_eq!(plan.probes.len(), plan.rules.probes.len());
    Ok(plan)
}

pub(super) fn plan(map: &SymbolMap, found: &[Found]) -> Result<ProbePlan, PlanError> {
    let all: Vec<Function> = found.iter().flat_map(|f| f.functions.clone()).collect();
    plan_in(map, found, &all)
}

/// Where the sites of a role are, and their flags but for one that nearly all enters have.
pub(super) fn sites(probe: &PlannedProbe, role: Role) -> Vec<(u64, u16)> {
    let of_role = probe.sites.iter().filter(|site| site.role == role);
    of_role.map(|site| (site.address.0, site.flags & !Cookie::KEEPS_FRAME_POINTER)).collect()
}

pub(super) fn captures(probe: &PlannedProbe, role: Role) -> &[Capture] {
    let program = if role == Role::Enter { &probe.at_enter } else { &probe.at_ret };
    &program.captures[..usize::from(program.len)]
}

fn has_note(probe: &PlannedProbe, text: &str) -> bool {
    probe.notes.iter().any(|note| note.contains(text))
}

#[test]
fn selectors_come_spans_first_then_both_sides_of_each_handoff() {
    let side = |name: &str| EndDecl { selector: select(name), ..enters(&[]) };
    let map = map(
        vec![span("a"), span("b")],
        vec![
            HandoffDecl { until: Some(side("u")), ..handoff("x", side("c"), side("d")) },
            handoff("y", side("e"), side("f")),
        ],
    );
    let patterns: Vec<_> = selectors(&map).iter().map(|s| s.select.clone()).collect();
    let expected =
        ["a", "b", "c", "d", "u", "e", "f"].map(|name| Select::Function(name.to_owned()));
    assert_eq!(patterns, expected);
    assert!(matches!(plan(&map, &[]), Err(PlanError::Unusable { .. })));
}

#[test]
fn a_function_is_one_probe_however_many_copies_it_has() {
    let (a, b) = (hex("f", 0x1000, PLAIN), hex("f", 0x2000, PLAIN));
    let vex = hex("f", 0x3000, "c5f877 c3");
    let plan = plan(&map(vec![span("s")], vec![]), &[found(&[&a, &b, &a, &vex])]).unwrap();
    let [probe] = plan.probes.as_slice() else { panic!("{:?}", plan.probes) };
    assert_eq!(&*probe.function, "f()");
    assert_eq!(probe.span.as_deref(), Some("s"));
    assert_eq!(probe.copies, 2);
    assert_eq!(sites(probe, Role::Enter), [(0x1000, 0), (0x2000, 0)]);
    assert_eq!(sites(probe, Role::Ret), [(0x1002, 0), (0x2002, 0)]);
    assert_eq!(probe.sites[0].instruction, "push rbx");
    assert!(has_note(probe, "the copy at 0x3000 is not probed: no instruction at its start"));
    let [rule] = plan.rules.probes.as_slice() else { panic!("{:?}", plan.rules) };
    assert_eq!((&*rule.function, &*rule.object, rule.span), ("f", "server", Some(0)));
    assert_eq!((&*plan.rules.map, &*plan.rules.spans[0].system), ("test", "sys"));
    assert_eq!(plan.rules.orphans, OrphanPolicy::Keep);
}

#[test]
fn the_same_name_in_two_objects_is_two_probes() {
    let a = hex("f", 0x1000, PLAIN);
    let b = Function { object: ObjectId(1), ..a.clone() };
    let plan = plan(&map(vec![span("s")], vec![]), &[found(&[&a, &b])]).unwrap();
    let objects: Vec<_> = plan.probes.iter().map(|probe| probe.object).collect();
    assert_eq!(objects, [ObjectId(0), ObjectId(1)]);
}

#[test]
fn spans_and_handoffs_on_one_function_share_its_captures() {
    use KeyExpr::{Arg, ArgWord, Ret};
    let (f, g) = (hex("f", 0x1000, PLAIN), hex("g", 0x2000, PLAIN));
    let map = map(
        vec![span("s")],
        vec![
            handoff("one", enters(&[Arg(2), ArgWord(1, 8)]), enters(&[Arg(1), Arg(2)])),
            handoff("two", returns(&[Ret]), enters(&[ArgWord(1, 8)])),
            handoff("three", enters(&[ArgWord(1, 8)]), enters(&[Arg(2)])),
        ],
    );
    let (f, g) = (found(&[&f]), found(&[&g]));
    let plan = plan(&map, &[f.clone(), f.clone(), g.clone(), f.clone(), g.clone(), f, g]).unwrap();
    let [f, g] = plan.probes.as_slice() else { panic!("{:?}", plan.probes) };
    let (second, word) = (Capture::register(Source::Rsi), Capture::word_at(Source::Rdi, 8));
    assert_eq!(captures(f, Role::Enter), [second, word]);
    assert_eq!(captures(f, Role::Ret), [Capture::register(Source::RET)]);
    assert_eq!(captures(g, Role::Enter), [Capture::register(Source::Rdi), second, word]);
    assert_eq!(captures(g, Role::Ret), []);
    let enter = Cookie::HAS_CAPTURE | Cookie::WANTS_VALUE;
    assert_eq!(sites(f, Role::Enter), [(0x1000, enter)]);
    assert_eq!(sites(f, Role::Ret), [(0x1002, Cookie::HAS_CAPTURE)]);
    assert_eq!(sites(g, Role::Ret), [(0x2002, 0)]);
    assert_eq!(g.span, None);
    let ends: Vec<_> =
        plan.rules.handoffs.iter().map(|h| (&h.give.probes, &h.take.probes)).collect();
    assert_eq!(ends[0], (&vec![(0, vec![0, 1])], &vec![(1, vec![0, 1])]));
    assert_eq!(ends[1], (&vec![(0, vec![0])], &vec![(1, vec![2])]));
    assert_eq!(ends[2], (&vec![(0, vec![1])], &vec![(1, vec![1])]));
    assert_eq!(plan.rules.handoffs[1].give.moment, Moment::Exit);
}

#[test]
fn the_first_span_that_matches_wins() {
    let (f, g) = (hex("f", 0x1000, PLAIN), hex("g", 0x2000, PLAIN));
    let map = map(vec![span("narrow"), span("wide")], vec![]);
    let plan = plan(&map, &[found(&[&f]), found(&[&f, &g])]).unwrap();
    let spans: Vec<_> = plan.probes.iter().map(|probe| probe.span.as_deref()).collect();
    assert_eq!(spans, [Some("narrow"), Some("wide")]);
    let [skipped] = plan.skipped.as_slice() else { panic!("{:?}", plan.skipped) };
    assert_eq!((&*skipped.wanted_by, &*skipped.what), ("span `wide`", "f()"));
    assert!(skipped.why.contains("it is span `narrow` already"));
}

#[test]
fn every_required_span_that_is_missing_is_named() {
    let f = hex("f", 0x1000, PLAIN);
    let lone = hex("lone", 0x2000, "c3");
    let map = map(
        vec![span("s"), required("gone"), required("stripped"), required("lone"), span("opt")],
        vec![],
    );
    let found = [
        found(&[&f]),
        nothing(Nothing::NoName(vec!["gone2".to_owned(), "gene".to_owned()])),
        nothing(Nothing::Stripped(vec!["server".to_owned()])),
        found(&[&lone]),
        nothing(Nothing::NoName(vec![])),
    ];
    let error = plan(&map, &found).unwrap_err();
    let PlanError::Required { missing, .. } = &error else { panic!("{error}") };
    let names: Vec<_> = missing.iter().map(|m| &*m.span).collect();
    assert_eq!(names, ["gone", "stripped", "lone"]);
    let text = error.to_string();
    for part in [
        "span `gone` (line 7, `gone`): no function has this name",
        "inlined away; the nearest are gone2, gene",
        "stripped of function symbols (server)",
        "lone() at 0x2000: it consists of a single return instruction",
        "required = false",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_optional_and_missing_is_skipped() {
    let f = hex("f", 0x1000, PLAIN);
    let map = map(vec![span("a"), span("b"), span("c"), span("d"), span("e")], vec![]);
    let found = [
        nothing(Nothing::NoObject(vec!["server".to_owned(), "libc.so.6".to_owned()])),
        nothing(Nothing::NoCode(vec!["b".to_owned()])),
        nothing(Nothing::NoAddress(VirtAddr(0x99))),
        nothing(Nothing::NoName(vec![])),
        found(&[&f]),
    ];
    let plan = plan(&map, &found).unwrap();
    assert_eq!(plan.probes.len(), 1);
    assert_eq!(plan.rules.probes[0].span, Some(4), "by its place in the map");
    assert_eq!(plan.rules.spans.len(), 5);
    let why: Vec<_> = plan.skipped.iter().map(|skipped| &*skipped.why).collect();
    assert!(why[0].contains("mapped are: server, libc.so.6"), "{why:?}");
    assert!(why[1].contains("inlined away or imported"), "{why:?}");
    assert!(why[2].contains("0x99 lies in no function"), "{why:?}");
    assert!(why[3].contains("no function has this name"), "{why:?}");
}

#[test]
fn a_handoff_with_one_side_probes_neither() {
    let (f, g) = (hex("f", 0x1000, PLAIN), hex("g", 0x2000, PLAIN));
    let key = [KeyExpr::Arg(1)];
    let map = map(vec![span("s")], vec![handoff("h", enters(&key), enters(&key))]);
    let gone = nothing(Nothing::NoName(vec![]));
    let plan = plan(&map, &[found(&[&f]), found(&[&g]), gone]).unwrap();
    assert_eq!(plan.probes.len(), 1, "g is not wanted for anything else");
    assert!(plan.rules.handoffs.is_empty());
    let [side, whole] = plan.skipped.as_slice() else { panic!("{:?}", plan.skipped) };
    assert_eq!(side.wanted_by, "hand-off `h` (take)");
    assert_eq!((&*whole.wanted_by, whole.line), ("hand-off `h`", 9));
    assert!(whole.why.starts_with("its take side can"), "{}", whole.why);
}

#[test]
fn a_key_may_have_a_call_that_ends_it() {
    let [f, g, u] =
        [("f", 0x1000), ("g", 0x2000), ("u", 0x3000)].map(|(name, at)| hex(name, at, PLAIN));
    let key = [KeyExpr::Arg(1)];
    let first = HandoffDecl {
        until: Some(enters(&[KeyExpr::Arg(2)])),
        ..handoff("h", enters(&key), enters(&key))
    };
    let map = map(vec![span("s")], vec![first, handoff("i", enters(&key), enters(&key))]);
    let gone = nothing(Nothing::NoName(vec![]));
    for (until, expected) in [(found(&[&u]), Some(vec![(2, vec![0])])), (gone, None)] {
        let [f, g] = [&f, &g].map(|function| found(&[function]));
        let found = [f.clone(), f.clone(), g.clone(), until, f, g];
        let plan = plan(&map, &found).unwrap();
        // Where it is not found the hand-off works while its giver's trace lives.
        assert_eq!(plan.rules.handoffs.len(), 2);
        let ends = plan.rules.handoffs[0].until.as_ref().map(|end| end.probes.clone());
        assert_eq!(ends, expected);
        assert_eq!(plan.skipped.len(), usize::from(expected.is_none()));
        assert!(plan.skipped.iter().all(|skipped| skipped.wanted_by == "hand-off `h` (until)"));
        assert_eq!(plan.rules.handoffs[1].until, None);
    }
}

#[test]
fn a_key_that_is_overwritten_is_skipped_but_the_span_stays() {
    // vzeroupper; mov edi, eax; push rbx; pop rbx; ret
    let f = hex("f", 0x1000, "0fa2 53 5b c3");
    let g = hex("g", 0x2000, PLAIN);
    let map = map(
        vec![span("s")],
        vec![handoff("h", enters(&[KeyExpr::Arg(4)]), enters(&[KeyExpr::Arg(1)]))],
    );
    let plan = plan(&map, &[found(&[&f]), found(&[&f]), found(&[&g])]).unwrap();
    assert_eq!(plan.probes.len(), 1);
    assert_eq!(captures(&plan.probes[0], Role::Enter), []);
    assert!(plan.skipped[0].why.contains("its key is overwritten"), "{:?}", plan.skipped);
}

#[test]
fn with_nothing_to_probe_there_is_no_plan() {
    let map = map(vec![span("s")], vec![]);
    let error = plan(&map, &[nothing(Nothing::Stripped(vec!["server".to_owned()]))]).unwrap_err();
    let PlanError::Nothing { skipped, .. } = &error else { panic!("{error}") };
    assert_eq!(skipped.len(), 1);
    assert!(
        error.to_string().contains("span `s` (line 7, `s`): stripped of function symbols (server)"),
        "{error}"
    );
}

#[test]
fn folded_functions_are_one_probe_and_say_so() {
    let (f, g, h) = (hex("f", 0x1000, PLAIN), hex("g", 0x1000, PLAIN), hex("h", 0x2000, PLAIN));
    let key = [KeyExpr::Arg(1)];
    let map = map(vec![span("s")], vec![handoff("x", enters(&key), enters(&key))]);
    let plan = plan(&map, &[found(&[&f]), found(&[&g]), found(&[&h])]).unwrap();
    let [probe, _] = plan.probes.as_slice() else { panic!("{:?}", plan.probes) };
    assert_eq!(&*probe.function, "f()");
    assert!(has_note(probe, "`g()` is the same code at 0x1000"), "{:?}", probe.notes);
    assert_eq!(plan.rules.handoffs[0].give.probes, [(0, vec![0])], "the code gives, not the name");
}

#[test]
fn a_name_nobody_asked_for_on_the_same_code_is_told() {
    let (f, other) = (hex("f", 0x1000, PLAIN), hex("other", 0x1000, PLAIN));
    let plan = plan_in(&map(vec![span("s")], vec![]), &[found(&[&f])], &[other]).unwrap();
    assert!(has_note(&plan.probes[0], "`other()` is the same code"));
}

#[test]
fn a_tail_call_ends_at_the_returns_of_its_target() {
    let (tail, callee) = (function("tail", &fixtures::TAIL), function("callee", &fixtures::CALLEE));
    let chain = function("chain", &fixtures::CHAIN);
    let all = [tail.clone(), callee, chain.clone()];
    let map = map(vec![span("s")], vec![]);

    let alone = plan_in(&map, &[found(&[&tail])], &all).unwrap();
    let shared = [(0x40_1207, 0), (0x40_121c, 0)];
    let own = (0x40_123a, 0);
    assert_eq!(sites(&alone.probes[0], Role::Enter), [(0x40_1223, 0)]);
    assert_eq!(sites(&alone.probes[0], Role::Ret), [own, shared[0], shared[1]]);
    let note = "leaves through `callee`: ends at its returns, which all its calls pay for";
    assert_eq!(alone.probes[0].notes, [note]);

    // Two that leave through it: its returns are watched once.
    let both = plan_in(&map, &[found(&[&tail, &chain])], &all).unwrap();
    let [tail, chain] = both.probes.as_slice() else { panic!("{:?}", both.probes) };
    assert_eq!(sites(tail, Role::Ret), [own, shared[0], shared[1]]);
    assert_eq!(sites(chain, Role::Ret), []);
    assert_eq!(sites(chain, Role::Enter), [(0x40_1240, 0)]);
    assert_eq!(chain.notes, [note]);
}

#[test]
fn a_tail_call_into_a_probed_function_needs_no_sites_of_its_own() {
    let (tail, callee) = (function("tail", &fixtures::TAIL), function("callee", &fixtures::CALLEE));
    let taker = hex("taker", 0x9000, PLAIN);
    let map = map(
        vec![span("tail"), span("callee")],
        vec![handoff("h", returns(&[KeyExpr::Ret]), enters(&[KeyExpr::Arg(1)]))],
    );
    // `tail` gives what it returns: on one way out it is `callee` that returns it.
    let found = [found(&[&tail]), found(&[&callee]), found(&[&tail]), found(&[&taker])];
    let plan = plan(&map, &found).unwrap();
    let [tail, callee, _] = plan.probes.as_slice() else { panic!("{:?}", plan.probes) };
    let capture = Cookie::HAS_CAPTURE;
    assert_eq!(sites(tail, Role::Enter), [(0x40_1223, Cookie::WANTS_VALUE)]);
    assert_eq!(sites(tail, Role::Ret), [(0x40_123a, capture)]);
    assert_eq!(sites(callee, Role::Ret), [(0x40_1207, capture), (0x40_121c, capture)]);
    assert_eq!(captures(tail, Role::Ret), captures(callee, Role::Ret));
    assert_eq!(plan.rules.handoffs[0].give.probes, [(0, vec![0])]);
}

#[test]
fn tail_calls_that_cannot_be_followed_are_told() {
    let jump = |at: u64, to: u64| {
        let distance = i32::try_from(to.cast_signed() - (at + 5).cast_signed()).unwrap();
        [&[0xe9][..], &distance.to_le_bytes()].concat()
    };
    let s = map(vec![span("s")], vec![]);
    let leaves_to = |name: &str, all: &[Function]| {
        let f = raw("f", 0x1000, &jump(0x1000, 0x2000), &[]);
        let mut all = all.to_vec();
        all.push(raw(name, 0x2000, &bytes(PLAIN), &[]));
        plan_in(&s, &[found(&[&f])], &all).unwrap().probes.remove(0)
    };
    assert!(!has_note(&leaves_to("callee", &[]), "inferred"));
    let hot = leaves_to("operator delete", &[]);
    assert!(has_note(&hot, "leaves through `operator delete`, which runs too often"));
    assert!(has_note(&hot, "its end is inferred"));

    let f = raw("f", 0x1000, &jump(0x1000, 0x2001), &[]);
    let middle = plan_in(&s, &[found(&[&f])], &[hex("g", 0x2000, PLAIN)]).unwrap();
    assert!(has_note(&middle.probes[0], "jumps out to 0x2001, where no function starts"));
    assert!(has_note(&middle.probes[0], "has no return that can be seen"));

    let steps: Vec<Function> = (1_u64..8)
        .map(|n| raw(&format!("f{n}"), n * 0x1000, &jump(n * 0x1000, (n + 1) * 0x1000), &[]))
        .collect();
    let long = plan_in(&s, &[found(&[&steps[0]])], &steps).unwrap();
    assert!(has_note(&long.probes[0], "more than 4 tail calls in a row (at last to 0x6000)"));

    // push rbx; pop rbx; je f; ret, and back: mutual tail recursion ends at both returns.
    let f = raw(
        "f",
        0x1000,
        &[&bytes("53 5b 7405")[..], &bytes("c3 90 90 90 90"), &jump(0x1009, 0x2000)].concat(),
        &[],
    );
    let g = raw(
        "g",
        0x2000,
        &[&bytes("53 5b 7405")[..], &bytes("c3 90 90 90 90"), &jump(0x2009, 0x1000)].concat(),
        &[],
    );
    let plan = plan_in(&s, &[found(&[&f])], &[f.clone(), g]).unwrap();
    let rets = sites(&plan.probes[0], Role::Ret);
    assert_eq!(rets, [(0x1004, 0), (0x2004, 0)]);
    assert!(!has_note(&plan.probes[0], "inferred"), "{:?}", plan.probes[0].notes);

    let many = raw("g", 0x2000, &bytes(&"7401 c3 ".repeat(70)), &[]);
    let f = raw("f", 0x1000, &jump(0x1000, 0x2000), &[]);
    let plan = plan_in(&s, &[found(&[&f])], &[many]).unwrap();
    assert!(has_note(&plan.probes[0], "would make more than 64 exits"));
}

#[test]
fn a_function_that_does_not_return_keeps_its_enter() {
    let dies = function("die", &fixtures::NEVER_RETURNS);
    let plan = plan(&map(vec![span("s")], vec![]), &[found(&[&dies])]).unwrap();
    assert_eq!(plan.probes[0].sites.len(), 1);
    assert!(has_note(&plan.probes[0], "has no return that can be seen: its end is inferred"));
    // A key made of what it returns would never come.
    let map = map(
        vec![span("s")],
        vec![handoff("h", returns(&[KeyExpr::Ret]), enters(&[KeyExpr::Arg(1)]))],
    );
    let g = hex("g", 0x9000, PLAIN);
    let plan = super::build::plan(&map, &[found(&[&dies]), found(&[&dies]), found(&[&g])]).unwrap();
    assert!(plan.rules.handoffs.is_empty());
    assert!(plan.skipped[0].why.contains("none of its exits can be seen"));
}

#[test]
fn more_words_than_an_event_holds_are_refused() {
    let (f, g) = (hex("f", 0x1000, PLAIN), hex("g", 0x2000, PLAIN));
    let words = i32::try_from(MAX_WORDS).unwrap();
    let handoffs = |words: i32| {
        (0..words).map(|word| {
            handoff("h", enters(&[KeyExpr::ArgWord(1, 8 * word)]), enters(&[KeyExpr::Arg(1)]))
        })
    };
    let results = |words: i32| (0..words).flat_map(|_| [found(&[&f]), found(&[&g])]);
    let full: Vec<Found> = results(words).collect();
    assert!(plan(&map(vec![], handoffs(words).collect()), &full).is_ok());
    let over: Vec<Found> = results(words + 1).collect();
    let error = plan(&map(vec![], handoffs(words + 1).collect()), &over).unwrap_err();
    assert!(matches!(error, PlanError::TooManyWords { .. }));
    assert!(error.to_string().contains("`f()` (9 at its enter)"), "{error}");
}

#[test]
fn more_functions_than_probes_are_refused() {
    let functions: Vec<Function> = (0..=u64::from(MAX_PROBES))
        .map(|n| hex(&format!("f{n}"), 0x1000 + n * 16, PLAIN))
        .collect();
    let all: Vec<&Function> = functions.iter().collect();
    let map = map(vec![span("*")], vec![]);
    let error = build(
        &map,
        &Target { pid: Pid(1), name: String::new(), objects: vec![], passed_over: vec![] },
        &[found(&all)],
        &|_, _| None,
        KernelForms::default(),
    )
    .unwrap_err();
    assert!(matches!(error, PlanError::TooManyProbes { count: 8193, max: 8192, .. }));
    assert!(error.to_string().contains("`*` (8193)"), "{error}");
}

#[test]
fn keys_that_cannot_be_captured_are_refused() {
    use KeyExpr::{Arg, Ret};
    let f = found(&[&hex("f", 0x1000, PLAIN)]);
    for (end, part) in [
        (enters(&[Arg(7)]), "arg(7) is not in a register"),
        (enters(&[Arg(0)]), "arg(0) is not in a register"),
        (enters(&[Ret]), "`ret` is not there yet"),
        (returns(&[Arg(1)]), "arg(1) is gone"),
    ] {
        let map = map(vec![], vec![handoff("h", end, enters(&[Arg(1)]))]);
        let error = plan(&map, &[f.clone(), f.clone()]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_stack_offset_and_its_cookie() {
    let dies = function("die", &fixtures::NEVER_RETURNS);
    let plan = plan(&map(vec![span("s")], vec![]), &[found(&[&dies])]).unwrap();
    let (probe, site) = (&plan.probes[0], &plan.probes[0].sites[0]);
    assert_eq!(site.cost, CostClass::Emulated);
    let cookie = site.cookie(probe.id);
    assert_eq!((cookie.slot_offset(), cookie.probe()), (8, probe.id));
}
