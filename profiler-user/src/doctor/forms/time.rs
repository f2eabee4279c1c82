//! What a hit costs: snippets timed against the same without a probe.

use profiler_common::{Capture, CaptureProgram, ProbeId, Source};
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
}

/// What an event costs, the trap not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventCost {
    /// How many words it carries, each read from memory.
    pub words: EventWords,
    /// Nanoseconds.
    pub ns: f64,
    /// Nanoseconds, trap and all, on each of two threads at once.
    pub hit_on_two_threads_ns: f64,
}

/// What hits cost on this machine; medians.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// By instruction; those that this kernel gets wrong are not in it.
    pub traps: Vec<TrapCost>,
    /// By number of words.
    pub events: Vec<EventCost>,
    /// A landing that a call comes by which nobody asked about, trap and all; nanoseconds.
    pub unmatched_landing_ns: f64,
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
        let unmatched_landing = Some(self.unmatched_landing_ns).filter(sane)?;
        Some(Costs { trap, event: [none?, two?, six?], unmatched_landing, measured: true })
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

/// The landing to be timed.
pub(super) fn landings(blob: &Blob, number: usize) -> [TrialSite; 1] {
    [site(&blob.landing, number, TrialProgram::Landing)]
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

/// Times everything whose sites are attached; the child is no target yet.
pub(super) fn calibrate(
    blob: &Blob,
    forms: KernelForms,
    trial: &mut Trial,
    subject: &mut Subject,
) -> Result<Calibration, NotTimed> {
    let lost = trial.lost()?;
    let mut calibration = Calibration::default();
    for (kind, pair) in blob.traps.iter().filter(|(kind, _)| forms.allows(*kind)) {
        let ns = median(subject.time(pair.plain.start, pair.probed.start, 1)?);
        calibration.traps.push(TrapCost { form: *kind, ns });
    }
    for (words, pair) in &blob.events {
        let (plain, probed) = (pair.plain.start, pair.probed.start);
        trial.forget(subject.pid());
        let trap = median(subject.time(plain, probed, 1)?);
        trial.observe(subject.pid())?;
        let hit = median(subject.time(plain, probed, 1)?);
        trial.drain();
        let hit_on_two_threads_ns = median(subject.time(plain, probed, 2)?);
        trial.drain();
        let ns = (hit - trap).max(0.0);
        calibration.events.push(EventCost { words: *words, ns, hit_on_two_threads_ns });
    }
    let (plain, probed) = (blob.landing.plain.start, blob.landing.probed.start);
    calibration.unmatched_landing_ns = median(subject.time(plain, probed, 1)?);
    if trial.lost()? != lost {
        return Err(NotTimed::Lost);
    }
    Ok(calibration)
}

/// The middle one, and never less than nothing.
fn median(mut differences: Vec<f64>) -> f64 {
    differences.sort_unstable_by(f64::total_cmp);
    differences.get(differences.len() / 2).copied().unwrap_or(0.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let trap = |form, ns| TrapCost { form, ns };
        let event = |words, ns| EventCost { words, ns, hit_on_two_threads_ns: 0.0 };
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
            unmatched_landing_ns: 650.0,
        }
    }

    #[test]
    fn a_class_costs_what_its_middle_one_does() {
        let costs = calibration().costs().unwrap();
        assert_eq!(costs.hit_ns(CostClass::Optimised), 250);
        assert_eq!(costs.hit_ns(CostClass::Emulated), 750);
        assert_eq!(costs.event_ns(CostClass::SingleStepped, 6), 3_300);
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
    fn the_median_is_never_below_nothing() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(vec![-9.0]).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
