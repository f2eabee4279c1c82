//! The links that hold the breakpoints in place: one a link, many sites each.

use std::io;
use std::num::NonZeroU32;
use std::thread;

use aya::programs::ProgramError;
use aya::programs::uprobe::{
    UProbe, UProbeAttachLocation, UProbeAttachPoint, UProbeError, UProbeLink, UProbeScope,
};
use profiler_common::Role;

use super::error::errno;
use super::sites::AttachSite;
use crate::model::Pid;
use crate::target::{Inode, MappedObject};

/// Not the C library's `ENOTSUP`, but the kernel's own `ENOTSUPP` (`include/linux/errno.h`): what
/// it answers to an instruction it will not probe.
pub(super) const ENOTSUPP: i32 = 524;

/// A link, in the table that made it; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(u32);

struct Link {
    id: LinkId,
    role: Role,
    /// The file it is on, by device and inode.
    inode: Inode,
    /// The one process it is for, if it filters.
    pid: Option<Pid>,
    held: UProbeLink,
}

/// The links that are attached. Dropping one removes its breakpoints, which takes the kernel
/// 40–65 ms: it waits until no CPU can still be in a handler.
#[derive(Default)]
pub(super) struct Links {
    links: Vec<Link>,
    next: u32,
}

impl Links {
    /// Attaches `program` at all the sites of one object, or at none.
    ///
    /// `pid`: let the link itself filter by process. A duplicate site gets two hits.
    pub(super) fn add(
        &mut self,
        program: &mut UProbe,
        role: Role,
        object: &MappedObject,
        pid: Option<Pid>,
        sites: &[AttachSite],
    ) -> Result<LinkId, io::Error> {
        let scope = pid
            .and_then(|pid| NonZeroU32::new(pid.0))
            .map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let points = sites.iter().map(|site| UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(site.offset.0),
            cookie: Some(site.cookie.0),
        });
        let link = program
            .attach(points, &object.open_path, scope)
            .and_then(|id| program.take_link(id))
            .map_err(|error| io_error(&error))?;
        let id = self.next();
        self.next += 1;
        self.links.push(Link { id, role, inode: object.inode, pid, held: link });
        Ok(id)
    }

    /// The id of the next link.
    pub(super) const fn next(&self) -> LinkId {
        LinkId(self.next)
    }

    /// Detaches one link.
    pub(super) fn remove(&mut self, id: LinkId) {
        self.links.retain(|link| link.id != id);
    }

    /// Detaches every link of a role, all at once, because each takes long.
    pub(super) fn remove_role(&mut self, role: Role) {
        self.remove_where(|link| link.role == role);
    }

    /// Detaches what was attached from `first` on.
    pub(super) fn remove_since(&mut self, first: LinkId) {
        self.remove_where(|link| link.id >= first);
    }

    /// Detaches what is for one process only.
    pub(super) fn remove_process(&mut self, pid: Pid) {
        self.remove_where(|link| link.pid == Some(pid));
    }

    /// Detaches everything from a file; whether there was anything.
    pub(super) fn remove_file(&mut self, inode: Inode) -> bool {
        self.remove_where(|link| link.inode == inode)
    }

    fn remove_where(&mut self, goes: impl Fn(&Link) -> bool) -> bool {
        let (gone, kept): (Vec<_>, _) = self.links.drain(..).partition(goes);
        self.links = kept;
        let any = !gone.is_empty();
        close(gone);
        any
    }
}

impl Drop for Links {
    /// Enters first: what has begun may still be seen to end, and nothing new begins.
    fn drop(&mut self) {
        self.remove_role(Role::Enter);
        self.remove_role(Role::Ret);
    }
}

fn close(mut links: Vec<Link>) {
    // The last one here; where a thread cannot be had, its link is closed here as well.
    let last = links.pop();
    thread::scope(|scope| {
        for Link { held, .. } in links {
            let name = String::from("qprof-detach");
            let _ = thread::Builder::new().name(name).spawn_scoped(scope, move || drop(held));
        }
        drop(last);
    });
}

/// The kernel's answer as an I/O error.
fn io_error(error: &ProgramError) -> io::Error {
    match error {
        // aya reads `EOPNOTSUPP` as a kernel without such links; that it has them was asked before.
        ProgramError::UProbeError(UProbeError::MultiLinkNotSupported) => {
            io::Error::from_raw_os_error(libc::EOPNOTSUPP)
        }
        error => errno(error).map_or_else(
            || io::Error::other(super::features::chain(error)),
            io::Error::from_raw_os_error,
        ),
    }
}
