//! Functions of Go: how their starts are told, what of Go's runtime is probed.

use profiler_common::{Capture, Cookie, Role, Source};

use super::build::{PLAIN, captures, enters, found, handoff, map, plan, sites, span};
use super::*;
use crate::config::KeyExpr;
use crate::plan::CostClass::{Emulated, SingleStepped};
use crate::plan::go_runtime::{GoPlace, spawns, starts};
use crate::plan::{NoLanding, Return, Stop};

const GO: &str = include_str!("go.txt");

fn go(name: &str, address: u64, code: &str) -> Function {
    Function { language: Language::Go, ..hex(name, address, code) }
}

fn of(code: &str) -> Result<Analysis, Refused> {
    analysed(&go("f", 0x1000, code))
}

/// A function of `go.txt`.
fn known(name: &str, release: &str) -> Function {
    let head = format!("== {name}, {release}, at 0x");
    let block = GO.split("\n\n").find(|block| block.starts_with(&head)).expect(name);
    let mut lines = block.lines();
    let address = lines.next().and_then(|line| line.strip_prefix(&head)).unwrap();
    let code: String = lines.take_while(|line| !line.contains(' ')).collect();
    go(name, u64::from_str_radix(address, 16).unwrap(), &code)
}

fn restarts(analysis: &Analysis) -> bool {
    analysis.enters.best(Needs::default()).unwrap().restarts
}

#[test]
fn the_last_jump_of_a_stack_check_is_the_enter() {
    // cmp rsp, [r14+0x10]; jbe +2; push rbp; … ; call; jmp back
    let small = of("493b6610 760c 55 4889e5 e8000f0000 90 5d c3 90 e8f00e0000 ebe6").unwrap();
    assert_eq!(enter(&small), (0x1004, 0, Emulated));
    assert!(restarts(&small));
    // Every argument is as it was, in each of the registers.
    let mut needs = Needs::default();
    for number in 1..=9 {
        needs.add(Capture::word_at(Source::go_word(number).unwrap(), 8));
    }
    let huge = analysed(&known("main.huge", "go1.18.10")).unwrap();
    assert_eq!(enter(&huge), (0x47_e3d4, 0, Emulated));
    assert_eq!(huge.enters.best(needs).unwrap().address, VirtAddr(0x47_e3d4));
    // By Go's older convention g is loaded first.
    let old = analysed(&known("runtime.call16", "go1.27.0")).unwrap();
    assert_eq!(enter(&old), (0x47_da4d, 0, Emulated));
    assert!(restarts(&old));
}

#[test]
fn a_start_without_a_stack_check_is_like_any_other() {
    // push rbp; mov rbp, rsp; pop rbp; ret
    let leaf = of("55 4889e5 5d c3").unwrap();
    assert_eq!(enter(&leaf), (0x1000, 0, Emulated));
    assert!(!restarts(&leaf));
    // xor eax, eax; ret
    assert_eq!(enter(&of("31c0 c3").unwrap()), (0x1000, 0, SingleStepped));
}

#[test]
fn what_leads_back_to_the_start_and_is_no_stack_check_is_refused() {
    let start = VirtAddr(0x1000);
    // inc rax; jmp back: a loop.
    assert_eq!(of("48ffc0 ebfb").unwrap_err(), Refused::LoopAtStart(start));
    // cmp rsp, [r14+0x10]; jbe; ret; inc rax; jmp back: nothing is called there.
    assert_eq!(of("493b6610 7601 c3 48ffc0 ebf4").unwrap_err(), Refused::LoopAtStart(start));
    // The same check, and besides a loop back to the start.
    let looped = "493b6610 7605 48ffc8 75f5 c3 e8f00e0000 ebed";
    assert_eq!(of(looped).unwrap_err(), Refused::LoopAtStart(start));
    // cmp rsp, [r14+0x10]; jb …: not the jump that is known.
    let other = "493b6610 7201 c3 e8f00e0000 ebf2";
    assert_eq!(of(other).unwrap_err(), Refused::StackCheck(start));
    // push rbp before the check.
    let late = "55 493b6610 7602 5d c3 e8f00e0000 ebf0";
    assert_eq!(of(late).unwrap_err(), Refused::StackCheck(start));
    // One that this kernel gets wrong.
    let forms = KernelForms::default().without(FormKind::JccShort);
    let check = go("f", 0x1000, "493b6610 7601 c3 e8f00e0000 ebf2");
    let refused = analyse(&check, &|_| false, forms).unwrap_err();
    assert!(matches!(refused, Refused::NoProbeAtStackCheck { at: VirtAddr(0x1004), .. }));
    // In C the same is a loop.
    let native = Function { language: Language::Native, ..check };
    assert_eq!(analysed(&native).unwrap_err(), Refused::LoopAtStart(start));
}

