//! Whatever the bytes: no panic, and no site where none may be.

use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind,
    Register,
};
use proptest::prelude::*;

use super::*;
use crate::plan::{Return, Up};

/// A second opinion on [`crate::plan::form`], from the decoder's view instead of the bytes'.
fn may_carry_an_enter(insn: &Instruction, bytes: &[u8], first: bool) -> bool {
    let nop5 = insn.mnemonic() == Mnemonic::Nop && bytes.len() == 5;
    let forbidden = insn.is_invalid()
        || insn.code().encoding() != EncodingKind::Legacy
        || insn.has_lock_prefix()
        || insn.has_rep_prefix()
        || (insn.has_repne_prefix() && insn.flow_control() == FlowControl::Next)
        || matches!(
            insn.segment_prefix(),
            Register::ES | Register::CS | Register::SS | Register::DS
        )
        || insn.is_privileged()
        || insn.is_string_instruction()
        || insn.fpu_stack_increment_info().writes_top()
        || (nop5 && !(first && bytes == [0x0f, 0x1f, 0x44, 0, 0]))
        || (0..insn.op_count()).any(|operand| {
            insn.op_kind(operand) == OpKind::Register && {
                let register = insn.op_register(operand);
                register.is_segment_register()
                    || register.is_mm()
                    || register.is_cr()
                    || register.is_dr()
                    || register.is_st()
            }
        })
        || matches!(
            insn.mnemonic(),
            Mnemonic::Pushf
                | Mnemonic::Pushfq
                | Mnemonic::Popf
                | Mnemonic::Popfq
                | Mnemonic::Syscall
                | Mnemonic::Sysenter
                | Mnemonic::Int
                | Mnemonic::Int1
                | Mnemonic::Int3
                | Mnemonic::Xbegin
                | Mnemonic::Xabort
                | Mnemonic::Xchg
                | Mnemonic::Pause
        );
    let flow = match insn.flow_control() {
        FlowControl::Next => true,
        FlowControl::ConditionalBranch => {
            insn.is_jcc_short_or_near() && !insn.has_repne_prefix() && bytes.first() != Some(&0x66)
        }
        FlowControl::UnconditionalBranch => insn.is_jmp_short_or_near(),
        FlowControl::Call => insn.code() == Code::Call_rel32_64 && bytes.len() == 5,
        _ => false,
    };
    flow && !forbidden
}

