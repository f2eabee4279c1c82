//! The processes of a run: which there are, what runs in them, and the one plan for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::look::{Failed, ImageKey, Images, Job, Looker, News, Probed, image_key, look};
use super::prepare::{PrepareError, Prepared, Search};
use crate::config::SymbolMap;
use crate::model::{Pid, Rules, Watches};
use crate::plan::{GrowingPlan, ProbePlan};
use crate::symbols::build_id_of;
use crate::target::{ExitWatch, Inode, Target, TargetError};

/// How long after a loader's word its process is looked at: it speaks before it maps, too.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a process is looked at whose loader says nothing.
const POLL: Duration = Duration::from_millis(500);
/// Processes that wait to be looked at; more are not, and counted.
const WAITING: usize = 4096;
/// How often the children that are known are held against those that live: the word of an end can
/// be lost.
const SWEEP: Duration = Duration::from_secs(5);

/// A process of the run.
#[derive(Debug)]
struct Process {
    name: String,
    /// Its executable; none until it was looked at.
    image: Option<ImageKey>,
    /// Held for those the run was aimed at; a child's end is told by the kernel side.
    watch: Option<ExitWatch>,
    polled: Instant,
}

/// What is to be told of the run's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FleetStats {
    /// Processes seen, the first included.
    pub(super) processes: u64,
    /// Those that were to be looked at and were not, because too many were.
    pub(super) not_looked: u64,
    /// Files whose probes were removed because they were overwritten.
    pub(super) overwritten: u64,
}

/// The processes of a run.
pub(crate) struct Fleet {
    /// None until one fits.
    map: Option<Arc<SymbolMap>>,
    search: Search,
    /// Probes are for all processes at once.
    shared: bool,
    plan: GrowingPlan,
    images: Arc<Images>,
    processes: BTreeMap<Pid, Process>,
    waiting: BTreeMap<Pid, Instant>,
    looker: Looker,
    probed: Arc<FxHashMap<Inode, Probed>>,
    /// Files that were found overwritten and are still probed.
    overwritten: Vec<Inode>,
    swept: Instant,
    stats: FleetStats,
}

/// What a process has become known to need.
pub(super) struct Addition {
    image: ImageKey,
    pub(super) target: Target,
    /// With the ids of the run.
    pub(super) plan: ProbePlan,
    pub(super) took: Duration,
}

impl Fleet {
    pub(super) fn new(
        map: Option<SymbolMap>,
        search: Search,
        shared: bool,
    ) -> std::io::Result<Self> {
        Ok(Self {
            map: map.map(Arc::new),
            search,
            shared,
            plan: GrowingPlan::default(),
            images: Arc::default(),
            processes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            looker: Looker::start()?,
            probed: Arc::default(),
            overwritten: Vec::new(),
            swept: Instant::now(),
            stats: FleetStats::default(),
        })
    }

    pub(super) const fn rules(&self) -> &Rules {
        self.plan.rules()
    }

    pub(super) const fn stats(&self) -> FleetStats {
        self.stats
    }

    /// The map's name; none until one fits.
    pub(super) fn map_name(&self) -> Option<&str> {
        self.map.as_deref().map(|map| map.name.as_str())
    }

