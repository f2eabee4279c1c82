//! Attaching a plan to a target, and what is then attached.

use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::sys::{UProbeMultiFeature, is_uprobe_multi_supported};
use profiler_common::Role;

use super::kernel_log::KernelLog;
use super::links::{LinkId, Links};
use super::sites::{AttachSite, Refusals, RefusedSite, may_be_one_site, why};
use super::{AttachError, KernelCounts, features, kernel_log, load};
use crate::model::Pid;
use crate::plan::ProbePlan;
use crate::reader::Ring;
use crate::target::{ExitWatch, ObjectId, Target};

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Size of the ring buffer, bytes: a power of two, at least 4096.
    pub ring_bytes: u32,
    /// Log every event from within the kernel, to `tracing` (target `qprof::kernel`, level debug): for debugging the kernel
    /// side itself. Off, the verifier removes it.
    pub kernel_log: bool,
}

impl Default for AttachOptions {
    /// 4 MiB: 65,000 events without words, 1.6 seconds of 20,000 calls a second.
    fn default() -> Self {
        Self { ring_bytes: 4 << 20, kernel_log: false }
    }
}

/// A plan, attached. Dropping it detaches: enters first, then exits, then the rest.
pub struct Attached {
    // Dropped in this order: no probe may outlive what its program writes to.
    links: Links,
    ring: Option<Ring>,
    log: Option<KernelLog>,
    refused: Vec<RefusedSite>,
    probes: usize,
    bpf: Ebpf,
}

/// Attaches a plan to a target: exits first, then enters, so that no call is seen to begin whose
/// end cannot be seen.
///
/// Sites that the kernel refuses are left out (see [`Attached::refused`]); a function whose last
/// enter is refused goes with all its sites.
///
/// # Errors
///
/// See [`AttachError`]. Whatever the error, nothing stays attached.
pub fn attach(
    plan: &ProbePlan,
    target: &Target,
    options: &AttachOptions,
) -> Result<Attached, AttachError> {
    let pid = target.pid;
    let mut bpf = load_for(pid, *options)?;
    let watch = target.watch().map_err(|_gone| AttachError::TargetGone { pid })?;
    load::write_captures(&mut bpf, plan)?;
    let ring = load::take_ring(&mut bpf)?;
    let log = if options.kernel_log { Some(kernel_log::open(&mut bpf)?) } else { None };
    load::watch_thread_ends(&mut bpf)?;
    let link_pid = link_filters_by_process()?.then_some(pid);
    let attaching = Attaching {
        plan,
        target,
        watch: &watch,
        link_pid,
        bpf: &mut bpf,
        links: Links::default(),
        refusals: Refusals::default(),
    };
    let attached = attaching.run();
    // Of a process that dies, anything can be missing.
    if watch.is_ending() {
        return Err(AttachError::TargetGone { pid });
    }
    let (links, refused) = attached?;
    Ok(Attached { links, ring: Some(ring), log, refused, probes: plan.probes.len(), bpf })
}

/// Loads the kernel side, once it is sure that the kernel has what it needs.
fn load_for(pid: Pid, options: AttachOptions) -> Result<Ebpf, AttachError> {
    if !features::in_initial_pid_namespace() {
        return Err(AttachError::PidNamespace);
    }
    let what = "ask the kernel for uprobe_multi links";
    match is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation) {
        Ok(true) => load::load(pid, options.ring_bytes, options.kernel_log),
        Ok(false) => Err(AttachError::KernelTooOld { release: features::release() }),
        Err(error) => Err(AttachError::bpf(what, error)),
    }
}

/// Whether a link's own process filter is right here; see [`super::KernelFeatures`].
fn link_filters_by_process() -> Result<bool, AttachError> {
    is_uprobe_multi_supported(UProbeMultiFeature::ProcessScopedPidFilter)
        .map_err(|error| AttachError::bpf("ask the kernel for its process filter", error))
}

impl Attached {
    /// The ring of events: once, then none.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// What the kernel side has counted so far.
    ///
    /// # Errors
    ///
    /// If the kernel does not hand out the counters, which it has no reason to.
    pub fn counters(&self) -> Result<KernelCounts, AttachError> {
        KernelCounts::read(&self.bpf, self.probes)
    }

