//! The trial itself: every form without a probe, then with one, then what hits cost.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use profiler_common::ProbeId;
use thiserror::Error;

use super::blob::Blob;
use super::harness::{Snapshot, has_avx};
use super::snippet::{Case, Form, Needs};
use super::subject::{NoAnswer, Subject, make_file};
use super::time::{self, Calibration, NotTimed, Thoroughness};
use super::verdict::{FormResult, Verdict, kernel_forms, set_used};
use crate::attach::{AttachError, Trial, TrialProgram, TrialSite};
use crate::plan::KernelForms;

/// How often each snippet is run under its probe: the kernel optimises a probe at its first hit, and
/// the later ones take another way.
const RUNS: u32 = 16;
/// So many threads show whether a link that filters by process sees them all, each with so many calls.
const THREADS: u32 = 2;
const CALLS: u32 = 8;
/// 4 MiB: more than the events of one timing take.
const RING_BYTES: u32 = 4 << 20;

/// What came of it.
pub(in crate::doctor) struct Tried {
    pub(in crate::doctor) forms: Vec<FormResult>,
    /// Whether a link that filters by process sees all its threads.
    pub(in crate::doctor) pid_filter: Verdict,
    /// Or why there is none.
    pub(in crate::doctor) calibration: Result<Calibration, String>,
}

/// Why nothing was tried.
#[derive(Debug, Error)]
pub(in crate::doctor) enum NotTried {
    #[error("the file of the snippets: {0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Subject(#[from] NoAnswer),
    #[error("no probe was hit at all, whatever the instruction: this is not about instructions")]
    NoHits,
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Scope {
    /// What plans may use, timed quickly: a fraction of a second, and no child dies of it unless the
    /// kernel has a defect that matters.
    Used,
    /// Everything, at leisure.
    Whole,
}

/// Tries forms on children of our own, and times those that work.
pub(in crate::doctor) fn measure(scope: Scope) -> Result<Tried, NotTried> {
    let blob = Blob::new();
    let file = make_file(&blob.bytes)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut trial = Trial::load(path, RING_BYTES)?;
    let mut children = Children { file: &file, subject: Some(Subject::start(&file)?) };

    let mut tried = cases(&blob, scope);
    for case in &mut tried {
        case.run_plain(&blob, &mut children)?;
    }
    let probes = attach(&blob, &mut trial, &mut tried)?;
    for case in &mut tried {
        case.run_probed(&blob, &mut children, &mut trial)?;
        trial.drain();
    }
    let hits = trial.hits(probes)?;
    if hits.iter().all(|hits| *hits == 0) {
        return Err(NotTried::NoHits);
    }
    for case in &mut tried {
        case.count(&hits);
    }
    let mut forms = results(&blob, tried);
    set_used(&mut forms);

    let subject = children.get()?;
    let pid_filter = pid_filter(&blob, &mut trial, subject, probes)?;
    let allowed = kernel_forms(&forms);
    let thoroughness = match scope {
        Scope::Used => Thoroughness::Quick,
        Scope::Whole => Thoroughness::Whole,
    };
    let calibration = calibration(&blob, allowed, thoroughness, &mut trial, subject, probes + 1);
    let calibration = calibration.map_err(|error| error.to_string());
    Ok(Tried { forms, pid_filter, calibration })
}

/// The child, and the next one when it has died.
struct Children<'a> {
    file: &'a File,
    subject: Option<Subject>,
}

impl Children<'_> {
    fn get(&mut self) -> Result<&mut Subject, NoAnswer> {
        let subject = match self.subject.take() {
            Some(subject) => subject,
            None => Subject::start(self.file)?,
        };
        Ok(self.subject.insert(subject))
    }

    /// It did not answer: the next question goes to another one.
    fn lose(&mut self) {
        self.subject = None;
    }
}

/// One snippet on its way.
struct Trying {
    form: usize,
    case: usize,
    /// Under which number its hits are counted.
    probe: ProbeId,
    /// What it leaves behind without a probe.
    plain: Option<Snapshot>,
    /// As soon as it is known.
    verdict: Option<Verdict>,
    /// Some of its hits may be of a child that was ended from outside.
    again: bool,
}

