//! What the kernel side is told of Go programs.

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use profiler_common::{
    ContextParent, ContextType, GoRuntime, LANE_WORDS, LaneKey, LaneKind, global,
};

use super::{AttachError, load};
use crate::model::Pid;
use crate::plan::GoPlan;

/// Tells of the Go program in an address space.
pub(super) fn tell(bpf: &mut Ebpf, space: u64, go: &GoPlan) -> Result<(), AttachError> {
    let what = "tell the kernel side of a Go program";
    let map =
        bpf.map_mut(global::GO_RUNTIMES).ok_or_else(|| load::missing(what, global::GO_RUNTIMES))?;
    let mut runtimes: HashMap<&mut MapData, u64, GoRuntime> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    runtimes.insert(&space, &go.runtime, 0).map_err(|error| AttachError::bpf(what, error))?;
    let map = bpf
        .map_mut(global::CONTEXT_TYPES)
        .ok_or_else(|| load::missing(what, global::CONTEXT_TYPES))?;
    let mut types: HashMap<&mut MapData, ContextType, ContextParent> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    for (address, parent) in &go.contexts {
        let key = ContextType { space, address: *address };
        types.insert(&key, parent, 0).map_err(|error| AttachError::bpf(what, error))?;
    }
    Ok(())
}

/// Forgets the goroutines of a process that has ended: of their ends nobody tells.
pub(super) fn forget_goroutines(bpf: &mut Ebpf, pid: Pid) {
    let lanes = bpf
        .map_mut(global::LANES)
        .map(HashMap::<&mut MapData, LaneKey, [u64; LANE_WORDS]>::try_from);
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
