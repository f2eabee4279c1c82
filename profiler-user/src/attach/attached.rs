//! The kernel side, loaded, and what of a target is attached to it.

use aya::Ebpf;
use aya::programs::uprobe::UProbeLink;
use aya::sys::{UProbeMultiFeature, is_uprobe_multi_supported};
use profiler_common::{Fold, FoldKey, LandingCount, LandingId, ProbeId, Return, Role};
use rustc_hash::FxHashSet;

use super::attaching::{Attaching, Done};
use super::kernel_log::KernelLog;
use super::landings::{self, NewLanding};
use super::links::Links;
use super::run_time::RunTime;
use super::sites::RefusedSite;
use super::{AttachError, KernelCounts, counts, features, go, kernel_log, load, quiet};
use crate::model::{FileOffset, Pid, ReturnAddr};
use crate::plan::ProbePlan;
use crate::reader::Ring;
use crate::target::{Inode, MappedObject, Target};

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Size of the ring buffer, bytes: a power of two, at least 4096.
    pub ring_bytes: u32,
    /// Log every event from within the kernel, to `tracing` (target `qprof::kernel`, level debug): for debugging the kernel
    /// side itself. Off, the verifier removes it.
    pub kernel_log: bool,
    /// Let links filter by process where the kernel says that it does that right; false where it was
    /// seen not to.
    pub link_filter: bool,
    /// A target may be a Go program. Off, the verifier removes all that concerns goroutines.
    pub go: bool,
}

impl Default for AttachOptions {
    /// 4 MiB: 65,000 events without words, 1.6 seconds of 20,000 calls a second.
    fn default() -> Self {
        Self { ring_bytes: 4 << 20, kernel_log: false, link_filter: true, go: false }
    }
}

/// Whose events are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One process's, for good: the cheapest question at each hit.
    One(Pid),
    /// Those of the processes told by [`Attached::observe`], which may come and go.
    Several,
    /// The same, and of every process they make. The links do not filter then: any process that
    /// maps a probed file runs into its breakpoints, and is sent on.
    Tree,
}

/// The kernel side with what is attached to it. Dropping it detaches: enters first, then exits,
/// then the rest.
pub struct Attached {
    // Dropped in this order: no probe may outlive what its program writes to.
    links: Links,
    ring: Option<Ring>,
    log: Option<KernelLog>,
    stop: Option<UProbeLink>,
    refused: Vec<RefusedSite>,
    probes: usize,
    run_time: RunTime,
    done: FxHashSet<Done>,
    abandoned: FxHashSet<Inode>,
    targets: Targets,
    by_process: bool,
    bpf: Ebpf,
}

