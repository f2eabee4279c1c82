//! Attaching a plan's sites, some of which the kernel may refuse.

use std::io;
use std::path::Path;

use aya::Ebpf;
use profiler_common::Role;
use rustc_hash::FxHashSet;

use super::links::{LinkId, Links, Probed};
use super::sites::{AttachSite, Refusals, RefusedSite, may_be_one_site, why};
use super::{AttachError, load};
use crate::model::{FileOffset, Pid};
use crate::plan::ProbePlan;
use crate::target::{ExitWatch, Inode, MappedObject, ObjectId, Target};

/// Attaching, half done: dropped, it detaches what it has attached.
pub(super) struct Attaching<'a> {
    pub(super) plan: &'a ProbePlan,
    pub(super) target: &'a Target,
    pub(super) watch: &'a ExitWatch,
    /// Let the links filter for this process.
    pub(super) link_pid: Option<Pid>,
    /// What is attached already.
    pub(super) done: &'a FxHashSet<Done>,
    /// Files in which nothing may be attached.
    pub(super) abandoned: &'a FxHashSet<Inode>,
    pub(super) bpf: &'a mut Ebpf,
    pub(super) links: &'a mut Links,
}

/// A site that is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Done {
    /// For whom; none: for every process.
    pub(super) pid: Option<Pid>,
    inode: Inode,
    offset: FileOffset,
    role: Role,
}

impl<'a> Attaching<'a> {
    pub(super) fn run(mut self) -> Result<(Vec<Done>, Vec<RefusedSite>), AttachError> {
        let mut refusals = Refusals::default();
        let first = self.links.next();
        loop {
            let dropped = refusals.dropped(self.plan);
            self.attach_role(&mut refusals, Role::Ret)?;
            self.attach_role(&mut refusals, Role::GoRuntime)?;
            self.attach_role(&mut refusals, Role::Enter)?;
            self.attach_role(&mut refusals, Role::GoEnter)?;
            if refusals.dropped(self.plan) == dropped {
                break;
            }
            // A function lost its last enter: its exits, which are attached already, go as well.
            self.links.remove_since(first);
        }
        let enters = [Role::Enter, Role::GoEnter];
        if enters.iter().all(|role| refusals.remaining(self.plan, *role).is_empty()) {
            return Err(AttachError::Nothing("no function of the plan can be probed"));
        }
        let roles = [Role::Ret, Role::GoRuntime, Role::Enter, Role::GoEnter];
        let done = roles.into_iter().flat_map(|role| {
            let groups = refusals.remaining(self.plan, role).into_iter();
            groups.flat_map(move |(object, sites)| {
                sites.into_iter().map(move |site| (object, site.offset, role))
            })
        });
        let done = done.filter_map(|(object, offset, role)| self.place(object, offset, role));
        Ok((done.collect(), refusals.report(self.plan)))
    }

    fn place(&self, object: ObjectId, offset: FileOffset, role: Role) -> Option<Done> {
        let inode = self.target.object(object)?.inode;
        Some(Done { pid: self.link_pid, inode, offset, role })
    }

    /// Attaches every remaining site of a role: a link an object.
    fn attach_role(&mut self, refusals: &mut Refusals, role: Role) -> Result<(), AttachError> {
        for (object, mut sites) in refusals.remaining(self.plan, role) {
            let is_done = |site: &AttachSite| {
                self.place(object, site.offset, role)
                    .is_some_and(|place| self.done.contains(&place))
            };
            sites.retain(|site| !is_done(site));
            let file = self.target.object(object).map(|object| object.inode);
            if sites.is_empty() || file.is_some_and(|file| self.abandoned.contains(&file)) {
                continue;
            }
            if self.add(role, object, &sites)?.is_ok() {
                continue;
            }
            let refused = self.find_refused(refusals, object, role, &sites)?;
            sites.retain(|site| !refused.contains(site));
            if !sites.is_empty()
                && let Err(error) = self.add(role, object, &sites)?
            {
                return Err(self.link_error(object, error));
            }
        }
        Ok(())
    }

    /// Adds a link. The inner error is one that may be the fault of a single site.
    fn add(
        &mut self,
        role: Role,
        object: ObjectId,
        sites: &[AttachSite],
    ) -> Result<Result<LinkId, io::Error>, AttachError> {
        let mapped = self.mapped(object)?;
        let on = Probed::open(mapped).map_err(|error| self.link_error(object, error))?;
        let program = load::uprobe(self.bpf, role)?;
        match self.links.add(program, role, &on, self.link_pid, sites) {
            Ok(id) => Ok(Ok(id)),
            Err(error) if may_be_one_site(&error) => Ok(Err(error)),
            Err(error) => Err(self.link_error(object, error)),
        }
    }

    /// Finds the sites of a refused link that the kernel refuses, by halves; the answer to a link
    /// does not say which. The links that succeed are silent and go at once.
    fn find_refused(
        &mut self,
        refusals: &mut Refusals,
        object: ObjectId,
        role: Role,
        sites: &[AttachSite],
    ) -> Result<Vec<AttachSite>, AttachError> {
        /// More, and it is not the sites.
        const MOST: usize = 64;
        let mut refused = Vec::new();
        let mut pending = vec![sites];
        while let Some(part) = pending.pop() {
            let silent: Vec<_> = part.iter().map(|site| site.silent()).collect();
            match (self.add(Role::Ret, object, &silent)?, part) {
                (Ok(id), _) => self.links.remove(id),
                (Err(error), [site]) => {
                    if refused.len() == MOST {
                        let path = self.mapped_path(object).to_owned();
                        return Err(AttachError::TooManyRefused {
                            path,
                            count: MOST,
                            source: error,
                        });
                    }
                    refused.push(*site);
                    refusals.add(object, role, *site, why(&error));
                }
                (Err(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    pending.extend([second, first]);
                }
            }
        }
        Ok(refused)
    }

    fn mapped(&self, object: ObjectId) -> Result<&'a MappedObject, AttachError> {
        let other = AttachError::Nothing("the plan was made for another target");
        self.target.object(object).ok_or(other)
    }

    fn mapped_path(&self, object: ObjectId) -> &'a Path {
        self.target.object(object).map_or(Path::new("(unknown)"), |object| &object.path)
    }

    /// A link failed as a whole: the target is gone, the object cannot be opened, or worse.
    fn link_error(&self, object: ObjectId, source: io::Error) -> AttachError {
        if self.watch.is_ending() || source.raw_os_error() == Some(libc::ESRCH) {
            return AttachError::TargetGone { pid: self.target.pid };
        }
        let (Some(errno), Some(object)) = (source.raw_os_error(), self.target.object(object))
        else {
            return AttachError::bpf("attach to the target", source);
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EBADF | libc::EACCES => {
                AttachError::Object {
                    path: object.path.clone(),
                    open_path: object.open_path.clone(),
                    source,
                }
            }
            _ => AttachError::bpf("attach to the target", source),
        }
    }
}