#[test]
fn labels_of_tables_are_code() {
    let switch = analysed(&known("internal/abi.(*Type).ExportedMethods", "go1.27.0")).unwrap();
    assert_eq!(rets(&switch).len(), 2);
    assert!(switch.notes.is_empty(), "{:?}", switch.notes);
    let large = analysed(&known("runtime.printpanicval", "go1.27.0")).unwrap();
    assert!(restarts(&large) && large.notes.is_empty(), "{:?}", large.notes);
    let path = analysed(&known("runtime.(*_type).pkgpath", "go1.20.14")).unwrap();
    assert!(restarts(&path) && path.notes.is_empty(), "{:?}", path.notes);
}

#[test]
fn a_jump_through_a_register_leaves_where_the_frame_is_gone() {
    // mov rcx, [rax+0x18]; mov rax, [rax+8]; jmp rcx: a method of an embedded interface.
    let wrapper = of("488b4818 488b4008 ffe1").unwrap();
    assert_eq!(wrapper.notes.len(), 1, "{:?}", wrapper.notes);
    // push rbp; jmp rcx; pop rbp; ret: inside.
    let inside = of("55 ffe1 5d c3").unwrap();
    assert!(inside.notes.is_empty(), "{:?}", inside.notes);
}

#[test]
fn a_goroutine_returns_to_behind_the_nop_of_goexit() {
    let goexit = known("runtime.goexit", "go1.27.0");
    let start = goexit.code.address;
    let plan = |function: &Function, at: u64| {
        at_return(function, VirtAddr(at), ReturnNeeds::Nothing, KernelForms::default()).first
    };
    let Return::Landing(site) = plan(&goexit, start.0 + 1) else { panic!("no landing") };
    assert_eq!((site.address.0, site.slot_offset, site.cost), (start.0 + 1, -8, Emulated));
    assert!(site.instruction.starts_with("call "), "{}", site.instruction);
    // Of anything else such an address is wrong.
    let native = Function { language: Language::Native, ..goexit };
    let wrong = Return::None(NoLanding::NotBehindCall(VirtAddr(start.0 + 1)));
    assert_eq!(plan(&native, start.0 + 1), wrong);
    let push = go("f", 0x1000, "90 55 5d c3");
    assert_eq!(plan(&push, 0x1001), Return::None(NoLanding::NotBehindCall(VirtAddr(0x1001))));
}

#[test]
fn a_landing_comes_while_the_goroutine_is_known() {
    let plan = |code: &str| {
        let function = go("f", 0x1000, code);
        at_return(&function, VirtAddr(0x1005), ReturnNeeds::Nothing, KernelForms::default())
    };
    // call; mov rbx, rax; mov r14, rbx; nop; ret
    let lost = plan("e800100000 4889c3 4989de 90 c3");
    assert_eq!(lost.stop.unwrap().why, Stop::LosesGoroutine);
    let Return::Landing(site) = lost.first else { panic!("no landing") };
    assert_eq!((site.address.0, site.cost), (0x1005, SingleStepped));
    // call; xorps xmm15, xmm15; mov r14, fs:[-8]; mov rbx, rax; ret: it is known from then on only.
    let loaded = plan("e800100000 450f57ff 644c8b3425f8ffffff 4889c3 4883c408 c3");
    assert_eq!(loaded.point.unwrap().address.0, 0x1012);
    // In C r14 is a register like others.
    let native = hex("f", 0x1000, "e800100000 4989de 90 c3");
    let plan = at_return(&native, VirtAddr(0x1005), ReturnNeeds::Nothing, KernelForms::default());
    let Return::Landing(site) = plan.first else { panic!("no landing") };
    assert_eq!(site.address.0, 0x1008);
}

#[test]
fn new_goroutines_are_in_a_register_behind_newproc1() {
    for (release, caller, newproc1, site, source) in [
        ("go1.18.10", "runtime.newproc.func1", 0x43_aa40, 0x43_aa00, Source::Rbx),
        ("go1.21.0", "runtime.newproc.func1", 0x43_b9e0, 0x43_b9b5, Source::Rbx),
        ("go1.27.0", "runtime.newproc.func1", 0x45_12c0, 0x47_4e60, Source::Rbx),
        ("go1.27.0", "runtime.newcoro.func1", 0x45_12c0, 0x47_1ed1, Source::Rax),
    ] {
        let maker = go("runtime.newproc1", newproc1, "31c0 c3");
        let caller = known(caller, release);
        let found = spawns(&[&maker, &caller], KernelForms::default()).unwrap();
        let [found] = found.as_slice() else { panic!("not one site of {release}") };
        assert_eq!(found.function.linkage, caller.linkage);
        let spec = &found.spec;
        assert_eq!((spec.address.0, spec.cost), (site, Emulated), "{release}");
        assert_eq!(found.goroutine, Some(source), "{release}");
    }
}

