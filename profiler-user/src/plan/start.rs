//! Whether a function begins where an instruction does.
//!
//! A symbol may lie: one in the middle of an instruction of another function would have a probe
//! change that instruction. Decoding from the symbol itself cannot tell; decoding from the start of
//! what is around it can.

use iced_x86::{Decoder, DecoderOptions};
use rustc_hash::FxHashSet;

use super::analyse::Disassembler;
use super::flow::is_call;
use super::listing::{Refused, direct_target, falls_through};
use crate::model::VirtAddr;
use crate::symbols::{CodePart, Function};

/// How many instructions of the code around are followed: more than any function has.
const FOLLOWED: usize = 1 << 18;

/// Whether a function's start is no instruction's, by any of the code around it. A label at the
/// start of an instruction, as in hand-written code, is a start like any other; so is one that
/// control is not known to come across.
///
/// # Errors
/// [`Refused::InsideInstruction`]; [`Refused::SurroundingsTooLarge`] where that cannot be told.
pub(super) fn check_start(function: &Function) -> Result<(), Refused> {
    let start = function.code.address.0;
    function.around.iter().try_for_each(|around| check(around, start))
}

/// Follows control through the code around, as far as direct branches lead. What lies behind a
/// return or among data may read as anything and says nothing.
fn check(around: &CodePart, start: u64) -> Result<(), Refused> {
    let bytes = &around.bytes;
    let from = around.address.0;
    let mut decoder = Decoder::with_ip(64, bytes, from, DecoderOptions::NONE);
    let mut seen: FxHashSet<u64> = FxHashSet::default();
    let mut work = vec![from];
    while let Some(mut address) = work.pop() {
        while let Some(at) = address.checked_sub(from).and_then(|at| usize::try_from(at).ok())
            && at < bytes.len()
            && decoder.set_position(at).is_ok()
            && seen.insert(address)
        {
            if seen.len() > FOLLOWED {
                return Err(Refused::SurroundingsTooLarge(around.address));
            }
            decoder.set_ip(address);
            let insn = decoder.decode();
            if insn.is_invalid() {
                break;
            }
            if address < start && start < insn.next_ip() {
                return Err(Refused::InsideInstruction {
                    text: Disassembler::new().text(&insn),
                    at: VirtAddr(address),
                    around: around.address,
                });
            }
            if let Some(target) = direct_target(&insn).filter(|_| !is_call(&insn)) {
                work.push(target);
            }
            if !falls_through(&insn) {
                break;
            }
            address = insn.next_ip();
        }
    }
    Ok(())
}
