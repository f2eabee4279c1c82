//! Where calls are seen to return, on bytes.

use super::*;
use crate::plan::{NoLanding, Return, Stop, Up};

/// A call of something outside, five bytes.
const CALL: &str = "e800100000";
const START: u64 = 0x1000;

/// What is known of the first call of a function in which `before` comes before it and `behind`
/// behind it.
fn around(before: &str, behind: &str, needs: ReturnNeeds) -> ReturnPlan {
    let function = hex("f", START, &format!("{before}{CALL}{behind}"));
    let address = START + bytes(before).len() as u64 + 5;
    at_return(&function, VirtAddr(address), needs, KernelForms::default())
}

fn behind(code: &str) -> ReturnPlan {
    around("", code, ReturnNeeds::Nothing)
}

/// `jump +2: -8 Emulated`: the instruction, how far behind the return address, its slot offset.
fn shown(plan: &ReturnPlan, return_address: u64) -> String {
    let site = |site: &crate::plan::LandingSite| {
        let at = site.address.0 - return_address;
        format!("{} +{at} slot {} {:?}", site.instruction, site.slot_offset, site.cost)
    };
    let first = match &plan.first {
        Return::Landing(landing) => site(landing),
        Return::Caller(up) => format!("{up:?}"),
        Return::None(why) => format!("none: {why}"),
    };
    match &plan.point {
        Some(point) if plan.first != Return::Landing(point.clone()) => {
            format!("{first}; point {}", site(point))
        }
        Some(_) => first,
        None => format!("{first}; no point"),
    }
}

fn shown_behind(code: &str) -> String {
    shown(&behind(code), START + 5)
}

#[test]
fn the_first_emulated_instruction_is_the_landing() {
    for (code, expected) in [
        (
            "85c07401c3c3",
            "je short 0x100a +2 slot -8 Emulated; point test eax, eax +0 slot -8 SingleStepped",
        ),
        ("7401c3c3", "je short 0x1008 +0 slot -8 Emulated"),
        ("e800200000c3", "call 0x300a +0 slot -8 Emulated"),
        ("90c3", "nop +0 slot -8 Emulated"),
        ("5bebfd", "jmp short 0x1005 +1 slot -16 Emulated; point pop rbx +0 slot -8 SingleStepped"),
        // The stack grows again.
        (
            "4883ec2055c3",
            "push rbp +4 slot 24 Emulated; point sub rsp, 0x20 +0 slot -8 SingleStepped",
        ),
    ] {
        assert_eq!(shown_behind(code), expected, "{code}");
    }
    let tail = around("554883ec18", "4883c4185de900100000", ReturnNeeds::Nothing);
    assert_eq!(
        shown(&tail, START + 10),
        "jmp 0x2014 +5 slot -40 Emulated; point add rsp, 0x18 +0 slot -8 SingleStepped"
    );
}

#[test]
fn what_may_not_carry_a_probe_is_passed_over() {
    // A 5-byte nop, vzeroupper, `lock inc`, a nop with a segment prefix.
    for code in ["0f1f440000", "c5f877", "f0ff07", "662e0f1f840000000000"] {
        let length = code.len() / 2;
        assert_eq!(
            shown_behind(&format!("{code}eb00c3")),
            format!("jmp short {:#x} +{length} slot -8 Emulated", START + 7 + length as u64)
        );
    }
}

#[test]
fn a_caller_that_returns_straight_away_is_asked_instead() {
    for (before, code, up) in [
        ("", "c3", Up::Bytes(8)),
        ("", "f3c3", Up::Bytes(8)),
        ("4883ec08", "4883c408c3", Up::Bytes(16)),
        ("53", "89d85bc3", Up::Bytes(16)),
        // With a frame pointer, of a known size …
        ("554889e54883ec10", "c9c3", Up::Bytes(32)),
        ("554889e5", "5dc3", Up::Bytes(16)),
        // … and of one that only shows as it runs.
        ("554889e54829c4", "c9c3", Up::FramePointer),
        ("554889e5534829c4", "488d65f85b5dc3", Up::FramePointer),
    ] {
        let plan = around(before, code, ReturnNeeds::Nothing);
        assert_eq!(plan.first, Return::Caller(up), "{before} call {code}");
        assert_eq!(plan.stop.unwrap().why, Stop::Returns);
    }
}