#[test]
fn a_new_goroutine_is_seen_where_it_is_and_nothing_else_comes_by() {
    let maker = go("runtime.newproc1", 0xa000, "31c0 c3");
    let site = |code: &str| {
        let caller = go("runtime.newproc.func1", 0x8ffb - 5, code);
        let found = spawns(&[&maker, &caller], KernelForms::default()).map_err(|why| (0, why));
        found.map(|found| (found[0].spec.address.0 - 0x8ff6, found[0].goroutine.unwrap()))
    };
    // call newproc1; mov rcx, rax; xor eax, eax; nop: in rcx.
    assert_eq!(site("e805100000 4889c1 31c0 90 c3"), Ok((10, Source::Rcx)));
    // call newproc1; xor eax, eax; nop: only at once.
    assert_eq!(site("e805100000 31c0 90 c3"), Ok((5, Source::Rax)));
    // call newproc1; mov rcx, rax; nop, to which a jump leads.
    assert_eq!(site("e805100000 4889c1 90 75fd c3"), Ok((5, Source::Rax)));
    let none = spawns(&[&maker], KernelForms::default()).err().unwrap();
    assert!(none.contains("calls `runtime.newproc1`"), "{none}");
    let renamed = spawns(&[], KernelForms::default()).err().unwrap();
    assert!(renamed.contains("no function has the name `runtime.newproc1`"), "{renamed}");
}

#[test]
fn the_end_of_a_goroutine_is_seen_once() {
    let (ends, twin) = {
        let mut both = GO.split("\n\n").filter(|block| block.contains("goexit1, go1.27.0"));
        let mut next = || {
            let block = both.next().unwrap();
            let (head, rest) = block.split_once('\n').unwrap();
            let (_, address) = head.rsplit_once("0x").unwrap();
            let code: String = rest.lines().take_while(|line| !line.contains(' ')).collect();
            go("runtime.goexit1", u64::from_str_radix(address, 16).unwrap(), &code)
        };
        (next(), next())
    };
    // Both in one address space, where the older convention's goes on to the other.
    let jump = u32::try_from(ends.code.address.0).unwrap();
    let mut code = twin.code.bytes.to_vec();
    let by = jump.wrapping_sub(u32::try_from(twin.code.address.0).unwrap() + 18);
    code[14..].copy_from_slice(&by.to_le_bytes());
    let twin = Function { language: Language::Go, ..raw("f", twin.code.address.0, &code, &[]) };
    let found = starts(GoPlace::End, &[&ends, &twin], KernelForms::default()).unwrap();
    let [found] = found.as_slice() else { panic!("not one site") };
    assert_eq!(found.function.code.address, ends.code.address);
    assert!(found.spec.restarts && found.goroutine.is_none());
    let recovery = known("runtime.recovery", "go1.18.10");
    let found = starts(GoPlace::Recovery, &[&recovery], KernelForms::default()).unwrap();
    assert_eq!(found[0].spec.address.0, recovery.code.address.0 + 4);
    let missing = starts(GoPlace::Recovery, &[], KernelForms::default()).err().unwrap();
    assert!(missing.contains("`runtime.recovery`"), "{missing}");
}

#[test]
fn sites_are_on_the_lanes_of_the_language() {
    let (ours, native) = (known("main.large", "go1.26.8"), hex("native", 0x1000, PLAIN));
    let plan = plan(&map(vec![span("s")], vec![]), &[found(&[&ours, &native])]).unwrap();
    let [ours, native] = plan.probes.as_slice() else { panic!("{:?}", plan.probes) };
    assert_eq!(sites(ours, Role::Enter), [(0x49_f14c, Cookie::GO | Cookie::RESTARTS)]);
    assert_eq!(sites(ours, Role::Ret), [(0x49_f1d0, Cookie::GO)]);
    assert_eq!(sites(native, Role::Enter), [(0x1000, 0)]);
    assert_eq!(sites(native, Role::Ret), [(0x1002, 0)]);
}

#[test]
fn keys_are_read_by_each_functions_own_order() {
    let (ours, native) = (known("main.large", "go1.26.8"), hex("native", 0x1000, PLAIN));
    let both = found(&[&ours, &native]);
    let handed = |number: u8| {
        let end = || enters(&[KeyExpr::Arg(number)]);
        let map = map(vec![], vec![handoff("h", end(), end())]);
        plan(&map, &[both.clone(), both.clone()]).unwrap()
    };
    let second = handed(2);
    let [ours, native] = second.probes.as_slice() else { panic!("{:?}", second.probes) };
    assert_eq!(captures(ours, Role::Enter), [Capture::register(Source::Rbx)]);
    assert_eq!(captures(native, Role::Enter), [Capture::register(Source::Rsi)]);
    assert_eq!(second.rules.handoffs[0].take.probes.len(), 2);
    // C has no seventh register.
    let seventh = handed(7);
    let [ours] = seventh.probes.as_slice() else { panic!("{:?}", seventh.probes) };
    assert_eq!(captures(ours, Role::Enter), [Capture::register(Source::R9)]);
    assert!(seventh.skipped[0].why.contains("rdi, rsi, rdx, rcx, r8, r9"), "{:?}", seventh.skipped);
    // Nor has Go a tenth.
    let tenth = handoff("h", enters(&[KeyExpr::Arg(10)]), enters(&[KeyExpr::Arg(10)]));
    let error = plan(&map(vec![], vec![tenth]), &[both.clone(), both]).unwrap_err();
    assert!(error.to_string().contains("rax, rbx, rcx, rdi"), "{error}");
}
