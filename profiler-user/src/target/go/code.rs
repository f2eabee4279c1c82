//! What the first instructions of a Go program tell, stripped or not.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use rustc_hash::FxHashSet;

/// As many instructions are looked at on the way from the entry through `runtime.rt0_go`: about
/// three times as many as there are.
const MOST_INSTRUCTIONS: usize = 1000;
/// As many addresses are taken from them.
const MOST_ADDRESSES: usize = 64;
/// Code is fetched in pieces of this size.
const PIECE: u64 = 512;

/// Where `runtime.morestack` finds g, as an offset from the base of `fs`: it is the first thing
/// that it loads.
pub(super) fn tls_slot(morestack: &[u8]) -> Option<i32> {
    let mut decoder = Decoder::new(64, morestack, DecoderOptions::NONE);
    let first = decoder.decode();
    let plain = first.memory_base() == Register::None && first.memory_index() == Register::None;
    let of_fs = first.segment_prefix() == Register::FS && first.code() == Code::Mov_r64_rm64;
    (of_fs && plain).then(|| first.memory_displacement64().cast_signed().try_into().ok())?
}

/// The addresses that the code from `entry` on loads, up to where the runtime has begun:
/// `runtime.g0` and `runtime.m0` are among them. `fetch` gives up to so many bytes of code at an
/// address, and nothing where there is no code.
///
/// A C program's `_start` hands over `main` in a register, so what is loaded there and is code is
/// looked at too.
pub(super) fn loaded_addresses(
    entry: u64,
    mut fetch: impl FnMut(u64, u64) -> Option<Vec<u8>>,
) -> Vec<u64> {
    let mut found = Vec::new();
    let mut seen = FxHashSet::default();
    let mut blocks = vec![entry];
    let mut left = MOST_INSTRUCTIONS;
    while let Some(block) = blocks.pop() {
        let Some(code) = fetch(block, PIECE) else { continue };
        let mut decoder = Decoder::with_ip(64, &code, block, DecoderOptions::NONE);
        while decoder.can_decode() && left > 0 && found.len() < MOST_ADDRESSES {
            let instruction = decoder.decode();
            if instruction.is_invalid() || !seen.insert(instruction.ip()) {
                break;
            }
            left -= 1;
            if let Some(address) = loaded(&instruction) {
                if !found.contains(&address) {
                    found.push(address);
                }
                if instruction.op0_register().full_register() == Register::RDI {
                    blocks.push(address);
                }
            }
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
                FlowControl::ConditionalBranch => blocks.push(instruction.near_branch_target()),
                FlowControl::UnconditionalBranch => {
                    blocks.push(instruction.near_branch_target());
                    break;
                }
                _ => break,
            }
        }
    }
    found
}

/// The address that an instruction loads into a register.
fn loaded(instruction: &Instruction) -> Option<u64> {
    match instruction.code() {
        Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
            Some(instruction.ip_rel_memory_address())
        }
        Code::Mov_rm64_imm32 | Code::Mov_r32_imm32 | Code::Mov_r64_imm64
            if instruction.op0_kind() == OpKind::Register =>
        {
            Some(instruction.immediate(1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slot_is_what_morestack_loads_first() {
        // mov %fs:-8,%rbx
        let code = [0x64, 0x48, 0x8b, 0x1c, 0x25, 0xf8, 0xff, 0xff, 0xff];
        assert_eq!(tls_slot(&code), Some(-8));
        // mov %fs:(%rcx),%rcx; mov 0x30(%rbx),%rbx
        assert_eq!(tls_slot(&[0x64, 0x48, 0x8b, 0x09]), None);
        assert_eq!(tls_slot(&[0x48, 0x8b, 0x5b, 0x30]), None);
        assert_eq!(tls_slot(&[]), None);
    }

    #[test]
    fn jumps_are_followed_and_what_is_loaded_is_told() {
        let mut code = [0xcc; 64];
        code[..2].copy_from_slice(&[0xeb, 0x1e]); // 0x1000: jmp 0x1020
        code[0x20..0x27].copy_from_slice(&[0x48, 0x8d, 0x3d, 0xd9, 0x0f, 0, 0]); // lea 0x2000,%rdi
        code[0x27..0x2e].copy_from_slice(&[0x48, 0x8d, 0x05, 0xd2, 0x1f, 0, 0]); // lea 0x3000,%rax
        code[0x2e] = 0xc3;
        let fetch = |at: u64, _| code.get(usize::try_from(at.checked_sub(0x1000)?).ok()?..);
        let found = loaded_addresses(0x1000, |at, len| fetch(at, len).map(<[u8]>::to_vec));
        assert_eq!(found, [0x2000, 0x3000]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(code in proptest::collection::vec(any::<u8>(), 0..600)) {
            let fetch = |at: u64, _| Some(code.get(usize::try_from(at).ok()?..)?.to_vec());
            prop_assert!(loaded_addresses(0, fetch).len() <= MOST_ADDRESSES);
            let _ = tls_slot(&code);
        }
    }
}