    /// What traces of the map are called, where the user does not say; none until a map fits.
    pub(super) fn service(&self) -> Option<&str> {
        self.map.as_deref().map(|map| map.system.as_str())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    pub(super) fn has(&self, pid: Pid) -> bool {
        self.processes.contains_key(&pid)
    }

    /// The processes that the run is aimed at, and that have not ended.
    pub(super) fn aimed(&self) -> impl Iterator<Item = Pid> {
        self.processes.iter().filter(|(_, process)| process.watch.is_some()).map(|(pid, _)| *pid)
    }

    /// Takes in a process the run is aimed at, whose plan is made.
    pub(super) fn add(
        &mut self,
        prepared: Prepared,
        satisfied: Vec<bool>,
    ) -> Result<Addition, TargetError> {
        let Prepared { target, map, plan, searched, took, .. } = prepared;
        self.map.get_or_insert_with(|| Arc::new(map));
        self.aim_at(&target)?;
        let exe = target.objects.first().map_or((0, 0), |object| object.inode);
        let news = News {
            image: image_key(exe, target.pid, self.shared),
            name: target.name.clone(),
            objects: searched,
            satisfied,
            map: None,
            target,
            plan,
            took,
        };
        Ok(self.learn(news))
    }

    /// Takes in a process the run is aimed at, to be looked at as soon as may be.
    pub(super) fn aim_at(&mut self, target: &Target) -> Result<(), TargetError> {
        let watch = Some(target.watch()?);
        self.stats.processes += u64::from(!self.has(target.pid));
        let (name, polled) = (target.name.clone(), Instant::now());
        self.processes.insert(target.pid, Process { name, image: None, watch, polled });
        Ok(())
    }

    /// Takes in a child, which runs what its parent runs.
    pub(super) fn forked(&mut self, parent: Pid, child: Pid) {
        self.stats.processes += 1;
        let (name, image) = self
            .processes
            .get(&parent)
            .map_or_else(|| (String::new(), None), |parent| (parent.name.clone(), parent.image));
        if image.is_none() {
            self.look_at(child);
        }
        let watch = None;
        self.processes.insert(child, Process { name, image, watch, polled: Instant::now() });
    }

    /// Takes in a child that was there before.
    pub(super) fn found(&mut self, child: Pid) {
        self.stats.processes += 1;
        let (name, image, watch) = (String::new(), None, None);
        self.processes.insert(child, Process { name, image, watch, polled: Instant::now() });
        self.look_at(child);
    }

    /// A process runs another program.
    pub(super) fn became(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.image = None;
            self.look_at(pid);
        }
    }

    /// What was attached for a process alone is so no more.
    pub(super) fn forget_image(&mut self, pid: Pid) {
        Arc::make_mut(&mut self.images).retain(|(_, of), _| *of != Some(pid));
    }

    /// A process has become another program, or its loader has mapped something.
    pub(super) fn look_at(&mut self, pid: Pid) {
        if self.waiting.len() >= WAITING && !self.waiting.contains_key(&pid) {
            if self.stats.not_looked == 0 {
                tracing::warn!(
                    "more than {WAITING} processes wait to be looked at: some are not, and counted"
                );
            }
            self.stats.not_looked += 1;
            return;
        }
        self.waiting.entry(pid).or_insert_with(|| Instant::now() + SETTLE);
    }

    /// Files that were found overwritten since the last call.
    pub(super) fn overwritten(&mut self) -> Vec<Inode> {
        std::mem::take(&mut self.overwritten)
    }

    /// A file was overwritten, and its probes removed.
    pub(super) const fn abandoned(&mut self) {
        self.stats.overwritten += 1;
    }

    /// The name of a file that is probed, for people.
    pub(super) fn name_of(&self, inode: Inode) -> String {
        let known = self.probed.get(&inode);
        known.map_or_else(|| format!("inode {}", inode.1), |known| known.path.clone())
    }

    /// A process has ended. Whether it was one of the run.
    pub(super) fn ended(&mut self, pid: Pid) -> bool {
        self.waiting.remove(&pid);
        // Its number may come back as another's, whose probes are not there yet.
        self.forget_image(pid);
        self.processes.remove(&pid).is_some()
    }

    /// The processes that have ended as far as user space can tell by itself.
    pub(super) fn exited(&mut self) -> Vec<Pid> {
        let now = Instant::now();
        let sweep = now - self.swept >= SWEEP;
        if sweep {
            self.swept = now;
        }
        let gone = |pid: Pid, process: &Process| match &process.watch {
            Some(watch) => watch.has_exited(),
            None => sweep && ExitWatch::new(pid).is_err(),
        };
        let exited = self.processes.iter().filter(|(pid, process)| gone(**pid, process));
        exited.map(|(pid, _)| *pid).collect()
    }