fn cases(blob: &Blob, scope: Scope) -> Vec<Trying> {
    let wanted = |form: &Form| scope == Scope::Whole || form.kind.is_some();
    let places = blob.cases.iter().enumerate().zip(&blob.forms);
    let places = places.filter(|(_, form)| wanted(form)).map(|(place, _)| place);
    let cases = places.flat_map(|(form, cases)| (0..cases.len()).map(move |case| (form, case)));
    cases
        .zip(0_u16..)
        .map(|((form, case), probe)| Trying {
            form,
            case,
            probe: ProbeId(probe),
            plain: None,
            verdict: None,
            again: false,
        })
        .collect()
}

impl Trying {
    fn form<'a>(&self, blob: &'a Blob) -> Option<&'a Form> {
        blob.forms.get(self.form)
    }

    /// Asks a child; where it is ended from outside, once more another one. The inner error is a
    /// verdict.
    fn ask(
        &mut self,
        blob: &Blob,
        children: &mut Children<'_>,
        before: &mut dyn FnMut(&Subject) -> Result<(), NotTried>,
    ) -> Result<Result<[Snapshot; 2], Verdict>, NotTried> {
        let shadow = self.form(blob).is_some_and(|form| form.needs == Needs::ShadowStack);
        let mut patience = 1;
        loop {
            let subject = children.get()?;
            before(subject)?;
            let died = match subject.run(self.form, self.case, RUNS, shadow) {
                Ok(Ok(snapshots)) => return Ok(Ok(snapshots)),
                Ok(Err(error)) => {
                    let why = format!("no shadow stack for programs here ({error})");
                    return Ok(Err(Verdict::NotApplicable { why }));
                }
                Err(died) => died,
            };
            children.lose();
            match died {
                NoAnswer::Died(how) => return Ok(Err(Verdict::Kills { how })),
                outside if outside.is_from_outside() && patience > 0 => {
                    patience -= 1;
                    self.again = true;
                }
                other => return Ok(Err(Verdict::Unknown { why: other.to_string() })),
            }
        }
    }

    /// Without a probe.
    fn run_plain(&mut self, blob: &Blob, children: &mut Children<'_>) -> Result<(), NotTried> {
        if self.form(blob).is_some_and(|form| form.needs == Needs::Avx) && !has_avx() {
            let why = "this processor has no AVX".to_owned();
            self.verdict = Some(Verdict::NotApplicable { why });
            return Ok(());
        }
        match self.ask(blob, children, &mut |_| Ok(()))? {
            Ok([first, other]) if first == other => self.plain = Some(first),
            Ok(_) => {
                let why = "it does not do the same twice, even without a probe".to_owned();
                self.verdict = Some(Verdict::Unknown { why });
            }
            Err(Verdict::Kills { how }) => {
                let why = format!("it does not run here, even without a probe ({how})");
                self.verdict = Some(Verdict::Unknown { why });
            }
            Err(verdict) => self.verdict = Some(verdict),
        }
        self.again = false;
        Ok(())
    }

    /// Under its probe.
    fn run_probed(
        &mut self,
        blob: &Blob,
        children: &mut Children<'_>,
        trial: &mut Trial,
    ) -> Result<(), NotTried> {
        let Some(plain) = self.plain.take().filter(|_| self.verdict.is_none()) else {
            return Ok(());
        };
        let mut observe = |subject: &Subject| Ok(trial.observe(subject.pid())?);
        self.verdict = match self.ask(blob, children, &mut observe)? {
            Ok(probed) => {
                let differs = probed.iter().find_map(|probed| plain.difference(probed));
                differs.map(|what| Verdict::Wrong { what })
            }
            Err(verdict) => Some(verdict),
        };
        Ok(())
    }

    /// What ran as it should must have been seen as often as it ran.
    fn count(&mut self, hits: &[u64]) {
        if self.verdict.is_some() {
            return;
        }
        let (hits, runs) = (hits.get(self.probe.index()).copied().unwrap_or(0), u64::from(RUNS));
        let right = hits == runs || self.again && (runs..2 * runs).contains(&hits);
        self.verdict =
            Some(if right { Verdict::Works } else { Verdict::Miscounted { hits, runs } });
    }
}