impl Attached {
    /// Loads the kernel side and listens for processes and threads that end; no probe is attached.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn load(targets: Targets, options: &AttachOptions) -> Result<Self, AttachError> {
        let mut bpf = load_for(targets, *options)?;
        let ring = load::take_ring(&mut bpf)?;
        let log = if options.kernel_log { Some(kernel_log::open(&mut bpf)?) } else { None };
        load::watch_processes(&mut bpf, targets)?;
        Ok(Self {
            links: Links::default(),
            ring: Some(ring),
            log,
            stop: None,
            refused: Vec::new(),
            probes: 0,
            run_time: RunTime::default(),
            done: FxHashSet::default(),
            abandoned: FxHashSet::default(),
            targets,
            by_process: targets != Targets::Tree
                && options.link_filter
                && link_filters_by_process()?,
            bpf,
        })
    }

    /// Takes the events of a process too; without effect for [`Targets::One`].
    ///
    /// # Errors
    ///
    /// If there are too many already.
    pub fn observe(&mut self, pid: Pid) -> Result<(), AttachError> {
        if let Targets::One(_) = self.targets { Ok(()) } else { load::observe(&mut self.bpf, pid) }
    }

    /// Tells with which word a process's C library mangles a `jmp_buf`: with it the kernel side knows how
    /// far the process jumps.
    pub fn set_guard(&mut self, pid: Pid, guard: u64) {
        load::set_guard(&mut self.bpf, pid, guard);
    }

    /// Takes the events of a process too, once it has become another program; and stops it there.
    ///
    /// # Errors
    ///
    /// If there are too many already.
    pub fn hold(&mut self, pid: Pid) -> Result<(), AttachError> {
        load::hold(&mut self.bpf, pid)
    }

    /// Stops a target when it comes to a place of an object, until [`Self::stop_no_more`].
    ///
    /// # Errors
    ///
    /// If the kernel does not take a probe there.
    pub fn stop_at(
        &mut self,
        pid: Pid,
        object: &MappedObject,
        at: FileOffset,
    ) -> Result<(), AttachError> {
        self.stop = Some(load::stop_at(&mut self.bpf, pid, object, at)?);
        Ok(())
    }

    /// Stops no target any more.
    pub fn stop_no_more(&mut self) {
        self.stop = None;
    }

    /// Removes what is for one process alone; it can be attached again.
    pub fn remove_own(&mut self, pid: Pid) {
        if self.by_process {
            self.links.remove_process(pid);
            self.done.retain(|done| done.pid != Some(pid));
        }
    }

    /// A process has ended: takes no events under its number, and removes what is for it alone.
    pub fn forget(&mut self, pid: Pid) {
        self.remove_own(pid);
        load::forget(&mut self.bpf, pid);
        go::forget_goroutines(&mut self.bpf, pid);
    }

    /// Attaches what of a plan is not attached yet, and says how many sites that is: exits first, then
    /// enters, so that no call is seen to begin whose end cannot be seen. The ids of `plan` are those of the whole run.
    ///
    /// Sites that the kernel refuses are left out (see [`Attached::refused`]); a function whose last
    /// enter is refused goes with all its sites.
    ///
    /// # Errors
    ///
    /// See [`AttachError`]. Whatever the error, what was attached before is as it was.
    pub fn attach(&mut self, plan: &ProbePlan, target: &Target) -> Result<usize, AttachError> {
        let pid = target.pid;
        let watch = target.watch().map_err(|_gone| AttachError::TargetGone { pid })?;
        load::write_captures(&mut self.bpf, plan)?;
        self.tell_of_go(plan, pid)?;
        let first = self.links.next();
        let attaching = Attaching {
            plan,
            target,
            watch: &watch,
            link_pid: self.by_process.then_some(pid),
            done: &self.done,
            abandoned: &self.abandoned,
            bpf: &mut self.bpf,
            links: &mut self.links,
        };
        let attached = attaching.run();
        // Of a process that dies, anything can be missing.
        let attached =
            if watch.is_ending() { Err(AttachError::TargetGone { pid }) } else { attached };
        match attached {
            Ok((done, refused)) => {
                let before = self.done.len();
                self.done.extend(done);
                self.refused.extend(refused);
                let last = plan.probes.iter().map(|probe| probe.id.index() + 1).max();
                self.probes = self.probes.max(last.unwrap_or(0));
                Ok(self.done.len() - before)
            }
            Err(error) => {
                self.links.remove_since(first);
                Err(error)
            }
        }
    }

    /// Tells the kernel side of the Go program that a process runs, if a plan is for one.
    ///
    /// # Errors
    ///
    /// If the kernel has no room for it.
    pub fn tell_of_go(&mut self, plan: &ProbePlan, pid: Pid) -> Result<(), AttachError> {
        let (Some(go), Some(space)) = (&plan.go, self.space_of(pid)) else { return Ok(()) };
        let alive = self.spaces();
        go::tell(&mut self.bpf, space, go, &alive)
    }

    /// Attaches landings in an object of a process, and says which of them the kernel takes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses for another reason than the sites; none of those that are left is
    /// attached then.
    pub fn land(
        &mut self,
        pid: Pid,
        object: &MappedObject,
        new: &[NewLanding],
    ) -> Result<Vec<LandingId>, AttachError> {
        if self.abandoned.contains(&object.inode) {
            return Ok(Vec::new());
        }
        let pid = self.link_pid(pid);
        landings::attach(&mut self.bpf, &mut self.links, object, pid, new)
    }

    /// Tells the kernel side what is known of a return address; its landings are attached. False
    /// if there is no room for more.
    ///
    /// # Errors
    ///
    /// If the kernel refuses for another reason.
    pub fn learn(
        &mut self,
        space: u64,
        address: ReturnAddr,
        known: Return,
    ) -> Result<bool, AttachError> {
        landings::learn(&mut self.bpf, space, address, known)
    }

    /// Takes back what was told of a return address.
    pub fn unlearn(&mut self, space: u64, address: ReturnAddr) {
        landings::forget(&mut self.bpf, space, address);
    }

    /// The address space of a process: what the kernel side tells return addresses apart by. None
    /// if it is no target.
    pub fn space_of(&mut self, pid: Pid) -> Option<u64> {
        match self.targets {
            Targets::One(target) => (target == pid).then_some(u64::from(pid.0)),
            Targets::Several | Targets::Tree => load::space_of(&mut self.bpf, pid),
        }
    }

    /// The process that links for `pid` filter by; none if they are for all.
    #[must_use]
    pub fn link_pid(&self, pid: Pid) -> Option<Pid> {
        self.by_process.then_some(pid)
    }

    /// The address spaces of the targets.
    pub fn spaces(&mut self) -> FxHashSet<u64> {
        match self.targets {
            Targets::One(pid) => FxHashSet::from_iter([u64::from(pid.0)]),
            Targets::Several | Targets::Tree => load::spaces(&mut self.bpf),
        }
    }

    /// How often the first `len` landings were run into.
    ///
    /// # Errors
    ///
    /// If the kernel does not hand out the counters, which it has no reason to.
    pub fn landing_counts(&self, len: usize) -> Result<Vec<LandingCount>, AttachError> {
        counts::landings(&self.bpf, len)
    }

    /// Removes the exit sites of probes that need them no more. All others stay where they are.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; what is attached then is enough.
    pub fn retire_rets(&mut self, stays: impl Fn(ProbeId) -> bool) -> Result<(), AttachError> {
        let program = load::uprobe(&mut self.bpf, Role::Ret)?;
        self.links
            .keep(program, Role::Ret, |site| stays(site.cookie.probe()))
            .map_err(|error| AttachError::bpf("remove exit sites", error))
    }

    /// Attaches exit sites of probes again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn wake_rets(&mut self, wanted: impl Fn(ProbeId) -> bool) -> Result<(), AttachError> {
        let program = load::uprobe(&mut self.bpf, Role::Ret)?;
        self.links
            .wake(program, Role::Ret, |site| wanted(site.cookie.probe()))
            .map_err(|error| AttachError::bpf("attach exit sites again", error))
    }

    /// Lets the calls of a probe begin unseen from now on; those that are open still end.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, which it has no reason to.
    pub fn silence(&mut self, probe: ProbeId) -> Result<(), AttachError> {
        quiet::silence(&mut self.bpf, probe, true)
    }

    /// Removes the enter sites of probes, of which no call is to be seen any more. All others stay
    /// where they are, and no call of theirs is missed or seen twice.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; what is attached then is too much, but right.
    pub fn retire_enters(&mut self, stays: impl Fn(ProbeId) -> bool) -> Result<(), AttachError> {
        for role in [Role::Enter, Role::GoEnter] {
            let program = load::uprobe(&mut self.bpf, role)?;
            self.links
                .keep(program, role, |site| stays(site.cookie.probe()))
                .map_err(|error| AttachError::bpf("remove enter sites", error))?;
        }
        Ok(())
    }

    /// Lets the kernel take the time that our programs run, from now on or no longer.
    pub fn take_run_time(&mut self, take: bool) {
        if take { self.run_time.begin(&mut self.bpf) } else { self.run_time.end(&mut self.bpf) }
    }

    /// How long one run of a program at a probe takes, nanoseconds; none if the kernel has not told.
    #[must_use]
    pub fn run_time_ns(&self) -> Option<f64> {
        self.run_time.mean_ns()
    }

    /// Takes what is folded below calls that are still open; once no enter is attached any more.
    ///
    /// # Errors
    ///
    /// If the kernel does not hand it out, which it has no reason to.
    pub fn take_folds(&mut self) -> Result<Vec<(FoldKey, Fold)>, AttachError> {
        quiet::take_folds(&mut self.bpf)
    }

    /// Removes landings that are not worth their cost. All others stay where they are.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; what is attached then is too much, but right.
    pub fn retire_landings(
        &mut self,
        stays: impl Fn(LandingId) -> bool,
    ) -> Result<(), AttachError> {
        let program = load::uprobe(&mut self.bpf, Role::Landing)?;
        self.links
            .keep(program, Role::Landing, |site| stays(site.cookie.landing()))
            .map_err(|error| AttachError::bpf("remove landings", error))
    }

    /// Removes every probe from a file, by device and inode, for good: what lies in it is not what
    /// was planned for. Whether there was any.
    pub fn abandon(&mut self, inode: Inode) -> bool {
        self.abandoned.insert(inode);
        self.links.remove_file(inode)
    }

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
        self.links.remove_role(Role::GoEnter);
    }

    /// Detaches all, and returns when the target is as it was.
    pub fn detach(&mut self) {
        self.links = Links::default();
    }
}