    /// What the processes that have changed need; call it again and again.
    pub(super) fn look(&mut self) -> Option<Result<Addition, Failed>> {
        self.poll();
        let result = self.looker.result();
        if !self.looker.is_busy()
            && let Some(pid) = self.next_due()
        {
            let job = self.job(pid);
            self.looker.give(job);
        }
        match result? {
            Err(failed) => Some(Err(failed)),
            Ok(seen) => {
                self.overwritten.extend(seen.overwritten);
                let news = seen.news.filter(|_| self.has(seen.pid))?;
                Some(Ok(self.learn(news)))
            }
        }
    }

    /// The same for a process that waits, without waiting for others.
    pub(super) fn look_now(&mut self, pid: Pid) -> Result<Option<Addition>, PrepareError> {
        self.waiting.remove(&pid);
        let seen = look(self.job(pid))?;
        self.overwritten.extend(seen.overwritten);
        Ok(seen.news.map(|news| self.learn(news)))
    }

    fn job(&self, pid: Pid) -> Job {
        Job {
            pid,
            image: self.processes.get(&pid).and_then(|process| process.image),
            shared: self.shared,
            images: Arc::clone(&self.images),
            probed: Arc::clone(&self.probed),
            map: self.map.clone(),
            search: self.search.clone(),
        }
    }

    fn next_due(&mut self) -> Option<Pid> {
        let now = Instant::now();
        let (pid, _) = self.waiting.iter().find(|(_, due)| **due <= now)?;
        let pid = *pid;
        self.waiting.remove(&pid);
        Some(pid)
    }

    /// Has those looked at again whose loader tells nothing.
    fn poll(&mut self) {
        let now = Instant::now();
        let images = Arc::clone(&self.images);
        let silent = |process: &Process| {
            process.watch.is_some()
                && process.image.and_then(|image| images.get(&image)).is_some_and(|i| !i.tells)
        };
        for (pid, process) in &mut self.processes {
            if now - process.polled >= POLL && silent(process) {
                process.polled = now;
                self.waiting.entry(*pid).or_insert(now);
            }
        }
    }

    /// Remembers what was seen in a process.
    pub(super) fn learn(&mut self, news: News) -> Addition {
        let News { image, name, objects, satisfied, map, target, plan, took } = news;
        if let Some(map) = map {
            self.map = Some(Arc::new(map));
        }
        let watches = |watches| plan.rules.probes.iter().any(|rule| rule.watches == watches);
        let tells = watches(Watches::Loading);
        let known = Arc::make_mut(&mut self.images).entry(image).or_default();
        known.objects.extend(objects);
        known.tells |= tells;
        known.in_go |= plan.go.is_some();
        if !satisfied.is_empty() {
            known.satisfied = satisfied;
        }
        if let Some(process) = self.processes.get_mut(&target.pid) {
            process.image = Some(image);
            process.name = name;
        }
        for probe in &plan.probes {
            if let Some(object) = target.object(probe.object)
                && !self.probed.contains_key(&object.inode)
            {
                let path = object.path.display().to_string();
                let build_id = object.open().ok().and_then(build_id_of);
                let known = Probed { path, build_id };
                Arc::make_mut(&mut self.probed).insert(object.inode, known);
            }
        }
        let plan = self.plan.add(plan, &target);
        Addition { image, target, plan, took }
    }

    /// It could not be attached: what was learned with it is to be found out again, by whoever else
    /// runs the same.
    pub(super) fn unlearn(&mut self, addition: &Addition) {
        Arc::make_mut(&mut self.images).remove(&addition.image);
        let others = self.processes.iter().filter(|(pid, process)| {
            **pid != addition.target.pid && process.image == Some(addition.image)
        });
        let others: Vec<Pid> = others.map(|(pid, _)| *pid).collect();
        for pid in others {
            self.look_at(pid);
        }
    }
}
