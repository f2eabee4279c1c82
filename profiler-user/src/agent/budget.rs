//! Keeping a budget: probes that cost too much go, those first that cost most for what they tell.
//!
//! What is spent is paid from a purse that fills by the budget and holds that of five seconds. Where it
//! is empty, the dearest probes are silenced in the kernel at once, until what is left fits; then
//! their sites are removed, which takes the kernel longer. They do not come back in this run.

use std::time::{Duration, Instant};

use profiler_common::ProbeId;
use rustc_hash::FxHashSet;

use super::meter::{Spent, Window};
use crate::analysis::critical_path;
use crate::discover::Budget;
use crate::model::{Rules, Trace, Watches};

/// For how much time ahead the purse holds.
const PURSE: Duration = Duration::from_secs(5);
/// What of the budget those that stay may need, so that the next query does not cost the next one.
const ROOM: f64 = 0.8;
/// A probe that was never on a critical path tells as much as one that was for this share of the time.
const LEAST: f64 = 0.01;
/// For so long after something was attached its calls may end at `ret`s that are about to go: they are paid
/// as they will be, …
const LEARNING: Duration = Duration::from_secs(5);
/// … unless all cost so many times the budget.
const FLOOD: f64 = 5.0;
/// How much older traces count less with each new one.
const FADING: f64 = 0.99;
/// How long after something was silenced landings that nobody needs any more are looked for.
const CLEARING: Duration = Duration::from_secs(2);

/// A probe that was given up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GivenUp {
    pub(super) probe: ProbeId,
    /// What it cost, as a share of the CPU time the target may use.
    pub(super) share: f64,
    /// Its calls a second.
    pub(super) rate: f64,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// To be silenced now.
    pub(super) silence: Vec<GivenUp>,
    /// What cannot be given up costs more than the budget, as a share; said once.
    pub(super) over: Option<f64>,
}

/// Keeps the budget of a run.
pub(super) struct Keeper {
    /// As a share of the CPU time the target may use.
    share: f64,
    /// CPUs that the target may use.
    cpus: f64,
    purse: Budget,
    /// When something was attached last.
    attached: Instant,
    silenced: FxHashSet<ProbeId>,
    silenced_at: Option<Instant>,
    /// Sites of silenced probes are attached.
    to_remove: bool,
    /// By probe: time on critical paths that was its own.
    critical: Vec<f64>,
    said_over: bool,
}

impl Keeper {
    pub(super) fn new(share: f64, cpus: f64, now: Instant) -> Self {
        Self {
            share,
            cpus,
            purse: Budget::new(share * cpus, PURSE.mul_f64(share * cpus)),
            attached: now,
            silenced: FxHashSet::default(),
            silenced_at: None,
            to_remove: false,
            critical: Vec::new(),
            said_over: false,
        }
    }

    /// What a trace tells of who tells something.
    pub(super) fn learn(&mut self, trace: &Trace) {
        for time in &mut self.critical {
            *time *= FADING;
        }
        let path = critical_path(trace);
        for span in trace.spans.iter().filter(|span| path.contains(&span.id)) {
            let Some(probe) = span.probe else { continue };
            if self.critical.len() <= probe.index() {
                self.critical.resize(probe.index() + 1, 0.0);
            }
            if let Some(time) = self.critical.get_mut(probe.index()) {
                *time += span.self_time as f64;
            }
        }
    }

    /// Pays for a window, and says what must go.
    pub(super) fn look(&mut self, window: &Window, rules: &Rules, now: Instant) -> Verdict {
        self.purse.earn(window.time);
        let is_paid = |probe: usize| !self.silenced.contains(&ProbeId(probe as u16));
        let of_probes = || window.probes.iter().enumerate().filter(|(probe, _)| is_paid(*probe));
        let spent = of_probes().map(|(_, spent)| spent.ns).sum::<f64>();
        let may_be_spent = window.time.as_nanos() as f64 * self.share * self.cpus;
        let is_learning = now - self.attached < LEARNING && spent < FLOOD * may_be_spent;
        let paid: fn(&Spent) -> f64 =
            if is_learning { |spent| spent.settled } else { |spent| spent.ns };
        let spent = of_probes().map(|(_, spent)| paid(spent)).sum::<f64>();
        // What those that are on their way out leave behind is theirs.
        let clearing = self.silenced_at.is_some_and(|at| now - at < CLEARING);
        let spent = spent + if clearing { 0.0 } else { window.shared };
        #[expect(clippy::cast_sign_loss, reason = "a sum of costs, and a cast saturates")]
        let nanoseconds = spent as u64;
        if self.purse.spend(nanoseconds) || window.time.is_zero() {
            return Verdict::default();
        }
        let verdict = self.choose(window, spent, paid, rules);
        if !verdict.silence.is_empty() {
            self.silenced.extend(verdict.silence.iter().map(|given_up| given_up.probe));
            self.silenced_at = Some(now);
            self.to_remove = true;
        }
        self.purse.refill(PURSE.mul_f64(self.share * self.cpus));
        verdict
    }

