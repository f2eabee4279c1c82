//! The links that hold the breakpoints in place: one a link, many sites each.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::programs::ProgramError;
use aya::programs::uprobe::{
    UProbe, UProbeAttachLocation, UProbeAttachPoint, UProbeError, UProbeLink, UProbeScope,
};
use profiler_common::{Cookie, Role};

use super::error::errno;
use super::sites::AttachSite;
use crate::model::Pid;
use crate::target::{Inode, MappedObject};

/// Not the C library's `ENOTSUP`, but the kernel's own `ENOTSUPP` (`include/linux/errno.h`): what
/// it answers to an instruction it will not probe.
pub(super) const ENOTSUPP: i32 = 524;

/// How many links of landings a file may have before they are made one: a link costs its 40–65 ms
/// at the end, however few its sites.
const SCATTERED: usize = 8;

/// For how long at least the old and the new link of enters both stand: far longer than the hits of one
/// call are apart.
const OVERLAP: Duration = Duration::from_nanos(4 * Cookie::TWIN_NS);

/// A link, in the table that made it; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(u32);

/// The file a link is on, held open: its path may lead through a process that ends.
#[derive(Clone, Debug)]
pub(super) struct Probed {
    inode: Inode,
    file: Arc<File>,
}

impl Probed {
    pub(super) fn open(object: &MappedObject) -> io::Result<Self> {
        Ok(Self { inode: object.inode, file: Arc::new(object.open()?) })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// What a link is for; those that agree can be made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    role: Role,
    /// The file it is on, by device and inode.
    inode: Inode,
    /// The one process it is for, if it filters.
    pid: Option<Pid>,
}

struct Link {
    id: LinkId,
    group: Group,
    on: Probed,
    sites: Vec<AttachSite>,
    held: UProbeLink,
}

/// The links that are attached. Dropping one removes its breakpoints, which takes the kernel
/// 40–65 ms: it waits until no CPU can still be in a handler.
#[derive(Default)]
pub(super) struct Links {
    held: Vec<Link>,
    next: u32,
    /// Sites that were removed and may be wanted again.
    dormant: Vec<(Group, Probed, AttachSite)>,
    /// Threads that detach what nobody waits for.
    closing: Vec<JoinHandle<()>>,
}

impl Links {
    /// Attaches `program` at all the sites of one object, or at none.
    ///
    /// `pid`: let the link itself filter by process. A duplicate site gets two hits.
    pub(super) fn add(
        &mut self,
        program: &mut UProbe,
        role: Role,
        on: &Probed,
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
        let held = program
            .attach(points, on.path(), scope)
            .and_then(|id| program.take_link(id))
            .map_err(|error| io_error(&error))?;
        let id = self.next();
        self.next += 1;
        let group = Group { role, inode: on.inode, pid };
        self.held.push(Link { id, group, on: on.clone(), sites: sites.to_vec(), held });
        Ok(id)
    }

    /// The id of the next link.
    pub(super) const fn next(&self) -> LinkId {
        LinkId(self.next)
    }

    /// Detaches one link.
    pub(super) fn remove(&mut self, id: LinkId) {
        self.held.retain(|link| link.id != id);
    }

    /// Detaches every link of a role, all at once, because each takes long.
    pub(super) fn remove_role(&mut self, role: Role) {
        self.remove_where(|link| link.group.role == role);
    }

    /// Detaches what was attached from `first` on.
    pub(super) fn remove_since(&mut self, first: LinkId) {
        self.remove_where(|link| link.id >= first);
    }

    /// Detaches what is for one process only.
    pub(super) fn remove_process(&mut self, pid: Pid) {
        self.dormant.retain(|(group, ..)| group.pid != Some(pid));
        self.remove_where(|link| link.group.pid == Some(pid));
    }

    /// Detaches everything from a file; whether there was anything.
    pub(super) fn remove_file(&mut self, inode: Inode) -> bool {
        self.dormant.retain(|(group, ..)| group.inode != inode);
        self.remove_where(|link| link.group.inode == inode)
    }

    /// Makes the landings of a file one link again where they are many.
    ///
    /// # Errors
    /// The kernel's answer; all is as it was then.
    pub(super) fn gather(&mut self, program: &mut UProbe) -> io::Result<()> {
        let scattered = |group: &Group, links: &[Link]| {
            links.iter().filter(|link| link.group == *group).count() > SCATTERED
        };
        let landings = self.held.iter().map(|link| link.group);
        let landings: Vec<Group> = landings.filter(|group| group.role == Role::Landing).collect();
        let Some(group) = landings.into_iter().find(|group| scattered(group, &self.held)) else {
            return Ok(());
        };
        self.replace(program, group, |_| true)
    }

