//! Loading the kernel side: the object that is built into the program.

use std::num::NonZeroU32;

use aya::maps::{Array, HashMap, MapData, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader};
use profiler_common::{CaptureProgram, KernelOffsets, Role, TargetState, global, target_state};

use rustc_hash::FxHashSet;

use super::{AttachError, AttachOptions, Targets, btf};
use crate::model::{FileOffset, Pid};
use crate::plan::ProbePlan;
use crate::reader::Ring;
use crate::target::MappedObject;

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/qprof-bpf.o"));

/// The smallest ring: one page. aya rounds up where pages are larger.
const MIN_RING_BYTES: u32 = 4096;
/// The largest: what fits into the mapping of both halves.
const MAX_RING_BYTES: u32 = 1 << 30;

/// A program and its tracepoint.
type Tracepoint = (&'static str, &'static str);

/// A thread ends.
const THREAD_END: Tracepoint = ("thread_end", "sched_process_exit");
/// A process becomes another program.
const EXEC: Tracepoint = ("exec", "sched_process_exec");
/// A process or thread is made.
const FORK: Tracepoint = ("fork", "sched_process_fork");

/// The uprobe that stops a program at its first instruction.
const ENTRY: &str = "entry";

/// The program for a role.
pub(super) const fn program_name(role: Role) -> &'static str {
    match role {
        Role::Enter => "enter",
        Role::Ret => "ret",
        Role::Landing => "landing",
        Role::GoEnter => "go_enter",
        Role::GoRuntime => "go_runtime",
    }
}

/// Loads the programs and creates their BPF maps; attaches nothing.
pub(super) fn load(targets: Targets, options: AttachOptions) -> Result<Ebpf, AttachError> {
    let AttachOptions { ring_bytes, kernel_log, go, .. } = options;
    if !ring_bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&ring_bytes) {
        return Err(AttachError::RingSize { bytes: ring_bytes });
    }
    // At level 0 the verifier removes the logging, and its ring may be as small as can be.
    let log_level = if kernel_log { aya_log::Level::Debug as u8 } else { 0 };
    let log_bytes = if kernel_log { 1 << 20 } else { MIN_RING_BYTES };
    let pid = match targets {
        Targets::One(pid) => pid.0,
        Targets::Several | Targets::Tree => 0,
    };
    let offsets = match targets {
        Targets::One(_) if !go => KernelOffsets::default(),
        // Without them C that Go calls is not joined to it; nothing else is missing.
        Targets::One(_) => btf::kernel_offsets().unwrap_or_else(|error| {
            tracing::warn!(
                "functions in C are not joined to the goroutines that call them: {error}"
            );
            KernelOffsets::default()
        }),
        // Its own processes user space can watch by itself.
        Targets::Several => btf::kernel_offsets().unwrap_or_default(),
        Targets::Tree => btf::kernel_offsets()?,
    };
    let mut bpf = EbpfLoader::new()
        .override_global(global::TARGET_PID, &pid, true)
        .override_global(global::GO, &u32::from(go), true)
        .override_global(global::OFFSETS, &offsets, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries(global::EVENTS, ring_bytes)
        .map_max_entries("AYA_LOGS", log_bytes)
        .load(OBJECT)
        .map_err(AttachError::load)?;
    let of_go = if go { [Role::GoEnter, Role::GoRuntime].as_slice() } else { &[] };
    for role in [Role::Enter, Role::Ret, Role::Landing].into_iter().chain(of_go.iter().copied()) {
        let name = program_name(role);
        let program = uprobe(&mut bpf, role)?;
        program.load().map_err(|error| AttachError::program(name, error))?;
        let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
        tracing::debug!(name, verified, "loaded");
    }
    if !matches!(targets, Targets::One(_)) {
        let entry: &mut UProbe = program(&mut bpf, ENTRY)?;
        entry.load().map_err(|error| AttachError::program(ENTRY, error))?;
    }
    Ok(bpf)
}

/// Stops a target that comes to a place of an object, as long as the link is held. No other process
/// that runs the same is: nobody would let it go on.
pub(super) fn stop_at(
    bpf: &mut Ebpf,
    pid: Pid,
    object: &MappedObject,
    at: FileOffset,
) -> Result<UProbeLink, AttachError> {
    let entry: &mut UProbe = program(bpf, ENTRY)?;
    let what = "stop the program at its first instruction";
    let point =
        UProbeAttachPoint { location: UProbeAttachLocation::AbsoluteOffset(at.0), cookie: Some(0) };
    let scope = NonZeroU32::new(pid.0).map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
    entry
        .attach([point], &object.open_path, scope)
        .and_then(|id| entry.take_link(id))
        .map_err(|error| AttachError::bpf(what, error))
}

