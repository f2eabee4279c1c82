//! Single functions: where they are entered, how they are left.

use profiler_common::{Capture, Source};

use super::fixtures;
use super::*;
use crate::plan::CostClass::{Emulated, Optimised, SingleStepped};
use crate::plan::analyse::analyse_leaves;

fn of(fixture: &Fixture) -> Analysis {
    analysed(&function("f", fixture)).expect("a function that can be probed")
}

fn of_hex(code: &str) -> Result<Analysis, Refused> {
    analysed(&hex("f", 0x1000, code))
}

#[test]
fn functions_of_other_goes_are_refused() {
    for (language, refused) in [
        (Language::GccGo, Refused::OtherGo("gccgo")),
        (Language::TinyGo, Refused::OtherGo("TinyGo")),
    ] {
        let function = Function { language, ..function("f", &fixtures::GCC_O0) };
        assert_eq!(analysed(&function).unwrap_err(), refused);
        assert_eq!(analyse_leaves(&function, KernelForms::default()).unwrap_err(), refused);
    }
}

#[test]
fn a_frame_pointer_prologue_is_entered_at_its_push() {
    let analysis = of(&fixtures::GCC_O0);
    assert_eq!(enter(&analysis), (0x1169, 0, Emulated));
    assert_eq!(rets(&analysis), [0x11a2]);
    assert!(tails(&analysis).is_empty());
    assert!(analysis.notes.is_empty());
}

#[test]
fn behind_endbr64_the_push_is_the_cheap_one() {
    let analysis = of(&fixtures::GCC_O0_CET);
    assert_eq!(enter(&analysis), (0x116d, 0, Emulated));
    assert_eq!(rets(&analysis), [0x11a6]);
}

#[test]
fn without_a_push_the_first_branch_is_the_site() {
    let analysis = of(&fixtures::GCC_O2);
    assert_eq!(enter(&analysis), (0x11c4, 0, Emulated));
    assert_eq!(rets(&analysis), [0x11c9, 0x11df]);
}

#[test]
fn nops_at_the_start_are_sites() {
    assert_eq!(enter(&of(&fixtures::GCC_PATCHABLE)), (0x11c0, 0, Emulated));
    let analysis = of(&fixtures::GCC_NOP5);
    assert_eq!(enter(&analysis), (0x40_1240, 0, Optimised));
    assert_eq!(rets(&analysis), [0x40_124e, 0x40_125f]);
}

#[test]
fn a_five_byte_nop_behind_endbr64_is_passed_over() {
    // endbr64; nop5; mov eax, edi; test eax, eax; je +1; ret; ret
    let analysis = of_hex("f30f1efa 0f1f440000 89f8 85c0 7401 c3 c3").unwrap();
    assert_eq!(enter(&analysis), (0x100d, 0, Emulated));
}

#[test]
fn the_slot_offset_follows_the_stack() {
    // sub rsp, 0x18; test edi, edi; jle +5; add rsp, 0x18; ret; add rsp, 0x18; ret
    let analysis = of_hex("4883ec18 85ff 7e05 4883c418 c3 4883c418 c3").unwrap();
    assert_eq!(enter(&analysis), (0x1006, 0x18, Emulated));
    // lea rsp, [rsp-0x80]; mov eax, edi; call +0; …
    let analysis = of_hex("488d6424 80 89f8 e800000000 488da42480000000 c3").unwrap();
    assert_eq!(enter(&analysis), (0x1007, 0x80, Emulated));
    // sub rsp, rax: how far is not known, so the line ends there.
    let analysis = of_hex("89f8 4829c4 53 5b 4801c4 c3").unwrap();
    assert_eq!(enter(&analysis), (0x1000, 0, SingleStepped));
}