/// Loads the kernel side, once it is sure that the kernel has what it needs.
fn load_for(targets: Targets, options: AttachOptions) -> Result<Ebpf, AttachError> {
    if !features::in_initial_pid_namespace() {
        return Err(AttachError::PidNamespace);
    }
    let what = "ask the kernel for uprobe_multi links";
    match is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation) {
        Ok(true) => load::load(targets, options),
        Ok(false) => Err(AttachError::KernelTooOld { release: features::release() }),
        Err(error) => Err(AttachError::bpf(what, error)),
    }
}

/// Whether a link's own process filter is right here; see [`super::KernelFeatures`].
fn link_filters_by_process() -> Result<bool, AttachError> {
    is_uprobe_multi_supported(UProbeMultiFeature::ProcessScopedPidFilter)
        .map_err(|error| AttachError::bpf("ask the kernel for its process filter", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attached_may_go_to_another_thread() {
        fn goes<T: Send>() {}
        goes::<Attached>();
        goes::<Ring>();
        goes::<AttachError>();
    }

    #[test]
    fn without_rights_it_says_which_are_missing() {
        let targets = Targets::One(Pid(std::process::id()));
        // Capabilities are a thread's own: the other tests keep theirs.
        let attaching = std::thread::spawn(move || {
            caps::clear(None, caps::CapSet::Effective).unwrap();
            Attached::load(targets, &AttachOptions::default()).err().unwrap()
        });
        let error = attaching.join().unwrap();
        assert!(error.is_permission_or_kernel() && !error.is_target(), "{error}");
        let text = error.to_string();
        assert!(text.contains("missing CAP_BPF, CAP_PERFMON") && text.contains("setcap"), "{text}");
    }
}
