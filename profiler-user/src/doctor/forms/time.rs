//! What a hit costs: snippets timed against the same without a probe.

use profiler_common::{Capture, CaptureProgram, LandingId, ProbeId, Source};
use serde::{Deserialize, Serialize};

use super::blob::{Blob, Pair};
use super::subject::{NoAnswer, Subject};
use crate::attach::{AttachError, Trial, TrialProgram, TrialSite};
use crate::plan::{CostClass, Costs, EventWords, FormKind, KernelForms};

/// What a trap costs: to come to a program that turns away at once, and back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrapCost {
    /// The instruction.
    pub form: FormKind,
    /// Nanoseconds.
    pub ns: f64,
    /// The same on each of two threads at once; none if it was measured quickly.
    pub on_two_threads_ns: Option<f64>,
}

/// What an event costs, the trap not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventCost {
    /// How many words it carries, each read from memory.
    pub words: EventWords,
    /// Nanoseconds.
    pub ns: f64,
    /// The same on each of two threads at once; none if it was measured quickly.
    pub on_two_threads_ns: Option<f64>,
}

/// What hits cost on this machine; medians.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// By instruction; those that this kernel gets wrong are not in it.
    pub traps: Vec<TrapCost>,
    /// By number of words, of the begin of a call.
    pub events: Vec<EventCost>,
    /// The event of a landing that a call awaits, the trap not counted; nanoseconds.
    pub landing_ns: f64,
    /// A landing that a call comes by which nobody asked about, trap and all; nanoseconds.
    pub unmatched_landing_ns: f64,
    /// The same on each of two threads at once.
    pub unmatched_landing_on_two_threads_ns: Option<f64>,
    /// A whole call that begins and comes back at a nop, with both events; nanoseconds.
    pub call_ns: f64,
    /// The same on each of two threads at once.
    pub call_on_two_threads_ns: Option<f64>,
    /// How many measurements each number is the middle one of.
    pub rounds: u32,
    /// Measured by `run` on its way, and to be measured again at leisure.
    pub quick: bool,
}

impl Calibration {
    /// As other parts of the program want it; none if it is not whole. A class costs what the middle
    /// one of its instructions does: they differ little, and the odd one is rare.
    pub(in crate::doctor) fn costs(&self) -> Option<Costs> {
        let sane = |ns: &f64| ns.is_finite() && (0.0..1e9).contains(ns);
        let class = |class: CostClass| {
            let of_class = self.traps.iter().filter(|trap| trap.form.class() == class);
            let ns: Vec<f64> = of_class.map(|trap| trap.ns).filter(sane).collect();
            (!ns.is_empty()).then(|| median(ns))
        };
        let event = |words: EventWords| {
            let event = self.events.iter().find(|event| event.words == words);
            event.map(|event| event.ns).filter(sane)
        };
        let [none, two, six] = EventWords::ALL.map(event);
        let emulated = class(CostClass::Emulated)?;
        let trap = [
            // Not used where the kernel gets it wrong, nor optimised before kernel 6.18.
            class(CostClass::Optimised).unwrap_or(emulated),
            emulated,
            class(CostClass::SingleStepped)?,
        ];
        Some(Costs {
            trap,
            event: [none?, two?, six?],
            landing: Some(self.landing_ns).filter(sane)?,
            unmatched_landing: Some(self.unmatched_landing_ns).filter(sane)?,
            measured: true,
        })
    }
}

/// Why nothing was timed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTimed {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Subject(#[from] NoAnswer),
    #[error("the kernel refused a probe at {offset} that it took elsewhere")]
    Refused { offset: crate::model::FileOffset },
    #[error("the ring buffer overflowed: what was timed was the loss of events")]
    Lost,
}

/// The sites to be timed, for the numbers from `first` on: those of the traps, then of the events.
pub(super) fn sites(blob: &Blob, forms: KernelForms, first: usize) -> Vec<TrialSite> {
    let traps = blob.traps.iter().filter(|(kind, _)| forms.allows(*kind));
    let traps = traps.map(|(_, pair)| (pair, TrialProgram::Enter));
    let events = blob.events.iter().map(|(words, pair)| match words {
        EventWords::None => (pair, TrialProgram::Enter),
        EventWords::Two | EventWords::Six => (pair, TrialProgram::Capture),
    });
    let sites = traps.chain(events).enumerate();
    sites.map(|(n, (pair, program))| site(pair, first + n, program)).collect()
}

/// The landings to be timed, the unmatched one by its number. The matched one has none: calls await
/// no landing that could be named as long as nothing was learned of where they come back, and so
/// it is this one that ends them.
pub(super) fn landings(blob: &Blob, number: usize) -> [TrialSite; 2] {
    let none = usize::from(LandingId::NONE.0);
    [
        site(&blob.landing, number, TrialProgram::Landing),
        site(&blob.call.pair, none, TrialProgram::Landing),
    ]
}

