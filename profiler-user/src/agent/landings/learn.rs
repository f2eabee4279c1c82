//! Learning where calls come back: on a thread of its own, since symbols must be read and code
//! decoded.
//!
//! A return address comes out of the target's memory: it may be anything. It is taken only if it
//! lies in a file that is mapped executable, on an instruction found by decoding its function from
//! the start, behind a call.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use profiler_common::LaneKind;
use rustc_hash::FxHashMap;

use crate::model::{Pid, ReturnAddr, VirtAddr, Wanted};
use crate::plan::{self, KernelForms, NoLanding, ReturnNeeds, ReturnPlan, Returns};
use crate::symbols::{Function, SymbolSet};
use crate::target::{CodeMap, Inode, MappedCode, MappedObject, ObjectId, Target};

/// Questions that wait; more are asked again with the next call that comes back there.
const WAITING: usize = 1024;
/// After so long without a question what was read is forgotten: it may be large.
const IDLE: Duration = Duration::from_secs(10);

/// How long somebody waits for an answer. Meanwhile nobody reads the ring.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take to read a program in Go, before it is attached to.
const READING: Duration = Duration::from_secs(60);
/// Where a goroutine's first function returns to.
const TOP: &str = "runtime.goexit";

/// What is asked of a return address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) pid: Pid,
    pub(super) space: u64,
    pub(super) address: ReturnAddr,
    pub(super) wanted: Wanted,
    /// What the exits of the run's probes need at most.
    pub(super) needs: ReturnNeeds,
    /// On what lane the call was.
    pub(super) lane: LaneKind,
}

/// What was found out.
pub(super) struct Answer {
    pub(super) question: Question,
    pub(super) found: Result<Learned, Unknown>,
}

/// What is known of a return address.
pub(super) struct Learned {
    pub(super) object: Arc<MappedObject>,
    pub(super) code: MappedCode,
    pub(super) plan: ReturnPlan,
    /// The same where the return value is needed; none if it was not asked for.
    pub(super) for_value: Option<ReturnPlan>,
}

/// Why nothing is known of a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub(in crate::agent) enum Unknown {
    #[error("in no file that is mapped executable")]
    NoFile,
    #[error("in a file that cannot be read as code")]
    NoCode,
    #[error("in no function whose bounds are known")]
    NoFunction,
    #[error("behind no call")]
    NoCall,
    #[error("where no instruction may carry a probe")]
    NothingLegal,
    #[error("refused by the kernel")]
    Refused,
    #[error("more than can be remembered")]
    TooMany,
}

/// A process whose mappings have changed, and what is believed of its addresses.
pub(super) struct Recheck {
    pub(super) pid: Pid,
    pub(super) space: u64,
    pub(super) believed: Vec<(ReturnAddr, MappedCode)>,
}

enum Job {
    Learn(Question),
    Recheck(Recheck),
    /// Asked by somebody who waits.
    Caller(Pid, u64, ReturnAddr, SyncSender<Option<Caller>>),
}

/// What a function on a goroutine's stack is to what it has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// It does not call it again.
    Once,
    /// It may call it again.
    Loop,
    /// It is not the program's: a goroutine's first function returns to it.
    Top,
}

/// An answer did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not known in time")]
pub(super) struct TooLate;

/// What the thread says.
pub(super) enum News {
    Answer(Box<Answer>),
    /// Addresses of a space at which something else lies now.
    Moved(u64, Vec<ReturnAddr>),
}

/// The thread that learns; it ends when this is dropped.
pub(super) struct Learner {
    jobs: SyncSender<Job>,
    news: Receiver<News>,
}

