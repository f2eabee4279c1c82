//! Probes whose calls begin unseen, and what was folded and is still there.

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use profiler_common::{Fold, FoldKey, ProbeId, global};

use super::{AttachError, load};

/// Lets the calls of a probe begin unseen from now on, or seen again.
pub(super) fn silence(bpf: &mut Ebpf, probe: ProbeId, silent: bool) -> Result<(), AttachError> {
    let what = "silence a probe";
    let map = bpf.map_mut(global::SILENCED).ok_or_else(|| load::missing(what, global::SILENCED))?;
    let mut silenced: Array<&mut MapData, u32> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    silenced
        .set(u32::from(probe.0), &u32::from(silent), 0)
        .map_err(|error| AttachError::bpf(what, error))
}

/// Takes what is folded below calls that are still open. To be asked once no enter is attached any
/// more.
pub(super) fn take_folds(bpf: &mut Ebpf) -> Result<Vec<(FoldKey, Fold)>, AttachError> {
    let what = "take the folded calls";
    let map = bpf.map_mut(global::FOLDS).ok_or_else(|| load::missing(what, global::FOLDS))?;
    let mut folds: HashMap<&mut MapData, FoldKey, Fold> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    // Threads that go on may still end some: those come as events.
    let taken: Vec<(FoldKey, Fold)> = folds.iter().filter_map(Result::ok).collect();
    for (key, _) in &taken {
        drop(folds.remove(key));
    }
    Ok(taken)
}