    fn choose(
        &mut self,
        window: &Window,
        spent: f64,
        paid: fn(&Spent) -> f64,
        rules: &Rules,
    ) -> Verdict {
        let may_be_spent = window.time.as_nanos() as f64 * self.share * self.cpus;
        let all: f64 = self.critical.iter().sum();
        let dear_for_what_it_tells = |probe: usize, spent: &Spent| {
            let critical = self.critical.get(probe).copied().unwrap_or(0.0);
            paid(spent) / (critical / all.max(1.0) + LEAST)
        };
        let mut candidates: Vec<(u8, f64, usize, Spent)> = window
            .probes
            .iter()
            .enumerate()
            .filter(|(probe, spent)| {
                spent.ns > 0.0 && !self.silenced.contains(&ProbeId(*probe as u16))
            })
            .filter_map(|(probe, spent)| {
                let worth = worth(rules, ProbeId(probe as u16))?;
                Some((worth, dear_for_what_it_tells(probe, spent), probe, *spent))
            })
            .collect();
        candidates.sort_by(|a, b| (a.0, b.1).partial_cmp(&(b.0, a.1)).unwrap_or(a.2.cmp(&b.2)));
        let mut verdict = Verdict::default();
        let mut left = spent;
        let of_cpus = |ns: f64| ns / (window.time.as_nanos() as f64 * self.cpus);
        for (_, _, probe, spent) in candidates {
            if left <= may_be_spent * ROOM {
                break;
            }
            left -= paid(&spent);
            verdict.silence.push(GivenUp {
                probe: ProbeId(probe as u16),
                share: of_cpus(spent.ns),
                rate: spent.calls as f64 / window.time.as_secs_f64(),
            });
        }
        if left > may_be_spent && !std::mem::replace(&mut self.said_over, true) {
            verdict.over = Some(of_cpus(left));
        }
        verdict
    }

    /// Probes were attached: those that are silenced may be among them. `cpus`: that the targets may
    /// use now.
    pub(super) fn attached_more(&mut self, cpus: f64, now: Instant) {
        self.attached = now;
        self.to_remove = !self.silenced.is_empty();
        self.cpus = cpus;
        self.purse.set_share(self.share * cpus);
    }

    /// The probes whose sites are to be removed, if there are any.
    pub(super) fn take_out(&mut self) -> Option<&FxHashSet<ProbeId>> {
        std::mem::take(&mut self.to_remove).then_some(&self.silenced)
    }

    /// Whether landings may just have become useless.
    pub(super) fn is_clearing(&self, now: Instant) -> bool {
        self.silenced_at.is_some_and(|at| now - at < CLEARING)
    }
}

/// Says what was given up.
pub(super) fn tell(verdict: &Verdict, rules: &Rules, budget: f64) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    for GivenUp { probe, share, rate } in &verdict.silence {
        let Some(rule) = rules.probes.get(probe.index()) else { continue };
        let span = rule.span.and_then(|span| rules.spans.get(usize::from(span)));
        let name = span.map_or("hand-off", |span| &*span.name);
        tracing::warn!(
            "budget: `{name}` ({}) is detached: {rate:.0} calls/s cost {} of the CPU time that the \
             target may use, and all may cost {}; `fold = true` in the map makes it cheaper, \
             --budget raises or lifts the limit",
            rule.function,
            percent(*share),
            percent(budget)
        );
    }
    if let Some(share) = verdict.over {
        tracing::warn!(
            "budget: roots and witnesses are never detached, and cost {} of the CPU time that the \
             target may use, more than the {} of --budget",
            percent(share),
            percent(budget)
        );
    }
}