#[test]
fn every_way_out_of_a_switch_is_seen() {
    let analysis = of(&fixtures::SWITCH_PIC);
    // The jump is at entry depth: only the first instruction surely runs once a call.
    assert_eq!(enter(&analysis), (0x1260, 0, SingleStepped));
    let labels = [0x12a7, 0x12b4, 0x12bb, 0x12c3, 0x12cb, 0x12e3, 0x12ed, 0x12f7];
    assert_eq!(rets(&analysis), [&labels[..], &[0x10b2]].concat());
    assert!(analysis.notes.is_empty(), "{:?}", analysis.notes);

    let marked = of(&fixtures::SWITCH_CET);
    assert_eq!(rets(&marked).len(), 9);
    assert!(marked.notes.is_empty(), "{:?}", marked.notes);

    let absolute = of(&fixtures::SWITCH_ABSOLUTE);
    assert_eq!(rets(&absolute).len(), 9);
    assert!(absolute.notes.is_empty(), "{:?}", absolute.notes);
}

#[test]
fn a_jump_below_a_frame_is_a_switch() {
    let deep = of(&fixtures::SWITCH_DEEP);
    assert_eq!(enter(&deep), (0x1300, 0, Emulated));
    assert_eq!(rets(&deep), [0x134b, 0x1370]);
    assert!(deep.notes.is_empty(), "{:?}", deep.notes);

    let alloca = of(&fixtures::SWITCH_ALLOCA);
    assert_eq!(enter(&alloca), (0x1460, 0, Emulated));
    assert_eq!(rets(&alloca), [0x14bd, 0x14d2, 0x14f3, 0x1511, 0x1535, 0x155c, 0x156b]);
    assert!(alloca.notes.is_empty(), "{:?}", alloca.notes);
}

#[test]
fn an_indirect_jump_at_entry_depth_is_an_unknown_tail_call() {
    for (fixture, at) in [(&fixtures::VIA_ARRAY, "0x4015ea"), (&fixtures::VIRTUAL, "0x13d8")] {
        let analysis = of(fixture);
        let [note] = analysis.notes.as_slice() else { panic!("{:?}", analysis.notes) };
        assert!(note.contains(at) && note.contains("unknown tail target"), "{note}");
        assert_eq!(rets(&analysis).len(), 1);
        // It goes elsewhere, so it takes nothing from the choice of the enter.
        assert_eq!(enter(&analysis).2, Emulated);
    }
}

#[test]
fn a_direct_jump_out_is_a_tail_call() {
    let plt = of(&fixtures::PLT);
    assert_eq!((rets(&plt), tails(&plt)), (vec![], vec![0x1080]));
    assert_eq!(enter(&plt), (0x13f3, 0, Emulated));
    let tail = of(&fixtures::TAIL);
    assert_eq!((rets(&tail), tails(&tail)), (vec![0x40_123a], vec![0x40_11f0]));
}

#[test]
fn the_cold_part_belongs_to_the_function() {
    let cold = of(&fixtures::COLD);
    assert_eq!(rets(&cold), [0x1449, 0x145e]);
    assert!(tails(&cold).is_empty());
    assert!(cold.notes.is_empty());
    let mut parted = function("f", &fixtures::COLD);
    parted.cold.clear();
    assert_eq!(tails(&analysed(&parted).unwrap()), [0x10c4], "a part of its own: a jump out");
}

#[test]
fn landing_pads_are_code() {
    let throws = of(&fixtures::THROWS);
    assert_eq!((rets(&throws), tails(&throws)), (vec![0x1275], vec![]));
    assert!(throws.notes.is_empty(), "{:?}", throws.notes);
    let catches = of(&fixtures::CATCHES);
    assert_eq!((rets(&catches), tails(&catches)), (vec![0x12a4], vec![]));
    assert!(catches.notes.is_empty(), "{:?}", catches.notes);
}