/// The uprobe program for a role.
pub(super) fn uprobe(bpf: &mut Ebpf, role: Role) -> Result<&mut UProbe, AttachError> {
    program(bpf, program_name(role))
}

/// Listens for the end of threads and for programs that become others, until `bpf` is dropped; for
/// a tree for new processes too.
pub(super) fn watch_processes(bpf: &mut Ebpf, targets: Targets) -> Result<(), AttachError> {
    watch(bpf, THREAD_END)?;
    watch(bpf, EXEC)?;
    if targets == Targets::Tree {
        watch(bpf, FORK)?;
    }
    Ok(())
}

fn watch(bpf: &mut Ebpf, (name, tracepoint): Tracepoint) -> Result<(), AttachError> {
    let program: &mut RawTracePoint = program(bpf, name)?;
    program.load().map_err(|error| AttachError::program(name, error))?;
    let what = "attach to the scheduler's tracepoints";
    program.attach(tracepoint).map(drop).map_err(|error| AttachError::bpf(what, error))
}

/// Makes a process a target, where there may be several.
pub(super) fn observe(bpf: &mut Ebpf, pid: Pid) -> Result<(), AttachError> {
    set_target(bpf, pid, target_state::OBSERVED)
}

/// The same, and has it stopped when it becomes another program.
pub(super) fn hold(bpf: &mut Ebpf, pid: Pid) -> Result<(), AttachError> {
    set_target(bpf, pid, target_state::HELD)
}

fn set_target(bpf: &mut Ebpf, pid: Pid, state: u8) -> Result<(), AttachError> {
    let what = "add a process to the targets";
    let mut targets = targets(bpf, what)?;
    let space =
        targets.get(&pid.0, 0).map_or_else(|_unknown| u64::from(pid.0), |known| known.space);
    let state = TargetState { space, state, pad: [0; 7] };
    targets.insert(&pid.0, &state, 0).map_err(|error| AttachError::bpf(what, error))
}

/// Tells with which word a process's C library mangles a `jmp_buf`. Where there is no room how far it
/// jumps is not known.
pub(super) fn set_guard(bpf: &mut Ebpf, pid: Pid, guard: u64) {
    let guards = bpf.map_mut(global::GUARDS).map(HashMap::<&mut MapData, u32, u64>::try_from);
    if let Some(Ok(mut guards)) = guards {
        drop(guards.insert(&pid.0, &guard, 0));
    }
}

/// The address space of a process, where there may be several.
pub(super) fn space_of(bpf: &mut Ebpf, pid: Pid) -> Option<u64> {
    let targets = targets(bpf, "look up a target").ok()?;
    targets.get(&pid.0, 0).ok().map(|state| state.space)
}

/// The address spaces of all targets, where there may be several.
pub(super) fn spaces(bpf: &mut Ebpf) -> FxHashSet<u64> {
    let Ok(targets) = targets(bpf, "list the targets") else { return FxHashSet::default() };
    targets.iter().filter_map(|target| Some(target.ok()?.1.space)).collect()
}

/// Makes a process no target any more; it may have ended and be none already.
pub(super) fn forget(bpf: &mut Ebpf, pid: Pid) {
    if let Ok(mut targets) = targets(bpf, "remove a process from the targets") {
        drop(targets.remove(&pid.0));
    }
}

fn targets<'a>(
    bpf: &'a mut Ebpf,
    what: &'static str,
) -> Result<HashMap<&'a mut MapData, u32, TargetState>, AttachError> {
    let map = bpf.map_mut(global::TARGETS).ok_or_else(|| missing(what, global::TARGETS))?;
    map.try_into().map_err(|error| AttachError::bpf(what, error))
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
            if program.len > 0 || program.has_context() {
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
pub(super) fn missing(what: &'static str, name: &str) -> AttachError {
    let source = format!("the built-in BPF object has no `{name}`; run `cargo xtask build-ebpf`");
    AttachError::Bpf { what, source: source.into() }
}
