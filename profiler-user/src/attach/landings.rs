//! Landings: attached while the run goes on, as return addresses are learned.

use std::io;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use profiler_common::{Cookie, LandingId, LaneKind, Return, ReturnKey, Role, global};

use super::links::{Links, Probed};
use super::sites::{AttachSite, may_be_one_site};
use super::{AttachError, load};
use crate::model::{FileOffset, Pid, ReturnAddr};
use crate::target::MappedObject;

/// A landing to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLanding {
    /// Its number, of which nothing is attached yet.
    pub id: LandingId,
    /// Where in the object's file.
    pub offset: FileOffset,
    /// The return slot's address minus the stack pointer before this instruction; bytes.
    pub slot_offset: i32,
    /// On what lanes the calls are that come back there.
    pub lane: LaneKind,
}

/// Attaches landings in one object, and says which of them the kernel takes.
pub(super) fn attach(
    bpf: &mut Ebpf,
    links: &mut Links,
    object: &MappedObject,
    pid: Option<Pid>,
    landings: &[NewLanding],
) -> Result<Vec<LandingId>, AttachError> {
    let what = "attach landings";
    let failed = |error: io::Error| AttachError::bpf(what, error);
    let on = Probed::open(object).map_err(failed)?;
    let program = load::uprobe(bpf, Role::Landing)?;
    let site = |landing: &NewLanding| AttachSite {
        offset: landing.offset,
        cookie: Cookie::of_landing(landing.id, landing.lane, landing.slot_offset),
    };
    let mut taken = Vec::with_capacity(landings.len());
    // By halves where the kernel refuses: its answer does not say which it means.
    let mut pending = vec![landings];
    while let Some(part) = pending.pop() {
        let sites: Vec<AttachSite> = part.iter().map(site).collect();
        match links.add(program, Role::Landing, &on, pid, &sites) {
            Ok(_) => taken.extend(part.iter().map(|landing| landing.id)),
            Err(error) if !may_be_one_site(&error) => return Err(failed(error)),
            Err(_) if part.len() == 1 => {}
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                pending.extend([second, first]);
            }
        }
    }
    links.gather(program).map_err(failed)?;
    Ok(taken)
}

/// Tells the kernel side what is known of a return address. Whether there was room.
pub(super) fn learn(
    bpf: &mut Ebpf,
    space: u64,
    address: ReturnAddr,
    known: Return,
) -> Result<bool, AttachError> {
    let what = "write a return address";
    let key = ReturnKey { space, address: address.0 };
    match returns(bpf, what)?.insert(&key, &known, 0) {
        Ok(()) => Ok(true),
        Err(error) if super::error::errno(&error) == Some(libc::E2BIG) => Ok(false),
        Err(error) => Err(AttachError::bpf(what, error)),
    }
}

/// Tells the kernel side to forget a return address.
pub(super) fn forget(bpf: &mut Ebpf, space: u64, address: ReturnAddr) {
    if let Ok(mut returns) = returns(bpf, "remove a return address") {
        // It may never have been written.
        drop(returns.remove(&ReturnKey { space, address: address.0 }));
    }
}

fn returns<'a>(
    bpf: &'a mut Ebpf,
    what: &'static str,
) -> Result<HashMap<&'a mut MapData, ReturnKey, Return>, AttachError> {
    let map = bpf.map_mut(global::RETURNS).ok_or_else(|| load::missing(what, global::RETURNS))?;
    map.try_into().map_err(|error| AttachError::bpf(what, error))
}