#[test]
fn more_functions_of_compilers() {
    let clash = of(&fixtures::STACK_CLASH);
    assert_eq!((enter(&clash), rets(&clash)), ((0x15c0, 0, Emulated), vec![0x1609]));
    let dies = of(&fixtures::NEVER_RETURNS);
    assert_eq!((enter(&dies), rets(&dies)), ((0x15b7, 8, Emulated), vec![]));
    let rust = of(&fixtures::RUST);
    assert_eq!(enter(&rust), (0x1_2cf0, 0, Emulated));
    assert_eq!(rets(&rust), [0x1_2da4, 0x1_2daf, 0x1_2db5]);
}

#[test]
fn a_function_of_vex_instructions_has_no_enter() {
    let refused = analysed(&function("f", &fixtures::AVX)).unwrap_err();
    assert_eq!(refused, Refused::NoLegalEnter("vmovups ymm1, [rdi]".to_owned()));
    // vzeroupper; push rbx; pop rbx; ret: the push is as good.
    assert_eq!(enter(&of_hex("c5f877 53 5b c3").unwrap()), (0x1003, 0, Emulated));
    // vzeroupper; ret
    assert!(matches!(of_hex("c5f877 c3"), Err(Refused::NoLegalEnter(_))));
}

#[test]
fn no_site_is_a_branch_target() {
    // xor eax, eax; L: inc eax; dec edi; jne L; ret
    let analysis = of_hex("31c0 ffc0 ffcf 75fa c3").unwrap();
    assert_eq!(enter(&analysis), (0x1000, 0, SingleStepped));
    // L: inc eax; dec edi; jne L; ret
    assert_eq!(of_hex("ffc0 ffcf 75fa c3").unwrap_err(), Refused::LoopAtStart(VirtAddr(0x1000)));
    // Recursion is a call, not a loop: push rbx; call f; pop rbx; ret
    assert_eq!(enter(&of_hex("53 e8faffffff 5b c3").unwrap()), (0x1000, 0, Emulated));
    // The target of a branch in the cold part counts: mov eax, edi; push rbx; …
    let cold: &[u8] = &bytes("e9fd0fffff");
    let looping = raw("f", 0x1000, &bytes("89f8 53 5b c3"), &[(0x10000, cold)]);
    assert_eq!(enter(&analysed(&looping).unwrap()).0, 0x1000);
}

#[test]
fn another_functions_start_ends_the_line() {
    let f = hex("f", 0x1000, "89f8 53 5b c3");
    assert_eq!(enter(&analysed(&f).unwrap()), (0x1002, 0, Emulated));
    let shared =
        analyse(&f, &|address| address == VirtAddr(0x1002), KernelForms::default()).unwrap();
    assert_eq!(enter(&shared), (0x1000, 0, SingleStepped));
}

#[test]
fn captured_arguments_are_intact_at_the_site() {
    // mov rax, rdi; mov rdi, rsi; push rbx; pop rbx; ret
    let analysis = of_hex("4889f8 4889f7 53 5b c3").unwrap();
    let at = |captures: &[Capture]| {
        let mut needs = Needs::default();
        for capture in captures {
            needs.add(*capture);
        }
        analysis.enters.best(needs).map(|site| site.address.0)
    };
    assert_eq!(at(&[]), Some(0x1006));
    assert_eq!(at(&[Capture::register(Source::Rsi)]), Some(0x1006));
    assert_eq!(at(&[Capture::register(Source::Rdi)]), Some(0x1000));
    assert_eq!(
        at(&[Capture::register(Source::Rsi), Capture::word_at(Source::Rdi, 8)]),
        Some(0x1000)
    );
    assert_eq!(at(&[Capture::register(Source::Rax)]), Some(0x1000));
}

#[test]
fn captured_memory_is_intact_at_the_site() {
    // mov qword [rdi+8], 0; push rbx; pop rbx; ret
    let analysis = of_hex("48c7470800000000 53 5b c3").unwrap();
    let mut needs = Needs::default();
    needs.add(Capture::register(Source::Rdi));
    assert_eq!(analysis.enters.best(needs).unwrap().address.0, 0x1008);
    needs.add(Capture::word_at(Source::Rdi, 8));
    assert_eq!(analysis.enters.best(needs).unwrap().address.0, 0x1000);
    // lock inc dword [rdi]; push rbx; pop rbx; ret: nothing is left to capture it at.
    let analysis = of_hex("f0ff07 53 5b c3").unwrap();
    assert!(analysis.enters.best(needs).is_none());
}

