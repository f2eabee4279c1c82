//! Loading the kernel side: the object that is built into the program.

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader};
use profiler_common::{CaptureProgram, Role, global};

use super::AttachError;
use crate::model::Pid;
use crate::plan::ProbePlan;
use crate::reader::Ring;

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/qprof-bpf.o"));

/// The smallest ring: one page. aya rounds up where pages are larger.
const MIN_RING_BYTES: u32 = 4096;
/// The largest: what fits into the mapping of both halves.
const MAX_RING_BYTES: u32 = 1 << 30;

/// The tracepoint at the end of every thread, and the program for it.
const THREAD_END: (&str, &str) = ("thread_end", "sched_process_exit");

/// The program for a role.
pub(super) const fn program_name(role: Role) -> &'static str {
    match role {
        Role::Enter => "enter",
        Role::Ret => "ret",
    }
}

/// Loads the programs and creates their BPF maps for one target; attaches nothing.
pub(super) fn load(pid: Pid, ring_bytes: u32, kernel_log: bool) -> Result<Ebpf, AttachError> {
    if !ring_bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&ring_bytes) {
        return Err(AttachError::RingSize { bytes: ring_bytes });
    }
    // At level 0 the verifier removes the logging, and its ring may be as small as can be.
    let log_level = if kernel_log { aya_log::Level::Debug as u8 } else { 0 };
    let log_bytes = if kernel_log { 1 << 20 } else { MIN_RING_BYTES };
    let mut bpf = EbpfLoader::new()
        .override_global(global::TARGET_PID, &pid.0, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries(global::EVENTS, ring_bytes)
        .map_max_entries("AYA_LOGS", log_bytes)
        .load(OBJECT)
        .map_err(AttachError::load)?;
    for role in [Role::Enter, Role::Ret] {
        let name = program_name(role);
        uprobe(&mut bpf, role)?.load().map_err(|error| AttachError::program(name, error))?;
    }
    let program: &mut RawTracePoint = program(&mut bpf, THREAD_END.0)?;
    program.load().map_err(|error| AttachError::program(THREAD_END.0, error))?;
    Ok(bpf)
}

/// The uprobe program for a role.
pub(super) fn uprobe(bpf: &mut Ebpf, role: Role) -> Result<&mut UProbe, AttachError> {
    program(bpf, program_name(role))
}

/// Listens for the end of threads, until `bpf` is dropped.
pub(super) fn watch_thread_ends(bpf: &mut Ebpf) -> Result<(), AttachError> {
    let program: &mut RawTracePoint = program(bpf, THREAD_END.0)?;
    program
        .attach(THREAD_END.1)
        .map(drop)
        .map_err(|error| AttachError::bpf("attach to the tracepoint sched_process_exit", error))
}

/// Tells the kernel side what each probe captures.
pub(super) fn write_captures(bpf: &mut Ebpf, plan: &ProbePlan) -> Result<(), AttachError> {
    let what = "write the capture programs";
    let map = bpf.map_mut(global::CAPTURES).ok_or_else(|| missing(what, global::CAPTURES))?;
    let mut captures: Array<&mut MapData, CaptureProgram> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    for probe in &plan.probes {
        for (role, program) in [(Role::Enter, &probe.at_enter), (Role::Ret, &probe.at_ret)] {
            // The BPF map begins all zero: an empty program need not be written.
            if program.len > 0 {
                captures
                    .set(CaptureProgram::index(probe.id, role), program, 0)
                    .map_err(|error| AttachError::bpf(what, error))?;
            }
        }
    }
    Ok(())
}

/// The ring of events.
pub(super) fn take_ring(bpf: &mut Ebpf) -> Result<Ring, AttachError> {
    let what = "map the ring buffer";
    let map = bpf.take_map(global::EVENTS).ok_or_else(|| missing(what, global::EVENTS))?;
    let ring = RingBuf::try_from(map).map_err(|error| AttachError::bpf(what, error))?;
    Ring::new(ring).map_err(|error| AttachError::bpf(what, error))
}

fn program<'a, T>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, AttachError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    bpf.program_mut(name)
        .ok_or_else(|| missing("find a BPF program", name))?
        .try_into()
        .map_err(|error| AttachError::program(name, error))
}

/// The built-in object lacks something: it was built from other source than this program.
fn missing(what: &'static str, name: &str) -> AttachError {
    let source = format!("the built-in BPF object has no `{name}`; run `cargo xtask build-ebpf`");
    AttachError::Bpf { what, source: source.into() }
}