#[test]
fn a_call_to_the_next_instruction_leaves_its_address_on_the_stack() {
    // call next; pop rbx; sub rsp, 8.
    let plan = around("e8000000005b4883ec08", "4883c408c3", ReturnNeeds::Nothing);
    assert_eq!(plan.first, Return::Caller(Up::Bytes(16)));
}

#[test]
fn the_point_of_a_chain_may_be_the_return_itself() {
    let plan = behind("c3");
    let point = plan.point.unwrap();
    assert_eq!((point.slot_offset, point.cost), (-8, CostClass::SingleStepped));
    assert_eq!(behind("f3c3").point, None);
}

#[test]
fn returns_that_are_none_of_a_call_are_no_chain() {
    for (before, code) in [
        // It takes arguments off, too.
        ("", "c20800"),
        // The stack is deeper than when the function began.
        ("50", "c3"),
        ("", "4883ec08c3"),
        ("554889e54829c4", "488d65f0c3"),
        // Far, or of 16 bits.
        ("", "cb"),
        ("", "66c3"),
    ] {
        let plan = around(before, code, ReturnNeeds::Nothing);
        assert!(!matches!(plan.first, Return::Caller(_)), "{before} call {code}: {plan:?}");
        assert_eq!(plan.stop.unwrap().why, Stop::OddReturn, "{before} call {code}");
    }
}

#[test]
fn where_nothing_is_emulated_the_first_legal_instruction_is_stepped() {
    for (code, why) in [
        ("4889c7ffd3c3", Stop::Leaves),
        ("4889c7ffe0", Stop::Leaves),
        ("4889c73effe0", Stop::Leaves),
        ("4889c7f2e800000000c3", Stop::Leaves),
        ("4889c72e7400c3", Stop::Leaves),
        ("4889c74889c4c3", Stop::UnknownStack),
        ("4889c75cc3", Stop::UnknownStack),
        ("4889c70f05c3", Stop::Slow),
        ("4889c7cd80c3", Stop::Slow),
        ("4889c7f348abc3", Stop::Slow),
        ("4889c70f0b", Stop::Traps),
        ("4889c7cc", Stop::Traps),
        ("4889c7", Stop::EndOfCode),
    ] {
        let plan = behind(code);
        assert_eq!(
            shown(&plan, START + 5),
            "mov rdi, rax +0 slot -8 SingleStepped",
            "{code}: {plan:?}"
        );
        assert_eq!(plan.stop.unwrap().why, why, "{code}");
    }
    let far = behind(&format!("{}eb00c3", "4889c7".repeat(60)));
    assert_eq!(far.stop.unwrap().why, Stop::TooFar);
}

#[test]
fn where_nothing_is_legal_the_reason_says_so() {
    for (code, reason) in [
        (
            "ffd3c3",
            "no instruction behind the call may carry a probe: `call rbx` at 0x1005 goes \
             elsewhere, and may not carry a probe",
        ),
        (
            "0f0b",
            "no instruction behind the call may carry a probe: `ud2` at 0x1005 does not let \
             control go on: the call is not meant to return",
        ),
        (
            "",
            "the call at 0x1000 is the last instruction of its function: it is not meant to return",
        ),
    ] {
        let Return::None(why) = behind(code).first else { panic!("{code}") };
        assert_eq!(why.to_string(), reason);
    }
}

#[test]
fn a_return_address_stands_behind_a_call_found_by_decoding() {
    // mov eax, 0x11e8; je; nops: an `e8` that is no instruction.
    let function = hex("f", START, "b8e8110000740090c3");
    let plan = |address| {
        at_return(&function, VirtAddr(address), ReturnNeeds::Nothing, KernelForms::default()).first
    };
    assert_eq!(plan(START + 6), Return::None(NoLanding::NotBehindCall(VirtAddr(START + 6))));
    assert_eq!(plan(START + 7), Return::None(NoLanding::NotBehindCall(VirtAddr(START + 7))));
    assert_eq!(plan(START), Return::None(NoLanding::Outside(VirtAddr(START))));
    assert_eq!(plan(START + 90), Return::None(NoLanding::Outside(VirtAddr(START + 90))));
    assert_eq!(plan(0), Return::None(NoLanding::Outside(VirtAddr(0))));
    assert_eq!(plan(u64::MAX), Return::None(NoLanding::Outside(VirtAddr(u64::MAX))));
    // call next; pop rax.
    let counter = hex("f", START, "e80000000058eb00c3");
    assert_eq!(
        at_return(&counter, VirtAddr(START + 5), ReturnNeeds::Nothing, KernelForms::default())
            .first,
        Return::None(NoLanding::ReadsItsAddress(VirtAddr(START)))
    );
    // A system call is followed by no return.
    let system = hex("f", START, "0f0590c3");
    assert_eq!(
        at_return(&system, VirtAddr(START + 2), ReturnNeeds::Nothing, KernelForms::default()).first,
        Return::None(NoLanding::NotBehindCall(VirtAddr(START + 2)))
    );
}