    /// The planned sites that the kernel would not probe.
    #[must_use]
    pub fn refused(&self) -> &[RefusedSite] {
        &self.refused
    }

    /// Passes on what the kernel side has logged, if [`AttachOptions::kernel_log`] asked for it. To
    /// be called as often as the ring is drained.
    pub fn flush_kernel_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Detaches the enters only: no new call is seen to begin, those that have begun still end.
    pub fn detach_enters(&mut self) {
        self.links.remove_role(Role::Enter);
    }

    /// Detaches all, and returns when the target is as it was.
    pub fn detach(self) {}
}

/// Attaching, half done: dropped, it detaches what it has attached.
struct Attaching<'a> {
    plan: &'a ProbePlan,
    target: &'a Target,
    watch: &'a ExitWatch,
    link_pid: Option<Pid>,
    bpf: &'a mut Ebpf,
    links: Links,
    refusals: Refusals,
}

impl<'a> Attaching<'a> {
    fn run(mut self) -> Result<(Links, Vec<RefusedSite>), AttachError> {
        loop {
            let dropped = self.refusals.dropped(self.plan);
            self.attach_role(Role::Ret)?;
            self.attach_role(Role::Enter)?;
            if self.refusals.dropped(self.plan) == dropped {
                break;
            }
            // A function lost its last enter: its exits, which are attached already, go as well.
            self.links = Links::default();
        }
        let enters = self.refusals.remaining(self.plan, Role::Enter);
        if enters.is_empty() {
            return Err(AttachError::Nothing("no function of the plan can be probed"));
        }
        Ok((self.links, self.refusals.report(self.plan)))
    }

    /// Attaches every remaining site of a role: a link an object.
    fn attach_role(&mut self, role: Role) -> Result<(), AttachError> {
        for (object, mut sites) in self.refusals.remaining(self.plan, role) {
            if self.add(role, object, &sites)?.is_ok() {
                continue;
            }
            let refused = self.find_refused(object, role, &sites)?;
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
        let path = self.open_path(object)?;
        let program = load::uprobe(self.bpf, role)?;
        match self.links.add(program, role, path, self.link_pid, sites) {
            Ok(id) => Ok(Ok(id)),
            Err(error) if may_be_one_site(&error) => Ok(Err(error)),
            Err(error) => Err(self.link_error(object, error)),
        }
    }

    /// Finds the sites of a refused link that the kernel refuses, by halves; the answer to a link
    /// does not say which. The links that succeed are silent and go at once.
    fn find_refused(
        &mut self,
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
                    self.refusals.add(object, role, *site, why(&error));
                }
                (Err(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    pending.extend([second, first]);
                }
            }
        }
        Ok(refused)
    }

    fn open_path(&self, object: ObjectId) -> Result<&'a Path, AttachError> {
        match self.target.object(object) {
            Some(object) => Ok(&object.open_path),
            None => Err(AttachError::Nothing("the plan was made for another target")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rules;

    #[test]
    fn what_is_attached_may_go_to_another_thread() {
        fn goes<T: Send>() {}
        goes::<Attached>();
        goes::<Ring>();
        goes::<AttachError>();
    }

    #[test]
    fn without_rights_it_says_which_are_missing() {
        let plan = ProbePlan { probes: Vec::new(), rules: Rules::default(), skipped: Vec::new() };
        let pid = Pid(std::process::id());
        let target = Target { pid, name: String::new(), objects: Vec::new() };
        // Capabilities are a thread's own: the other tests keep theirs.
        let attaching = std::thread::spawn(move || {
            caps::clear(None, caps::CapSet::Effective).unwrap();
            attach(&plan, &target, &AttachOptions::default()).err().unwrap()
        });
        let error = attaching.join().unwrap();
        assert!(error.is_permission_or_kernel() && !error.is_target(), "{error}");
        let text = error.to_string();
        assert!(text.contains("missing CAP_BPF, CAP_PERFMON") && text.contains("setcap"), "{text}");
    }
}