impl Learner {
    /// `forms`: what this kernel may be trusted with.
    pub(super) fn start(forms: KernelForms) -> std::io::Result<Self> {
        let (jobs, todo) = sync_channel(WAITING);
        let (tell, news) = sync_channel(WAITING);
        thread::Builder::new().name("qprof-learn".to_owned()).spawn(move || {
            let mut reader = Reader::new(forms);
            // Somebody who waits would wait until all is read anew.
            let mut keeps = false;
            loop {
                let job = match todo.recv_timeout(IDLE) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        if !keeps {
                            reader = Reader::new(forms);
                        }
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let news = match job {
                    Job::Learn(question) => {
                        let found = reader.learn(&question);
                        News::Answer(Box::new(Answer { question, found }))
                    }
                    Job::Recheck(recheck) => reader.recheck(recheck),
                    Job::Caller(pid, space, address, tell) => {
                        keeps = true;
                        // Whoever asked may have given up.
                        let _ = tell.send(reader.caller(pid, space, address));
                        continue;
                    }
                };
                if tell.send(news).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, news })
    }

    /// Whether the question was taken: there is room for only so many.
    pub(super) fn ask(&self, question: Question) -> bool {
        self.jobs.try_send(Job::Learn(question)).is_ok()
    }

    /// What the function that is returned to is to what it has called; none if that cannot be told.
    ///
    /// # Errors
    /// If it is not known in time: asked again, it may be.
    pub(super) fn caller(
        &self,
        pid: Pid,
        space: u64,
        address: ReturnAddr,
    ) -> Result<Option<Caller>, TooLate> {
        self.caller_within(PATIENCE, pid, space, address)
    }

    /// Waits until the file is read in which an address is, so that questions of it are answered at once.
    pub(super) fn read(&self, pid: Pid, space: u64, address: u64) {
        // What cannot be told of this address is of no interest, and too late is as if not asked.
        let _ = self.caller_within(READING, pid, space, ReturnAddr(address));
    }

    fn caller_within(
        &self,
        patience: Duration,
        pid: Pid,
        space: u64,
        address: ReturnAddr,
    ) -> Result<Option<Caller>, TooLate> {
        let (tell, told) = sync_channel(1);
        let job = Job::Caller(pid, space, address, tell);
        self.jobs.try_send(job).map_err(|_full_or_ended| TooLate)?;
        told.recv_timeout(patience).map_err(|_late_or_ended| TooLate)
    }

    /// Whether the request was taken.
    pub(super) fn recheck(&self, recheck: Recheck) -> bool {
        self.jobs.try_send(Job::Recheck(recheck)).is_ok()
    }

    /// The next piece of news, if there is one.
    pub(super) fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

/// A function that is returned to, and where in it the call ends.
struct Called<'a> {
    code: MappedCode,
    object: &'a Arc<MappedObject>,
    symbols: &'a SymbolSet,
    function: Function,
    call: VirtAddr,
}

/// What has been read for the questions so far.
struct Reader {
    forms: KernelForms,
    /// By address space: a process that has been forked may have ended before it is asked about, and
    /// what it had mapped others still have.
    maps: FxHashMap<u64, CodeMap>,
    objects: FxHashMap<Inode, (Arc<MappedObject>, SymbolSet)>,
}

impl Reader {
    fn new(forms: KernelForms) -> Self {
        Self { forms, maps: FxHashMap::default(), objects: FxHashMap::default() }
    }

    /// The function that is returned to, and where in it the call ends.
    fn function(
        &mut self,
        pid: Pid,
        space: u64,
        address: ReturnAddr,
    ) -> Result<Called<'_>, Unknown> {
        // The byte before it: the call may be the last instruction of a mapping.
        let last = address.0.checked_sub(1).ok_or(Unknown::NoFile)?;
        let code = self.place(space, pid, last).ok_or(Unknown::NoFile)?;
        let known = self.object(space, last, code.inode).ok_or(Unknown::NoCode)?;
        let id = ObjectId(0);
        let call = known.1.address_of(id, code.offset).ok_or(Unknown::NoCode)?;
        let function = known.1.containing(id, call).ok_or(Unknown::NoFunction)?;
        Ok(Called { code, object: &known.0, symbols: &known.1, function, call })
    }

