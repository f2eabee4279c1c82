//! The kernel side on code of our own: what a probe does to an instruction, and what it costs.

use std::num::NonZeroU32;
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::ProgramError;
use aya::programs::uprobe::{
    UProbeAttachLocation, UProbeAttachPoint, UProbeError, UProbeLink, UProbeScope,
};
use profiler_common::{
    CaptureProgram, Cookie, Counter, LandingId, LaneKind, ProbeId, Role, global,
};

use super::error::errno;
use super::features::in_initial_pid_namespace;
use super::links::ENOTSUPP;
use super::{AttachError, AttachOptions, KernelCounts, Targets, load};
use crate::model::{FileOffset, Pid};
use crate::reader::Ring;

/// A site of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialSite {
    /// Where in the file.
    pub offset: FileOffset,
    /// Under which number its hits are counted.
    pub probe: ProbeId,
    /// What runs there.
    pub program: TrialProgram,
}

/// What runs at a site of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialProgram {
    /// The beginning of a call; its event carries nothing.
    Enter,
    /// The same; its event carries what [`Trial::capture`] says.
    Capture,
    /// Where calls come back, none of which is awaited.
    Landing,
}

impl TrialProgram {
    const fn role(self) -> Role {
        match self {
            Self::Enter | Self::Capture => Role::Enter,
            Self::Landing => Role::Landing,
        }
    }
}

/// The kernel side's programs on a file of our own. They make events only of the processes
/// told by [`Self::observe`]; every other one that maps the file is sent on. Dropped, it detaches.
pub struct Trial {
    // Dropped in this order: no probe may outlive what its program writes to.
    links: Vec<UProbeLink>,
    ring: Ring,
    file: PathBuf,
    bpf: Ebpf,
}

impl Trial {
    /// Loads the kernel side. `file`: what is to be probed.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn load(file: PathBuf, ring_bytes: u32) -> Result<Self, AttachError> {
        // Its children would have other numbers for the kernel side than for us.
        if !in_initial_pid_namespace() {
            return Err(AttachError::PidNamespace);
        }
        let options = AttachOptions { ring_bytes, go: false, ..AttachOptions::default() };
        let mut bpf = load::load(Targets::Several, options)?;
        let ring = load::take_ring(&mut bpf)?;
        Ok(Self { links: Vec::new(), ring, file, bpf })
    }

    /// Takes events of a process from now on.
    ///
    /// # Errors
    ///
    /// If it cannot be added to the targets.
    pub fn observe(&mut self, pid: Pid) -> Result<(), AttachError> {
        load::observe(&mut self.bpf, pid)
    }

    /// Takes no events of a process any more.
    pub fn forget(&mut self, pid: Pid) {
        load::forget(&mut self.bpf, pid);
    }

    /// Says what the events of a probe carry.
    ///
    /// # Errors
    ///
    /// If the kernel does not take it.
    pub fn capture(&mut self, probe: ProbeId, program: &CaptureProgram) -> Result<(), AttachError> {
        let what = "write the capture programs";
        let missing = || AttachError::Bpf { what, source: "there is no such BPF map".into() };
        let map = self.bpf.map_mut(global::CAPTURES).ok_or_else(missing)?;
        let mut captures: Array<&mut MapData, CaptureProgram> =
            map.try_into().map_err(|error| AttachError::bpf(what, error))?;
        captures
            .set(CaptureProgram::index(probe, Role::Enter), program, 0)
            .map_err(|error| AttachError::bpf(what, error))
    }

    /// Attaches to all of the sites that the kernel takes, and returns those it does not. `pid`: the
    /// links filter for this process themselves. All landings or none.
    ///
    /// # Errors
    ///
    /// If something else is wrong than single sites.
    pub fn attach(
        &mut self,
        sites: &[TrialSite],
        pid: Option<Pid>,
    ) -> Result<Vec<TrialSite>, AttachError> {
        let mut refused = Vec::new();
        let mut pending = vec![sites];
        while let Some(part) = pending.pop() {
            match (self.link(part, pid), part) {
                (_, []) | (Ok(()), _) => {}
                (Err(error), _) if !may_be_one_site(&error) => {
                    return Err(AttachError::bpf("attach to code of our own", error));
                }
                (Err(_), [site]) => refused.push(*site),
                (Err(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    pending.extend([second, first]);
                }
            }
        }
        Ok(refused)
    }

    fn link(&mut self, sites: &[TrialSite], pid: Option<Pid>) -> Result<(), ProgramError> {
        let Some(first) = sites.first() else { return Ok(()) };
        let role = first.program.role();
        let scope = pid
            .and_then(|pid| NonZeroU32::new(pid.0))
            .map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let points = sites.iter().map(|site| {
            let cookie = match site.program {
                TrialProgram::Enter => Cookie::new(site.probe, 0, 0),
                TrialProgram::Capture => Cookie::new(site.probe, Cookie::HAS_CAPTURE, 0),
                // No call has its return slot below the stack pointer.
                TrialProgram::Landing => {
                    Cookie::of_landing(LandingId(site.probe.0), LaneKind::Thread, -8)
                }
            };
            UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(site.offset.0),
                cookie: Some(cookie.0),
            }
        });
        let program = load::uprobe(&mut self.bpf, role)
            .map_err(|error| ProgramError::IOError(std::io::Error::other(error)))?;
        let id = program.attach(points, &self.file, scope)?;
        self.links.push(program.take_link(id)?);
        Ok(())
    }

    /// How often each of the first `probes` probes was hit by processes that are observed.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn hits(&self, probes: usize) -> Result<Vec<u64>, AttachError> {
        let counts = KernelCounts::read(&self.bpf, probes)?;
        Ok((0..probes).map(|probe| counts.hits(ProbeId(probe as u16))).collect())
    }

    /// How many events were lost because the ring was full.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn lost(&self) -> Result<u64, AttachError> {
        Ok(KernelCounts::read(&self.bpf, 0)?.get(Counter::RingFull))
    }

    /// Empties the ring.
    pub fn drain(&mut self) {
        while self.ring.drain(|_| {}) == Ring::BATCH {}
    }
}

impl Drop for Trial {
    /// Each link takes the kernel 40–65 ms, so all at once.
    fn drop(&mut self) {
        let links = std::mem::take(&mut self.links);
        std::thread::scope(|scope| {
            for link in links {
                // Where a thread cannot be had, it is closed here.
                let close = move || drop(link);
                let _ = std::thread::Builder::new().spawn_scoped(scope, close);
            }
        });
    }
}

/// Whether the kernel's answer to a link can be the fault of one site: all are in the file and on
/// boundaries, so only that it does not probe the instruction.
fn may_be_one_site(error: &ProgramError) -> bool {
    // aya reads `EOPNOTSUPP` as a kernel without such links.
    matches!(error, ProgramError::UProbeError(UProbeError::MultiLinkNotSupported))
        || matches!(errno(error), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::ENOEXEC | libc::EINVAL))
}