#[test]
fn every_form_of_call_is_one() {
    for call in [
        "e800100000",
        "f2e800100000",
        "666648e800100000",
        "6648ff1500000000",
        "ff1500000000",
        "ffd0",
        "41ffd4",
        "3effd0",
        "41ff542408",
        "ff942488000000",
    ] {
        let function = hex("f", START, &format!("{call}7400c3"));
        let address = START + bytes(call).len() as u64;
        let plan =
            at_return(&function, VirtAddr(address), ReturnNeeds::Nothing, KernelForms::default());
        assert!(matches!(plan.first, Return::Landing(_)), "{call}: {plan:?}");
        let returns = Returns::of(&function, KernelForms::default()).unwrap();
        assert_eq!(returns.addresses().collect::<Vec<_>>(), [VirtAddr(address)], "{call}");
    }
}

#[test]
fn data_and_broken_code_have_no_landing() {
    // A jump into an instruction.
    let broken = hex("f", START, "7401e80010000090c3");
    let Return::None(NoLanding::Unreadable(_)) =
        at_return(&broken, VirtAddr(START + 7), ReturnNeeds::Nothing, KernelForms::default()).first
    else {
        panic!("readable");
    };
    // What only data comes to: `in al, 16` is behind the call.
    let data = hex("f", START, "c3e800100000e41090");
    let Return::None(NoLanding::MayBeData(_)) =
        at_return(&data, VirtAddr(START + 6), ReturnNeeds::Nothing, KernelForms::default()).first
    else {
        panic!("code");
    };
}

#[test]
fn a_value_is_taken_where_it_is_still_there() {
    use ReturnNeeds::{Nothing, Pointee, Value};
    let at = |code: &str, needs| shown(&around("", code, needs), START + 5);
    // Tested only.
    assert!(at("85c07400c3", Value).starts_with("je"));
    assert!(at("85c07400c3", Pointee).starts_with("je"));
    // Overwritten by the first instruction.
    assert!(at("31c07400c3", Nothing).starts_with("je"));
    for overwriting in ["31c0", "b001", "0fb6c0", "b801000000", "4898", "0f45c3"] {
        let code = format!("{overwriting}7400c3");
        assert!(at(&code, Value).contains("+0 slot -8 SingleStepped"), "{code}");
    }
    // Stored: the value is intact, what it points to may not be.
    assert!(at("4889037400c3", Value).starts_with("je"));
    assert!(at("4889037400c3", Pointee).starts_with("mov"));
    // Overwritten by what may not carry a probe.
    assert_eq!(
        at("c5f97ec07400c3", Value),
        "none: what the call returns is lost before an instruction that may carry a probe: \
         `vmovd eax, xmm0` at 0x1005 overwrites it; point je short 0x100b +4 slot -8 Emulated"
    );
    // No chain: further up, another function's value is returned.
    assert!(at("c3", Value).starts_with("ret +0"));
    assert!(at("4883c408c3", Value).starts_with("add rsp, 8 +0"));
    assert!(at("f3c3", Value).starts_with("none: no instruction behind the call"));
}

#[test]
fn a_cold_part_has_landings_too() {
    let cold = bytes("e8001000007400c3");
    let function = raw("f", START, &bytes("7401c3c3"), &[(0x5000, &cold)]);
    // It is only known to be code if something comes there.
    let none =
        at_return(&function, VirtAddr(0x5005), ReturnNeeds::Nothing, KernelForms::default()).first;
    assert!(matches!(none, Return::None(NoLanding::MayBeData(_))));
    let jump = [&[0x0f, 0x84][..], &(0x5000_i32 - 0x1006).to_le_bytes(), &[0xc3]].concat();
    let function = raw("f", START, &jump, &[(0x5000, &cold)]);
    let Return::Landing(site) =
        at_return(&function, VirtAddr(0x5005), ReturnNeeds::Nothing, KernelForms::default()).first
    else {
        panic!("no landing");
    };
    assert_eq!((site.address.0, site.offset.0), (0x5005, 0x5005 + BIAS));
}
