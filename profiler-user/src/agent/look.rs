//! Looking at a process that has changed (a new program, new objects) beside the loop that drains
//! the ring, which must not wait for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::go_program::read_go;
use super::prepare::{
    PrepareError, Search, detect, plan_for_additions, plan_for_loading, plan_for_what_is_there,
    searched,
};
use crate::config::SymbolMap;
use crate::model::Pid;
use crate::plan::{GoPlan, ProbePlan};
use crate::symbols::{SymbolSet, build_id_of};
use crate::target::{BuildId, Inode, Target, mapped_files, open_mapped};

/// What is known of the processes that run one executable.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// The files that have been searched.
    pub(super) objects: FxHashSet<Inode>,
    /// Which of the map's selectors the executable answers.
    pub(super) satisfied: Vec<bool>,
    /// Its loader tells when objects come; otherwise they must be looked for.
    pub(super) tells: bool,
    /// Functions in Go are probed in it.
    pub(super) in_go: bool,
}

/// An executable; where every process has probes of its own, together with the process.
pub(super) type ImageKey = (Inode, Option<Pid>);

/// What is known, by executable.
pub(super) type Images = FxHashMap<ImageKey, Image>;

/// A file that is probed.
#[derive(Clone, Debug)]
pub(super) struct Probed {
    /// Its path, for people.
    pub(super) path: String,
    /// What it was when it was planned for.
    pub(super) build_id: Option<BuildId>,
}

/// A process to look at.
pub(super) struct Job {
    pub(super) pid: Pid,
    /// The executable it had when last looked at.
    pub(super) image: Option<ImageKey>,
    /// Probes are for all processes at once.
    pub(super) shared: bool,
    pub(super) images: Arc<Images>,
    pub(super) probed: Arc<FxHashMap<Inode, Probed>>,
    /// None until one fits.
    pub(super) map: Option<Arc<SymbolMap>>,
    pub(super) search: Search,
}

/// What was seen of a process.
pub(super) struct Seen {
    pub(super) pid: Pid,
    /// Files it maps that are not what they were when they were planned for.
    pub(super) overwritten: Vec<Inode>,
    /// What is new; none where all was known.
    pub(super) news: Option<News>,
}

/// What is new in a process.
pub(super) struct News {
    pub(super) image: ImageKey,
    /// The name of the process.
    pub(super) name: String,
    /// The files that have been searched now.
    pub(super) objects: Vec<Inode>,
    pub(super) satisfied: Vec<bool>,
    /// The map, if none was known before and one fits now.
    pub(super) map: Option<SymbolMap>,
    /// What to probe, and where.
    pub(super) target: Target,
    pub(super) plan: ProbePlan,
    pub(super) took: Duration,
}

/// Why a process could not be looked at.
pub(super) type Failed = (Pid, PrepareError);

/// The thread that looks; it ends when this is dropped and its last job is done.
pub(super) struct Looker {
    jobs: SyncSender<Job>,
    results: Receiver<Result<Seen, Failed>>,
    busy: bool,
}