#[test]
fn a_write_to_a_part_of_an_argument_counts() {
    // mov dil, 1; push rbx; pop rbx; ret
    let analysis = of_hex("40b701 53 5b c3").unwrap();
    let mut needs = Needs::default();
    needs.add(Capture::register(Source::Rdi));
    assert_eq!(analysis.enters.best(needs).unwrap().address.0, 0x1000);
}

#[test]
fn prefixed_returns_are_not_probed_but_told() {
    for code in ["53 5b f3c3", "53 5b f2c3"] {
        let analysis = of_hex(code).unwrap();
        assert!(rets(&analysis).is_empty());
        let [note] = analysis.notes.as_slice() else { panic!("{:?}", analysis.notes) };
        assert!(note.contains("0x1002") && note.contains("must not carry a probe"), "{note}");
    }
    assert_eq!(rets(&of_hex("53 5b c20800").unwrap()), [0x1002]);
}

#[test]
fn what_does_not_decode_is_refused_if_control_goes_there() {
    // je into the middle of an instruction.
    let refused = of_hex("85ff 7401 48c7c001000000 c3").unwrap_err();
    assert_eq!(refused, Refused::NotDecodable(VirtAddr(0x1005)));
    // A branch over bytes that are no instruction, and control that runs into them.
    assert_eq!(of_hex("eb01 06 c3").unwrap_err(), Refused::NotDecodable(VirtAddr(0x1003)));
    assert_eq!(of_hex("53 5b 06").unwrap_err(), Refused::NotDecodable(VirtAddr(0x1002)));
    // A cut-off instruction.
    assert_eq!(of_hex("53 5b 48").unwrap_err(), Refused::NotDecodable(VirtAddr(0x1002)));
    // Behind the last return, or behind a call that does not come back, anything may stand.
    assert_eq!(rets(&of_hex("53 5b c3 06 06 06").unwrap()), [0x1002]);
    assert!(of_hex("53 e8fa0f0000 06").is_ok());
}

#[test]
fn a_branch_over_a_lock_prefix_is_not_overlap() {
    // cmp [rip+0], 0; je +1; lock cmpxchg [rdi], edx; ret
    let analysis = of_hex("833d0000000000 7401 f00fb117 c3").unwrap();
    assert_eq!(enter(&analysis), (0x1007, 0, Emulated));
    assert_eq!(rets(&analysis), [0x100d]);
}

#[test]
fn data_behind_a_return_carries_no_site() {
    // push rbx; pop rbx; ret; then a table that holds c3 and decodes.
    let analysis = of_hex("53 5b c3 48ffc0 c3 9090").unwrap();
    assert_eq!(rets(&analysis), [0x1002], "nothing could lead there");
    assert!(analysis.notes.iter().any(|note| note.contains("0x1003")), "{:?}", analysis.notes);
    // With a call before it, it could be a landing pad; but `in al, dx` is none.
    let analysis = of_hex("e8fb0f0000 c3 ec c3").unwrap();
    assert_eq!(rets(&analysis), [0x1005]);
    let analysis = of_hex("e8fb0f0000 c3 89c7 c3").unwrap();
    assert_eq!(rets(&analysis), [0x1005, 0x1008]);
    // Padding is nothing to talk about.
    assert!(of_hex("53 5b c3 90 662e0f1f840000000000 cc cc").unwrap().notes.is_empty());
}