/// Where the call begins that comes to a landing.
pub(super) fn enter(blob: &Blob, number: usize) -> TrialSite {
    let probe = ProbeId(number as u16);
    TrialSite { offset: blob.call.enter, probe, program: TrialProgram::Enter }
}

const fn site(pair: &Pair, number: usize, program: TrialProgram) -> TrialSite {
    TrialSite { offset: pair.probed.site, probe: ProbeId(number as u16), program }
}

/// Says what the events of those sites carry.
pub(super) fn capture(
    trial: &mut Trial,
    blob: &Blob,
    sites: &[TrialSite],
) -> Result<(), AttachError> {
    let events = sites.iter().rev().zip(blob.events.iter().rev());
    for (site, (words, _)) in events.filter(|(site, _)| site.program == TrialProgram::Capture) {
        trial.capture(site.probe, &program(*words))?;
    }
    Ok(())
}

/// A program that reads a word in memory behind each of the first arguments.
fn program(words: EventWords) -> CaptureProgram {
    let mut program = CaptureProgram { len: words.count(), ..CaptureProgram::default() };
    for (capture, number) in program.captures.iter_mut().zip(1..=words.count()) {
        *capture = Source::arg(number).map_or_else(Capture::default, |s| Capture::word_at(s, 0));
    }
    program
}

/// How often everything is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// A tenth of a second, on one thread.
    Quick,
    /// A second, on one thread and on two.
    Whole,
}

impl Thoroughness {
    const fn rounds(self) -> u32 {
        match self {
            Self::Quick => 25,
            Self::Whole => 150,
        }
    }
}

/// Times everything whose sites are attached; the child is no target yet.
pub(super) fn calibrate(
    blob: &Blob,
    forms: KernelForms,
    thoroughness: Thoroughness,
    trial: &mut Trial,
    subject: &mut Subject,
) -> Result<Calibration, NotTimed> {
    let rounds = thoroughness.rounds();
    let lost = trial.lost()?;
    let one = Rounds::take(blob, 1, rounds, trial, subject)?;
    let two = match thoroughness {
        Thoroughness::Quick => None,
        Thoroughness::Whole => Some(Rounds::take(blob, 2, rounds / 2, trial, subject)?),
    };
    if trial.lost()? != lost {
        return Err(NotTimed::Lost);
    }
    let traps = blob.traps.iter().enumerate().filter(|(_, (kind, _))| forms.allows(*kind));
    let traps = traps.map(|(at, (form, _))| TrapCost {
        form: *form,
        ns: one.trap(at),
        on_two_threads_ns: two.as_ref().map(|two| two.trap(at)),
    });
    let (events, events_of_two) = (one.events(blob), two.as_ref().map(|two| two.events(blob)));
    let events = blob.events.iter().enumerate().map(|(at, (words, _))| EventCost {
        words: *words,
        ns: events.get(at).copied().unwrap_or(0.0),
        on_two_threads_ns: events_of_two.as_ref().and_then(|events| events.get(at).copied()),
    });
    let (landing, call) = (blob.traps.len() + blob.events.len(), blob.timed().count() - 1);
    let events: Vec<EventCost> = events.collect();
    let enter = events.first().map_or(0.0, |event| event.ns);
    Ok(Calibration {
        traps: traps.collect(),
        landing_ns: (one.event(call) - enter).max(0.0),
        events,
        unmatched_landing_ns: one.hit(landing),
        unmatched_landing_on_two_threads_ns: two.as_ref().map(|two| two.hit(landing)),
        call_ns: one.hit(call),
        call_on_two_threads_ns: two.as_ref().map(|two| two.hit(call)),
        rounds,
        quick: thoroughness == Thoroughness::Quick,
    })
}

/// Times taken in turns of everything, so that whatever else the machine does falls on all alike.
struct Rounds {
    /// By snippet: what a hit adds whose program turns away at once.
    traps: Vec<Vec<f64>>,
    /// By snippet: what a hit adds of which an event is made.
    hits: Vec<Vec<f64>>,
}

impl Rounds {
    fn take(
        blob: &Blob,
        threads: u32,
        rounds: u32,
        trial: &mut Trial,
        subject: &mut Subject,
    ) -> Result<Self, NotTimed> {
        let count = blob.timed().count();
        let mut this = Self { traps: vec![Vec::new(); count], hits: vec![Vec::new(); count] };
        let events = blob.traps.len()..count;
        for _ in 0..rounds {
            trial.forget(subject.pid());
            let traps = subject.time(0..count, threads)?;
            add(&mut this.traps, &traps);
            trial.observe(subject.pid())?;
            let hits = subject.time(events.clone(), threads)?;
            add(this.hits.get_mut(events.clone()).unwrap_or_default(), &hits);
            trial.drain();
        }
        trial.forget(subject.pid());
        Ok(this)
    }

    fn trap(&self, at: usize) -> f64 {
        self.traps.get(at).map_or(0.0, |all| median(all.clone()))
    }