    /// Attaches sites again that were not kept.
    ///
    /// # Errors
    /// The kernel's answer; the sites of further files stay as they are.
    pub(super) fn wake(
        &mut self,
        program: &mut UProbe,
        role: Role,
        wanted: impl Fn(&AttachSite) -> bool,
    ) -> io::Result<()> {
        let wakes =
            |(group, _, site): &mut (Group, Probed, AttachSite)| group.role == role && wanted(site);
        let mut woken: Vec<_> = self.dormant.extract_if(.., wakes).collect();
        while let Some((group, on, site)) = woken.pop() {
            let same = |other: &mut (Group, Probed, AttachSite)| other.0 == group;
            let mut sites: Vec<AttachSite> =
                woken.extract_if(.., same).map(|(_, _, site)| site).collect();
            sites.push(site);
            self.add(program, role, &on, group.pid, &sites)?;
        }
        Ok(())
    }

    /// Removes the sites of a role that are not to be kept; the others stay attached throughout.
    ///
    /// # Errors
    /// The kernel's answer; all is as it was then, for the files not yet done.
    pub(super) fn keep(
        &mut self,
        program: &mut UProbe,
        role: Role,
        keep: impl Fn(&AttachSite) -> bool,
    ) -> io::Result<()> {
        let goes = |link: &&Link| link.group.role == role && !link.sites.iter().all(&keep);
        let mut groups: Vec<Group> = self.held.iter().filter(goes).map(|l| l.group).collect();
        groups.dedup();
        for group in groups {
            self.replace(program, group, &keep)?;
        }
        Ok(())
    }

    /// One link for all that is kept of a group: attached before the old ones go, so that nothing is
    /// missed. An exit that is hit twice meanwhile finds its frame taken; an enter is told from its
    /// twin by the kernel side.
    fn replace(
        &mut self,
        program: &mut UProbe,
        group: Group,
        keep: impl Fn(&AttachSite) -> bool,
    ) -> io::Result<()> {
        let before = self.next();
        let old = self.held.iter().filter(|link| link.group == group);
        let (mut sites, gone): (Vec<AttachSite>, Vec<AttachSite>) =
            old.flat_map(|link| link.sites.iter().copied()).partition(&keep);
        sites.sort_unstable_by_key(|site| (site.offset, site.cookie.0));
        sites.dedup();
        if is_enter(group.role) {
            // No third link may hold a site, or the kernel side could not tell its twin.
            self.join_closing();
            for site in &mut sites {
                site.cookie = site.cookie.twin();
            }
        }
        let on = self.held.iter().find(|link| link.group == group).map(|link| link.on.clone());
        if let Some(on) = on.as_ref().filter(|_| !sites.is_empty()) {
            self.add(program, group.role, on, group.pid, &sites)?;
        }
        if let Some(on) = on.filter(|_| group.role == Role::Ret) {
            self.dormant.extend(gone.into_iter().map(|site| (group, on.clone(), site)));
        }
        let gone = |link: &mut Link| link.group == group && link.id < before;
        let old: Vec<Link> = self.held.extract_if(.., gone).collect();
        self.closing.retain(|thread| !thread.is_finished());
        let closing = thread::Builder::new().name(String::from("qprof-detach"));
        let overlap = if is_enter(group.role) { OVERLAP } else { Duration::ZERO };
        let close = move || {
            thread::sleep(overlap);
            close(old);
        };
        // Where a thread cannot be had, they are closed here.
        self.closing.extend(closing.spawn(close).ok());
        Ok(())
    }

    fn join_closing(&mut self) {
        for thread in self.closing.drain(..) {
            // It drops links, and cannot fail.
            drop(thread.join());
        }
    }

    fn remove_where(&mut self, goes: impl Fn(&Link) -> bool) -> bool {
        let (gone, kept): (Vec<_>, _) = self.held.drain(..).partition(goes);
        self.held = kept;
        let any = !gone.is_empty();
        close(gone);
        any
    }
}

impl Drop for Links {
    /// Enters first: what has begun may still be seen to end, and nothing new begins.
    fn drop(&mut self) {
        self.remove_role(Role::Enter);
        self.remove_role(Role::GoEnter);
        self.remove_where(|_| true);
        self.join_closing();
    }
}

/// Whether calls are seen to begin there.
const fn is_enter(role: Role) -> bool {
    matches!(role, Role::Enter | Role::GoEnter)
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
