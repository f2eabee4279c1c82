//! What the kernel side is told of Go programs.

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use profiler_common::{
    ContextParent, ContextType, EventRecord, GoRuntime, LANE_WORDS, LaneKey, LaneKind, global,
};
use rustc_hash::FxHashSet;

use super::error::errno;
use super::{AttachError, load};
use crate::model::Pid;
use crate::plan::GoPlan;

/// How many words the kernel side keeps of a goroutine that has made no call yet.
const MADE_WORDS: usize = size_of::<EventRecord>() / size_of::<u64>();
const WHAT: &str = "tell the kernel side of a Go program";

/// Tells of the Go program in an address space. Where there is no room, what is known of spaces other than
/// those that are `alive` goes first.
pub(super) fn tell(
    bpf: &mut Ebpf,
    space: u64,
    go: &GoPlan,
    alive: &FxHashSet<u64>,
) -> Result<(), AttachError> {
    let failed = |error| AttachError::bpf(WHAT, error);
    match write(bpf, space, go)? {
        Err(error) if is_full(&error) => {
            forget_the_dead(bpf, alive)?;
            write(bpf, space, go)?.map_err(failed)
        }
        told => told.map_err(failed),
    }
}

fn write(bpf: &mut Ebpf, space: u64, go: &GoPlan) -> Result<Result<(), MapError>, AttachError> {
    if let Err(error) = runtimes(bpf)?.insert(&space, &go.runtime, 0) {
        return Ok(Err(error));
    }
    let mut types = types(bpf)?;
    let insert = |(address, parent): &(u64, ContextParent)| {
        types.insert(&ContextType { space, address: *address }, parent, 0)
    };
    Ok(go.contexts.iter().try_for_each(insert))
}

fn is_full(error: &MapError) -> bool {
    errno(error) == Some(libc::E2BIG)
}

fn forget_the_dead(bpf: &mut Ebpf, alive: &FxHashSet<u64>) -> Result<(), AttachError> {
    let mut known = runtimes(bpf)?;
    let gone: Vec<u64> =
        known.keys().filter_map(Result::ok).filter(|space| !alive.contains(space)).collect();
    for space in &gone {
        drop(known.remove(space));
    }
    let mut types = types(bpf)?;
    let gone: Vec<ContextType> =
        types.keys().filter_map(Result::ok).filter(|of| !alive.contains(&of.space)).collect();
    for of in &gone {
        drop(types.remove(of));
    }
    Ok(())
}

fn runtimes(bpf: &mut Ebpf) -> Result<HashMap<&mut MapData, u64, GoRuntime>, AttachError> {
    let map =
        bpf.map_mut(global::GO_RUNTIMES).ok_or_else(|| load::missing(WHAT, global::GO_RUNTIMES))?;
    map.try_into().map_err(|error| AttachError::bpf(WHAT, error))
}

fn types(bpf: &mut Ebpf) -> Result<HashMap<&mut MapData, ContextType, ContextParent>, AttachError> {
    let name = global::CONTEXT_TYPES;
    let map = bpf.map_mut(name).ok_or_else(|| load::missing(WHAT, name))?;
    map.try_into().map_err(|error| AttachError::bpf(WHAT, error))
}

/// Forgets the goroutines of a process that has ended: of their ends nobody tells.
pub(super) fn forget_goroutines(bpf: &mut Ebpf, pid: Pid) {
    forget_of::<LANE_WORDS>(bpf, global::LANES, pid);
    forget_of::<MADE_WORDS>(bpf, global::MADE, pid);
}

fn forget_of<const WORDS: usize>(bpf: &mut Ebpf, name: &str, pid: Pid) {
    let lanes = bpf.map_mut(name).map(HashMap::<&mut MapData, LaneKey, [u64; WORDS]>::try_from);
    let Some(Ok(mut lanes)) = lanes else { return };
    let gone: Vec<LaneKey> = lanes
        .keys()
        .filter_map(Result::ok)
        .filter(|lane| lane.kind() == LaneKind::Goroutine && lane.pid() == pid.0)
        .collect();
    for lane in gone {
        drop(lanes.remove(&lane));
    }
}
