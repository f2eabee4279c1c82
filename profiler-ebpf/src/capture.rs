//! Running a site's capture program: registers, and words in the target's memory.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use profiler_common::{Capture, CaptureProgram, Counter, EventRecord, MAX_WORDS, ProbeId, Role};

use crate::context::Interface;
use crate::count;
use crate::hit::Hit;
use crate::maps::{CAPTURES, GO};

/// Appends the words that a probe's program for the role asks for. One that cannot be read is 0, has its bit set in
/// the header, and is counted.
///
/// The call's context, if it has one.
#[inline(always)]
pub(crate) fn run(
    hit: &Hit<'_>,
    probe: ProbeId,
    role: Role,
    record: &mut EventRecord,
) -> Interface {
    let index = CaptureProgram::index(probe, role);
    let Some(program) = CAPTURES.get(index) else { return Interface::NONE };
    let mut faults = 0;
    for (place, capture) in program.captures.iter().enumerate() {
        if place >= usize::from(program.len) {
            break;
        }
        let (word, fault) = word(hit, capture);
        record.words[place] = word;
        faults |= fault << place;
    }
    record.header.words = program.len.min(MAX_WORDS as u8);
    record.header.faults = faults;
    if faults != 0 {
        count::add(Counter::CaptureFault, u64::from(faults.count_ones()));
    }
    if GO.load() == 0 {
        return Interface::NONE;
    }
    let [(table, _), (data, _)] =
        [&program.context[0], &program.context[1]].map(|of| word(hit, of));
    Interface { table, data }
}

/// The word, and 1 if it could not be read. No branch on the outcome: the verifier follows every
/// combination of those it finds in the loop.
#[inline(always)]
fn word(hit: &Hit<'_>, capture: &Capture) -> (u64, u8) {
    let register = register(hit, capture.source);
    if capture.deref == 0 {
        return (register, 0);
    }
    let address = register.wrapping_add_signed(i64::from(capture.offset)) as *const c_void;
    let mut word = 0_u64;
    let into = ptr::from_mut(&mut word).cast();
    // SAFETY: `into` holds the 8 bytes; the helper checks the address, and where it cannot read it
    // leaves zero and answers with a negative number.
    let answer = unsafe { bpf_probe_read_user(into, size_of::<u64>() as u32, address) };
    (word, (answer.cast_unsigned() >> 63) as u8)
}

/// The register that a [`profiler_common::Source`] names; of another number any.
///
/// Read as kernel memory: the verifier allows no computed offset into the context, and a copy of all of them
/// would fill a quarter of the program's stack.
#[inline(always)]
fn register(hit: &Hit<'_>, source: u8) -> u64 {
    let place = usize::from(source.wrapping_sub(1) & 0xf);
    let from = ptr::from_ref(hit.regs).cast::<u64>().wrapping_add(place);
    // SAFETY: the helper checks the address and fails where it cannot read.
    unsafe { bpf_probe_read_kernel(from) }.unwrap_or(0)
}

const _: () = assert!(MAX_WORDS <= 8, "one bit per word in `faults`");