/// What a probe is worth besides its time: the lowest goes first. None: it never goes.
fn worth(rules: &Rules, probe: ProbeId) -> Option<u8> {
    let rule = rules.probes.get(probe.index())?;
    let span = rule.span.and_then(|span| rules.spans.get(usize::from(span)));
    if rule.watches != Watches::Calls || span.is_some_and(|span| span.root) {
        return None;
    }
    let hands_over = rules.handoffs.iter().any(|handoff| {
        [&handoff.give, &handoff.take]
            .into_iter()
            .chain(&handoff.until)
            .any(|end| end.key_of(probe).is_some())
    });
    Some(u8::from(hands_over))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{ProbeRule, SpanRule};

    /// A root, and three spans below it.
    fn rules() -> Rules {
        let span = |root| SpanRule {
            name: Arc::from("s"),
            stage: None,
            root,
            system: Arc::from("x"),
            operation: None,
        };
        let probe = |span, watches| ProbeRule {
            function: Arc::from("f"),
            object: Arc::from("o"),
            span: Some(span),
            watches,
            source: None,
        };
        Rules {
            spans: vec![span(true), span(false)],
            probes: vec![
                probe(0, Watches::Calls),
                probe(1, Watches::Calls),
                probe(1, Watches::Calls),
                probe(1, Watches::Unwinding),
            ],
            ..Rules::default()
        }
    }

    fn window(ns: [u64; 4]) -> Window {
        let spent =
            |ns: &u64| Spent { ns: *ns as f64, settled: *ns as f64 / 10.0, calls: ns / 100 };
        Window {
            time: Duration::from_millis(100),
            probes: ns.iter().map(spent).collect(),
            shared: 0.0,
        }
    }

    fn silenced(verdict: &Verdict) -> Vec<u16> {
        verdict.silence.iter().map(|given_up| given_up.probe.0).collect()
    }

    /// The same window again and again, until something is to be done.
    fn at_last(keeper: &mut Keeper, ns: [u64; 4], now: Instant) -> Verdict {
        let looks = (0..100).map(|_| keeper.look(&window(ns), &rules(), now));
        looks.into_iter().find(|verdict| *verdict != Verdict::default()).unwrap_or_default()
    }

    #[test]
    fn the_dearest_goes_first_and_roots_never() {
        let now = Instant::now();
        let mut keeper = Keeper::new(0.02, 2.0, now);
        // 4 ms in 100 ms are the budget.
        assert_eq!(at_last(&mut keeper, [0, 3_000_000, 0, 0], now), Verdict::default());
        let flood = [1_000_000, 90_000_000, 500_000, 0];
        let verdict = at_last(&mut keeper, flood, now);
        assert_eq!((silenced(&verdict), verdict.over), (vec![1], None));
        let [given_up] = verdict.silence[..] else { panic!("{verdict:?}") };
        assert!((given_up.share - 0.45).abs() < 1e-9 && (given_up.rate - 9e6).abs() < 1.0);
        assert_eq!(keeper.take_out().map(FxHashSet::len), Some(1));
        assert_eq!(keeper.take_out(), None);
        // What it still costs on its way out is nobody else's fault.
        assert_eq!(at_last(&mut keeper, flood, now), Verdict::default());
        let verdict = at_last(&mut keeper, [90_000_000, 0, 500_000, 90_000_000], now);
        assert_eq!(silenced(&verdict), [2]);
        assert!(verdict.over.is_some_and(|share| (share - 0.9).abs() < 1e-9));
        let verdict = at_last(&mut keeper, [90_000_000, 0, 0, 90_000_000], now);
        assert_eq!(verdict, Verdict::default(), "said once");
    }

    #[test]
    fn a_burst_is_no_flood() {
        let now = Instant::now();
        let mut keeper = Keeper::new(0.02, 1.0, now);
        let (quiet, burst) = (window([0, 100_000, 0, 0]), window([0, 15_000_000, 0, 0]));
        for _ in 0..5 {
            assert_eq!(keeper.look(&burst, &rules(), now), Verdict::default());
            for _ in 0..9 {
                assert_eq!(keeper.look(&quiet, &rules(), now), Verdict::default());
            }
        }
    }

    #[test]
    fn what_is_dear_only_while_it_is_learned_where_calls_come_back_stays() {
        let begun = Instant::now();
        let mut keeper = Keeper::new(0.02, 1.0, begun);
        // Twice and four times the budget; a tenth of it once landings stand.
        for ns in [4_000_000, 8_000_000] {
            assert_eq!(at_last(&mut keeper, [0, ns, 0, 0], begun), Verdict::default());
        }
        let later = begun + LEARNING;
        assert_eq!(silenced(&at_last(&mut keeper, [0, 4_000_000, 0, 0], later)), [1]);
    }

    #[test]
    fn what_tells_most_stays_longest() {
        let now = Instant::now();
        let mut keeper = Keeper::new(0.02, 1.0, now);
        let mut trace = crate::analysis::testing::trace(vec![
            crate::analysis::testing::span(1, 0, "root", 0, 100),
            crate::analysis::testing::span(2, 1, "told", 0, 90),
        ]);
        trace.spans[0].probe = Some(ProbeId(0));
        trace.spans[1].probe = Some(ProbeId(1));
        trace.spans[0].self_time = 10;
        trace.spans[1].self_time = 90;
        keeper.learn(&trace);
        // Twice as dear, but what queries wait for.
        let verdict = at_last(&mut keeper, [0, 20_000_000, 10_000_000, 0], now);
        assert_eq!(silenced(&verdict), [2, 1]);
    }
}