/// Checks every site of an analysis against the bytes, decoded anew.
fn check(function: &Function, analysis: &Analysis) {
    let parts: Vec<&CodePart> = std::iter::once(&function.code).chain(&function.cold).collect();
    let mut boundaries = std::collections::HashMap::new();
    for part in &parts {
        let mut decoder = Decoder::with_ip(64, &part.bytes, part.address.0, DecoderOptions::NONE);
        while decoder.can_decode() {
            let insn = decoder.decode();
            if insn.is_invalid() {
                break;
            }
            let at = usize::try_from(insn.ip() - part.address.0).unwrap();
            boundaries.insert(insn.ip(), (insn, &part.bytes[at..at + insn.len()], part));
        }
    }
    let at = |site: &SiteSpec| {
        let (insn, bytes, part) = boundaries[&site.address.0];
        assert_eq!(site.offset.0 - part.offset.0, site.address.0 - part.address.0);
        (insn, bytes)
    };
    let start = function.code.address.0;
    let site = analysis.enters.best(Needs::default()).unwrap();
    let (insn, bytes) = at(site);
    assert!(may_carry_an_enter(&insn, bytes, site.address.0 == start), "{insn} {bytes:02x?}");
    let end = start + function.code.bytes.len() as u64;
    assert!((start..end).contains(&site.address.0), "the cold part is not the start");
    for (insn, _, _) in boundaries.values() {
        let jumps = matches!(
            insn.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        assert!(!jumps || insn.near_branch_target() != site.address.0, "a branch target");
    }
    let mut seen = std::collections::HashSet::new();
    for site in &analysis.leaves.rets {
        let (_, bytes) = at(site);
        assert!(matches!(bytes, [0xc3] | [0xc2, _, _]));
        assert_eq!((site.slot_offset, site.cost), (0, CostClass::SingleStepped));
        assert!(seen.insert(site.offset), "twice");
    }
    for target in &analysis.leaves.tails {
        let own = |part: &&CodePart| {
            (part.address.0..part.address.0 + part.bytes.len() as u64).contains(&target.0)
        };
        assert!(!parts.iter().any(own), "inside");
    }
}

/// Checks what is said of every return address of a function, against the bytes decoded anew.
fn check_returns(function: &Function) {
    let Ok(returns) = Returns::of(function, KernelForms::default()) else { return };
    let parts: Vec<&CodePart> = std::iter::once(&function.code).chain(&function.cold).collect();
    for address in returns.addresses() {
        let part = parts
            .iter()
            .find(|part| {
                (part.address.0..part.address.0 + part.bytes.len() as u64).contains(&address.0)
            })
            .expect("in the function");
        // The line, decoded from the part's start.
        let mut decoder = Decoder::with_ip(64, &part.bytes, part.address.0, DecoderOptions::NONE);
        let mut before = Instruction::default();
        let mut line = Vec::new();
        while decoder.can_decode() {
            let insn = decoder.decode();
            if insn.is_invalid() {
                break;
            }
            if insn.ip() >= address.0 {
                line.push(insn);
            } else {
                before = insn;
            }
        }
        assert_eq!(before.next_ip(), address.0);
        assert!(before.is_call_near() || before.is_call_near_indirect(), "{before}");
        assert_eq!(line[0].ip(), address.0);
        for needs in [ReturnNeeds::Nothing, ReturnNeeds::Value, ReturnNeeds::Pointee] {
            let plan = returns.at(address, needs);
            assert_eq!(plan, at_return(function, address, needs, KernelForms::default()));
            let landing = match &plan.first {
                Return::Landing(site) => Some(site),
                Return::Caller(up) => {
                    assert_eq!(needs, ReturnNeeds::Nothing);
                    assert!(!matches!(up, Up::Bytes(bytes) if *bytes < 8));
                    None
                }
                Return::None(why) => {
                    assert!(!why.to_string().is_empty());
                    None
                }
            };
            for site in landing.into_iter().chain(&plan.point) {
                assert_eq!(site.offset.0 - part.offset.0, site.address.0 - part.address.0);
                let at = line.iter().position(|insn| insn.ip() == site.address.0).expect("on it");
                let from = usize::try_from(site.address.0 - part.address.0).unwrap();
                let bytes = &part.bytes[from..from + line[at].len()];
                assert!(
                    may_carry_an_enter(&line[at], bytes, false)
                        || matches!(bytes, [0xc3] | [0xc2, _, _]),
                    "{}",
                    line[at]
                );
                for passed in &line[..at] {
                    assert_eq!(passed.flow_control(), FlowControl::Next, "{passed}");
                }
                let rax = |insn: &Instruction| {
                    let mut info = iced_x86::InstructionInfoFactory::new();
                    let written = info.info(insn).used_registers().to_vec();
                    written.iter().any(|used| {
                        used.register().full_register() == Register::RAX
                            && used.access() != iced_x86::OpAccess::Read
                            && used.access() != iced_x86::OpAccess::CondRead
                    })
                };
                assert_eq!(site.keeps_value, !line[..at].iter().any(rax));
            }
            if let Some(site) = landing {
                match needs {
                    ReturnNeeds::Nothing => {}
                    ReturnNeeds::Value => assert!(site.keeps_value),
                    ReturnNeeds::Pointee => assert!(site.keeps_value && site.keeps_memory),
                }
            }
        }
    }
}

/// Bytes that decode to what functions are made of more often than noise does.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(bytes("f30f1efa")),
        Just(bytes("55")),
        Just(bytes("4889e5")),
        Just(bytes("4883ec18")),
        Just(bytes("4883c418")),
        Just(bytes("5d")),
        Just(bytes("c9")),
        Just(bytes("c3")),
        Just(bytes("c20800")),
        Just(bytes("f3c3")),
        Just(bytes("0f1f440000")),
        Just(bytes("0f1f840000000000")),
        Just(bytes("662e0f1f840000000000")),
        Just(bytes("c5f877")),
        Just(bytes("9c")),
        Just(bytes("f0ff07")),
        Just(bytes("f348ab")),
        Just(bytes("ffe0")),
        Just(bytes("3effe0")),
        Just(bytes("ff24c500104000")),
        Just(bytes("ffd0")),
        any::<i8>().prop_map(|to| vec![0xeb, to.cast_unsigned()]),
        any::<i8>().prop_map(|to| vec![0x74, to.cast_unsigned()]),
        (-200_i32..200).prop_map(|to| [&[0xe9][..], &to.to_le_bytes()].concat()),
        (-200_i32..200).prop_map(|to| [&[0xe8][..], &to.to_le_bytes()].concat()),
        (-200_i32..200).prop_map(|to| [&[0x0f, 0x85][..], &to.to_le_bytes()].concat()),
        prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_planned_legally(
        hot in prop_oneof![code(), prop::collection::vec(any::<u8>(), 0..200)],
        cold in prop::option::of(code()),
        address in prop_oneof![Just(0x1000_u64), any::<u64>()],
    ) {
        let far = address.wrapping_add(0x80);
        let cold: Vec<(u64, &[u8])> = cold.iter().map(|code| (far, code.as_slice())).collect();
        let function = raw("f", address, &hot, &cold);
        if let Ok(analysis) = analysed(&function) {
            check(&function, &analysis);
        }
    }

    #[test]
    fn any_return_address_has_a_legal_landing_or_none(
        hot in prop_oneof![code(), prop::collection::vec(any::<u8>(), 0..200)],
        cold in prop::option::of(code()),
        address in prop_oneof![Just(0x1000_u64), any::<u64>()],
        anywhere in prop::collection::vec(any::<u64>(), 4),
        inside in prop::collection::vec(0_u64..300, 8),
    ) {
        let far = address.wrapping_add(0x80);
        let cold: Vec<(u64, &[u8])> = cold.iter().map(|code| (far, code.as_slice())).collect();
        let function = raw("f", address, &hot, &cold);
        check_returns(&function);
        let inside = inside.into_iter().map(|into| address.wrapping_add(into));
        for address in anywhere.into_iter().chain(inside) {
            let plan = at_return(&function, VirtAddr(address), ReturnNeeds::Value, KernelForms::default());
            if plan.point.is_some() {
                let returns = Returns::of(&function, KernelForms::default()).expect("it had a site");
                prop_assert!(returns.addresses().any(|known| known.0 == address));
            }
        }
    }

    #[test]
    fn the_allow_list_and_the_decoder_agree(mut noise in prop::collection::vec(any::<u8>(), 1..16)) {
        // Start often with what compilers start with.
        if noise[0] & 1 == 0 {
            noise.insert(0, [0x48, 0x66, 0xf3, 0x0f][usize::from(noise[0] >> 6)]);
        }
        let insn = Decoder::with_ip(64, &noise, 0x1000, DecoderOptions::NONE).decode();
        let exact = &noise[..insn.len().min(noise.len())];
        for first in [true, false] {
            if !insn.is_invalid() && crate::plan::form::cost(exact, first).is_some() {
                prop_assert!(may_carry_an_enter(&insn, exact, first), "{insn:?} {exact:02x?}");
            }
        }
    }
}