#[test]
fn functions_with_nothing_to_probe() {
    assert_eq!(of_hex("").unwrap_err(), Refused::Empty);
    assert_eq!(of_hex("c3").unwrap_err(), Refused::OnlyReturn);
    assert!(matches!(of_hex("ff2500100000"), Err(Refused::NoLegalEnter(_))));
    let overlapping = raw("f", 0x1000, &bytes("53 5b c3"), &[(0x1001, &bytes("c3"))]);
    assert_eq!(analysed(&overlapping).unwrap_err(), Refused::BadExtent);
    let beyond = raw("f", u64::MAX - 1, &bytes("53 5b c3"), &[]);
    assert_eq!(analysed(&beyond).unwrap_err(), Refused::BadExtent);
}

#[test]
fn running_off_the_end_is_told() {
    let analysis = of_hex("53 5b").unwrap();
    assert!(analysis.notes[0].contains("runs off its end at 0x1001"), "{:?}", analysis.notes);
}

#[test]
fn what_this_kernel_mishandles_is_passed_over() {
    // nop of 5 bytes; push rbp; mov rbp, rsp; pop rbp; ret.
    let f = hex("f", 0x1000, "0f 1f 44 00 00 55 48 89 e5 5d c3");
    let best = |forms| analyse(&f, &|_| false, forms).map(|analysis| enter(&analysis));
    let all = KernelForms::default();
    assert_eq!(best(all).unwrap(), (0x1000, 0, Optimised));
    let forms = all.without(FormKind::Nop5);
    assert_eq!(best(forms).unwrap(), (0x1005, 0, Emulated));
    let forms = forms.without(FormKind::Push);
    assert_eq!(best(forms).unwrap(), (0x1006, 8, SingleStepped));
    let forms = forms.without(FormKind::Stepped).without(FormKind::Pop);
    assert!(matches!(best(forms), Err(Refused::NoLegalEnter(_))));
    let without_ret = analyse(&f, &|_| false, all.without(FormKind::Ret)).unwrap();
    assert_eq!(rets(&without_ret), [0; 0]);
    assert_eq!(without_ret.leaves.unprobed_rets.len(), 1);
}

/// A function whose symbol lies inside of `around`.
fn within(address: u64, code: &str, around: &[(u64, &str)]) -> Function {
    let around = around.iter().map(|(address, code)| part(*address, &bytes(code))).collect();
    Function { around, ..hex("inner", address, code) }
}

#[test]
fn a_start_inside_an_instruction_is_refused() {
    // push rbx; movabs rax, 0x9090c35de5894855; lea rax, [rax+rdi]; pop rbx; ret
    let holder = "53 48b8 554889e55dc39090 488d0438 5b c3";
    let inner = within(0x1003, "554889e55dc39090", &[(0x1000, holder)]);
    let refused = analysed(&inner).expect_err("it is the constant of an instruction");
    assert_eq!(
        refused.to_string(),
        "its start is not where an instruction starts: it lies inside `mov rax, \
         0x9090c35de5894855` at 0x1001, which control comes to from 0x1000, and a probe would change \
         that instruction (a broken symbol table)"
    );
    assert!(analyse_leaves(&inner, KernelForms::default()).is_err());
    // One of several is enough.
    let inner = within(0x1003, "554889e55dc39090", &[(0xfff, "c3 c3"), (0x1000, holder)]);
    assert!(analysed(&inner).is_err());
}

#[test]
fn a_label_at_an_instruction_is_a_start() {
    // push rbx; test rdi, rdi; js; lea rax, [rdi+9]; pop rbx; ret
    let inner = "488d4709 5b c3";
    assert!(analysed(&within(0x1006, inner, &[(0x1000, "53 4885ff 7804 488d4709 5b c3")])).is_ok());
    // Nobody comes there: what is decoded from there on need not be code.
    let apart = within(0x1003, "554889e55dc3", &[(0x1000, "c3 48b8 554889e55dc3 9090")]);
    assert!(analysed(&apart).is_ok());
    // By a jump over it, back into it.
    let reached = within(0x1004, "554889e55dc3", &[(0x1000, "eb0a 48b8 554889e55dc39090 ebf4")]);
    assert!(analysed(&reached).is_err());
}