    fn hit(&self, at: usize) -> f64 {
        self.hits.get(at).map_or(0.0, |all| median(all.clone()))
    }

    /// What is added by making an event.
    fn event(&self, at: usize) -> f64 {
        let (Some(hits), Some(traps)) = (self.hits.get(at), self.traps.get(at)) else { return 0.0 };
        median(differences(hits, traps))
    }

    /// Of each number of words: those of the first, and what the others add to it. More words are not
    /// cheaper than fewer: where it seems so, the difference is less than the noise.
    fn events(&self, blob: &Blob) -> Vec<f64> {
        let first = blob.traps.len();
        let Some(none) = self.hits.get(first) else { return Vec::new() };
        let more = self.hits.iter().skip(first).take(blob.events.len());
        let base = self.event(first);
        let mut costs: Vec<f64> = more.map(|hits| base + middle(differences(hits, none))).collect();
        monotone(&mut costs);
        costs
    }
}

/// Sorts one round's numbers to their snippets; each thread has measured all of them.
fn add(by_snippet: &mut [Vec<f64>], round: &[f64]) {
    for thread in round.chunks(by_snippet.len().max(1)) {
        for (all, ns) in by_snippet.iter_mut().zip(thread) {
            all.push(*ns);
        }
    }
}

fn differences(with: &[f64], without: &[f64]) -> Vec<f64> {
    with.iter().zip(without).map(|(with, without)| with - without).collect()
}

/// The nearest numbers that do not fall: neighbours that do become their mean.
fn monotone(costs: &mut [f64]) {
    let mut levels: Vec<(f64, usize)> = Vec::with_capacity(costs.len());
    for cost in costs.iter() {
        let (mut mean, mut count) = (*cost, 1);
        while let Some((before, of)) = levels.pop_if(|(before, _)| *before > mean) {
            mean = (before * of as f64 + mean * count as f64) / (of + count) as f64;
            count += of;
        }
        levels.push((mean, count));
    }
    let levels = levels.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count));
    for (cost, level) in costs.iter_mut().zip(levels) {
        *cost = level.max(0.0);
    }
}

/// The middle one; of nothing 0.
fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// The middle one, and never less than nothing.
fn median(numbers: Vec<f64>) -> f64 {
    middle(numbers).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let trap = |form, ns| TrapCost { form, ns, on_two_threads_ns: None };
        let event = |words, ns| EventCost { words, ns, on_two_threads_ns: None };
        Calibration {
            traps: vec![
                trap(FormKind::Nop5, 100.0),
                trap(FormKind::Push, 500.0),
                trap(FormKind::Jmp, 600.0),
                trap(FormKind::BndJmp, 9_000.0),
                trap(FormKind::Ret, 3_000.0),
                trap(FormKind::Endbr64, 2_900.0),
            ],
            events: vec![
                event(EventWords::None, 150.0),
                event(EventWords::Two, 200.0),
                event(EventWords::Six, 300.0),
            ],
            landing_ns: 120.0,
            unmatched_landing_ns: 650.0,
            ..Calibration::default()
        }
    }

    #[test]
    fn a_class_costs_what_its_middle_one_does() {
        let costs = calibration().costs().unwrap();
        assert_eq!(costs.hit_ns(CostClass::Optimised), 250);
        assert_eq!(costs.hit_ns(CostClass::Emulated), 750);
        assert_eq!(costs.event_ns(CostClass::SingleStepped, 6), 3_300);
        assert_eq!(costs.exit_ns(CostClass::Emulated, 0), 720);
        assert!(costs.measured);
    }

    #[test]
    fn what_is_not_whole_or_not_sane_is_none() {
        assert_eq!(Calibration::default().costs(), None);
        let mut calibration = calibration();
        calibration.events[1].ns = f64::NAN;
        assert_eq!(calibration.costs(), None);
    }

    #[test]
    fn more_words_are_never_cheaper() {
        for (measured, expected) in [
            ([100.0, 150.0, 200.0], [100.0, 150.0, 200.0]),
            ([741.0, 560.0, 1006.0], [650.5, 650.5, 1006.0]),
            ([300.0, 200.0, 100.0], [200.0, 200.0, 200.0]),
            ([100.0, 400.0, 300.0], [100.0, 350.0, 350.0]),
        ] {
            let mut costs = measured;
            monotone(&mut costs);
            assert!(costs.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{costs:?}");
        }
    }

    #[test]
    fn each_thread_has_measured_every_snippet() {
        let mut all = vec![Vec::new(); 2];
        add(&mut all, &[1.0, 2.0, 3.0, 4.0]);
        add(&mut all, &[5.0, 6.0]);
        assert_eq!(all, [vec![1.0, 3.0, 5.0], vec![2.0, 4.0, 6.0]]);
    }

    #[test]
    fn the_median_is_never_below_nothing() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(vec![-9.0]).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