impl Looker {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(1);
        let (done, results) = sync_channel(1);
        thread::Builder::new().name("qprof-look".to_owned()).spawn(move || {
            for job in todo {
                let pid = job.pid;
                if done.send(look(job).map_err(|error| (pid, error))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, results, busy: false })
    }

    /// Whether a job is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Takes a job, unless one is under way.
    pub(super) fn give(&mut self, job: Job) {
        self.busy = self.jobs.try_send(job).is_ok() || self.busy;
    }

    /// What came of the last job, once it is done.
    pub(super) fn result(&mut self) -> Option<Result<Seen, Failed>> {
        match self.results.try_recv() {
            Ok(result) => {
                self.busy = false;
                Some(result)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

/// Where what is known of a process is kept.
pub(super) fn image_key(exe: Inode, pid: Pid, shared: bool) -> ImageKey {
    (exe, (!shared).then_some(pid))
}

/// What the kernel side must know of another process of a Go program that is probed already: it has its
/// own address space. None if nothing in Go is probed, or the process is about to end.
fn again_in_go(image: &Image, target: &Target, search: &Search) -> Option<GoPlan> {
    let object = target.objects.first().filter(|_| image.in_go)?;
    let read = read_go(target.pid, object, search.go_offsets_from.as_deref());
    let (go, _) = read.inspect_err(|error| tracing::debug!(pid = %target.pid, %error)).ok()?;
    Some(go)
}

/// Reads a process, and plans for what of it is new.
pub(super) fn look(job: Job) -> Result<Seen, PrepareError> {
    let begun = Instant::now();
    let Job { pid, image, shared, images, probed, map, search } = job;
    let files = mapped_files(pid)?;
    // Not told by the guard if it was written through a mapping, or on another machine.
    let is_other = |(inode, path): &&(Inode, PathBuf)| {
        let was = probed.get(inode).and_then(|known| known.build_id.as_ref());
        was.is_some_and(|was| {
            let is = open_mapped(path, *inode).ok().and_then(build_id_of);
            is.is_some_and(|is| is != *was)
        })
    };
    let overwritten: Vec<Inode> = files.iter().filter(is_other).map(|(inode, _)| *inode).collect();
    let mapped: Vec<Inode> = files.into_iter().map(|(inode, _)| inode).collect();
    let nothing = Seen { pid, overwritten: overwritten.clone(), news: None };
    let known = |image: &Image| mapped.iter().all(|inode| image.objects.contains(inode));
    if image.and_then(|image| images.get(&image)).is_some_and(known) {
        return Ok(nothing);
    }
    let mut target = Target::open(pid)?;
    let Some(exe) = target.objects.first().map(|object| object.inode) else { return Ok(nothing) };
    let exe = image_key(exe, pid, shared);
    let before = images.get(&exe);
    if let Some(image) = before.filter(|image| known(image)) {
        // A new program, but one that is known: what is mapped is probed already.
        let (name, satisfied) = (target.name.clone(), Vec::new());
        let objects = Vec::new();
        let plan = ProbePlan { go: again_in_go(image, &target, &search), ..ProbePlan::default() };
        let took = begun.elapsed();
        let news = News { image: exe, name, objects, satisfied, map: None, target, plan, took };
        return Ok(Seen { pid, overwritten, news: Some(news) });
    }
    target.objects.retain(|object| !overwritten.contains(&object.inode));
    let found = match &map {
        Some(_) => None,
        None => match detect(&target, &SymbolSet::new(&target), &search) {
            Ok(map) => Some(map),
            Err(PrepareError::NoMapFits { .. }) => None,
            Err(error) => return Err(error),
        },
    };
    let mut objects = target.passed_over.clone();
    objects.extend(&overwritten);
    let (target, satisfied, plan) = match (map.as_deref().or(found.as_ref()), before) {
        (Some(map), Some(image)) if found.is_none() => {
            target.objects.retain(|object| !image.objects.contains(&object.inode));
            let symbols = SymbolSet::of_additions(&target);
            let planned = plan_for_additions(map, &target, &symbols, &image.satisfied, &search)?;
            objects.extend(searched(&target, &symbols));
            (target, planned.satisfied, planned.plan)
        }
        (Some(map), _) => {
            let symbols = SymbolSet::new(&target);
            let planned = plan_for_what_is_there(map, &target, &symbols, &search)?;
            objects.extend(searched(&target, &symbols));
            (target, planned.satisfied, planned.plan)
        }
        (None, _) => {
            let symbols = SymbolSet::new(&target);
            let plan = plan_for_loading(&target, &symbols, search.forms);
            objects.extend(searched(&target, &symbols));
            (target, Vec::new(), plan)
        }
    };
    // What could not be read of a process that dies is not known to be searched.
    if target.watch().is_ok_and(|watch| watch.is_ending()) {
        return Ok(nothing);
    }
    let news = News {
        image: exe,
        name: target.name.clone(),
        objects,
        satisfied,
        map: found,
        target,
        plan,
        took: begun.elapsed(),
    };
    Ok(Seen { pid, overwritten, news: Some(news) })
}