/// Attaches to every snippet that is to be tried; how many numbers are taken.
fn attach(blob: &Blob, trial: &mut Trial, tried: &mut [Trying]) -> Result<usize, NotTried> {
    // What may be used does not share a link with what the kernel may refuse, and what it does refuse
    // shares one with nothing: a refusal costs it 40 ms, and says nothing of which site it is.
    let (mut used, mut unused, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for case in tried.iter().filter(|case| case.verdict.is_none()) {
        let place = blob.cases.get(case.form).and_then(|cases| cases.get(case.case));
        let (Some(form), Some(place)) = (case.form(blob), place) else { continue };
        let site =
            TrialSite { offset: place.site, probe: case.probe, program: TrialProgram::Enter };
        if form.kind.is_some() {
            used.push(site);
        } else if form.cases.iter().any(Case::is_doubtful) {
            links.push(vec![site]);
        } else {
            unused.push(site);
        }
    }
    links.extend([used, unused]);
    for sites in links {
        for refused in trial.attach(&sites, None)? {
            for case in tried.iter_mut().filter(|case| case.probe == refused.probe) {
                case.verdict = Some(Verdict::Refused);
            }
        }
    }
    let numbers = tried.iter().map(|case| case.probe.index() + 1).max();
    Ok(numbers.unwrap_or(0))
}

/// One result a form that was tried: the first of its snippets that speaks against it, or that could not be tried.
fn results(blob: &Blob, tried: Vec<Trying>) -> Vec<FormResult> {
    let was_tried = |form: usize| tried.iter().any(|case| case.form == form);
    let mut results: Vec<Option<FormResult>> = blob
        .forms
        .iter()
        .enumerate()
        .map(|(index, form)| {
            was_tried(index).then(|| FormResult {
                form: form.id.clone(),
                name: form.name.clone(),
                position: form.position,
                kind: form.kind,
                verdict: Verdict::Works,
                used: false,
            })
        })
        .collect();
    for case in tried {
        let (Some(Some(result)), Some(form)) =
            (results.get_mut(case.form), blob.forms.get(case.form))
        else {
            continue;
        };
        let worse = |verdict: &Verdict| match verdict {
            Verdict::Works => 0,
            Verdict::NotApplicable { .. } | Verdict::Unknown { .. } => 1,
            _ => 2,
        };
        let mut verdict =
            case.verdict.unwrap_or_else(|| Verdict::Unknown { why: "it was not run".to_owned() });
        if let Verdict::Wrong { what } = &mut verdict
            && form.cases.len() > 1
            && let Some(case) = form.cases.get(case.case)
        {
            let bytes: Vec<_> = case.insn().iter().map(|byte| format!("{byte:02x}")).collect();
            *what = format!("{what} ({})", bytes.join(" "));
        }
        if worse(&verdict) > worse(&result.verdict) {
            result.verdict = verdict;
        }
    }
    results.into_iter().flatten().collect()
}

/// Whether a link that filters by process sees every thread of it.
fn pid_filter(
    blob: &Blob,
    trial: &mut Trial,
    subject: &mut Subject,
    probe: usize,
) -> Result<Verdict, NotTried> {
    let site = TrialSite {
        offset: blob.filtered.site,
        probe: ProbeId(probe as u16),
        program: TrialProgram::Enter,
    };
    if !trial.attach(&[site], Some(subject.pid()))?.is_empty() {
        return Ok(Verdict::Refused);
    }
    trial.observe(subject.pid())?;
    if let Err(error) = subject.call(blob.filtered.start, THREADS, CALLS) {
        return Ok(Verdict::Unknown { why: error.to_string() });
    }
    trial.drain();
    let hits = trial.hits(probe + 1)?.last().copied().unwrap_or(0);
    let runs = u64::from(THREADS * CALLS);
    Ok(if hits == runs { Verdict::Works } else { Verdict::Miscounted { hits, runs } })
}

fn calibration(
    blob: &Blob,
    allowed: KernelForms,
    thoroughness: Thoroughness,
    trial: &mut Trial,
    subject: &mut Subject,
    first: usize,
) -> Result<Calibration, NotTimed> {
    let mut sites = time::sites(blob, allowed, first);
    time::capture(trial, blob, &sites)?;
    sites.push(time::enter(blob, first + sites.len()));
    let mut refused = trial.attach(&sites, None)?;
    refused.extend(trial.attach(&time::landings(blob, first + sites.len()), None)?);
    trial.forget(subject.pid());
    if let Some(refused) = refused.first() {
        return Err(NotTimed::Refused { offset: refused.offset });
    }
    time::calibrate(blob, allowed, thoroughness, trial, subject)
}