    fn caller(&mut self, pid: Pid, space: u64, address: ReturnAddr) -> Option<Caller> {
        let forms = self.forms;
        let Called { symbols, function, call, .. } = self.function(pid, space, address).ok()?;
        if &*function.linkage == TOP {
            return Some(Caller::Top);
        }
        let returns = Returns::of(&function, forms).ok()?;
        let never_returns = |at| {
            symbols
                .function_at(ObjectId(0), at)
                .is_some_and(|called| never_returns(&called.linkage))
        };
        let back = VirtAddr(call.0.saturating_add(1));
        let again = returns.may_call_again(back, &never_returns);
        Some(if again { Caller::Loop } else { Caller::Once })
    }

    fn learn(&mut self, question: &Question) -> Result<Learned, Unknown> {
        let (address, pid, forms) = (question.address, question.pid, self.forms);
        let Called { code, object, function, call, .. } =
            self.function(pid, question.space, address)?;
        let returns = Returns::of(&function, forms).map_err(|_unreadable| Unknown::NoFunction)?;
        let back = VirtAddr(call.0.saturating_add(1));
        let plan = returns.at(back, ReturnNeeds::Nothing);
        if let plan::Return::None(why) = &plan.first {
            tracing::debug!(%pid, address = %format_args!("{:#x}", address.0), "no landing: {why}");
            return Err(match why {
                NoLanding::NothingLegal(_) | NoLanding::ValueLost(_) => Unknown::NothingLegal,
                NoLanding::Unreadable(_) | NoLanding::MayBeData(_) => Unknown::NoFunction,
                NoLanding::Outside(_)
                | NoLanding::NotBehindCall(_)
                | NoLanding::ReadsItsAddress(_)
                | NoLanding::EndOfCode(_) => Unknown::NoCall,
            });
        }
        let wants_value = question.wanted == Wanted::Value;
        let for_value = wants_value.then(|| returns.at(back, question.needs));
        Ok(Learned { object: Arc::clone(object), code, plan, for_value })
    }

    /// Reads anew what is mapped, and says what of it is not as believed.
    fn recheck(&mut self, recheck: Recheck) -> News {
        let Recheck { pid, space, believed } = recheck;
        // A process that is gone calls nobody any more.
        let Ok(map) = CodeMap::read(pid) else { return News::Moved(space, Vec::new()) };
        let other = believed.into_iter().filter(|(at, code)| {
            // As when it was learned: the byte before it.
            map.at(at.0.saturating_sub(1)) != Some(*code)
        });
        let moved = other.map(|(address, _)| address).collect();
        self.maps.insert(space, map);
        News::Moved(space, moved)
    }

    fn place(&mut self, space: u64, pid: Pid, address: u64) -> Option<MappedCode> {
        if let Some(place) = self.maps.get(&space).and_then(|map| map.at(address)) {
            return Some(place);
        }
        // It may have been mapped since.
        let map = CodeMap::read(pid).ok()?;
        let place = map.at(address);
        self.maps.insert(space, map);
        place
    }

    fn object(
        &mut self,
        space: u64,
        address: u64,
        inode: Inode,
    ) -> Option<&(Arc<MappedObject>, SymbolSet)> {
        if !self.objects.contains_key(&inode) {
            let map = self.maps.get(&space)?;
            let (pid, object) = (map.pid(), map.object(address)?);
            if object.inode != inode {
                return None;
            }
            let objects = vec![object.clone()];
            let symbols = SymbolSet::of_additions(&Target {
                pid,
                name: String::new(),
                objects,
                passed_over: Vec::new(),
            });
            self.objects.insert(inode, (Arc::new(object), symbols));
        }
        self.objects.get(&inode)
    }
}

/// Whether a function of Go's runtime is called where the program goes no further (`src/runtime/panic.go`).
fn never_returns(linkage: &str) -> bool {
    let Some(name) = linkage.strip_prefix("runtime.") else { return false };
    ["panic", "goPanic", "gopanic", "throw", "fatal"].iter().any(|begins| name.starts_with(begins))
}
