//! One slice of watching: plan, attach, drain, count, and detach when it has cost enough.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::{Cookie, Role};

use super::candidates::Candidates;
use crate::agent::go_program::goroutines_of;
use crate::attach::{AttachOptions, Attached, Targets};
use crate::config::{
    EndDecl, HandoffDecl, KeyExpr, MapOrigin, Select, Selector, SpanDecl, SymbolMap,
};
use crate::discover::{Budget, Calls, FunctionId, Rates, Slot, SocketUse, Watched};
use crate::model::{EventBody, Moment, OrphanPolicy, Scope, Takes};
use crate::plan::{self, CallCost, Ends, Kernel, ProbePlan, dearest_ns};
use crate::reader;
use crate::symbols::{Found, Function, SymbolSet};
use crate::target::{ExitWatch, Target, process};

/// The share of a processor that watching may take from the target.
pub(super) const SHARE: f64 = 0.02;
/// The most it may take at once as long as floods are among what is watched.
pub(super) const BURST: Duration = Duration::from_millis(15);
/// How often the ring is drained and the cost is looked at.
const TURN: Duration = Duration::from_millis(10);

/// What calls capture when they begin.
pub(super) enum Captures<'a> {
    /// Nothing, and their ends are not watched either.
    Nothing,
    /// The words of these slots.
    Words(&'a dyn Fn(FunctionId) -> Vec<Slot>),
}

/// What came of a slice.
pub(super) struct Seen {
    /// How long it was attached.
    pub(super) time: Duration,
    /// It had cost its share before its time.
    pub(super) cut: bool,
    /// The target still runs.
    pub(super) alive: bool,
    /// Calls of every function that could be probed.
    pub(super) hits: Vec<(FunctionId, u64)>,
}

/// Watches slice by slice, and keeps account.
pub(super) struct Slicer<'a> {
    target: &'a Target,
    symbols: &'a SymbolSet,
    candidates: &'a Candidates,
    /// What this kernel may be trusted with, and what a hit costs on it.
    kernel: Kernel,
    /// The code of the candidates, once read.
    code: Vec<Option<Arc<[Function]>>>,
    sockets: Vec<(Function, SocketUse)>,
    pub(super) budget: Budget,
    pub(super) rates: Rates,
    /// What a call costs, begin and end, by function; nanoseconds.
    pub(super) costs: Vec<u64>,
    /// Functions that could not be probed when all were to be.
    refused: Option<usize>,
}

struct Probes {
    plan: ProbePlan,
    watched: Vec<Watched>,
}

impl<'a> Slicer<'a> {
    pub(super) fn new(
        target: &'a Target,
        symbols: &'a SymbolSet,
        candidates: &'a Candidates,
        kernel: Kernel,
    ) -> Self {
        let count = candidates.list.len();
        let socket = |(object, address, usage): &(_, _, _)| {
            Some((symbols.function_at(*object, *address)?, *usage))
        };
        Self {
            target,
            symbols,
            candidates,
            kernel,
            code: vec![None; count],
            sockets: candidates.sockets.iter().filter_map(socket).collect(),
            budget: Budget::new(SHARE, BURST),
            rates: Rates::of(count),
            costs: vec![0; count],
            refused: None,
        }
    }

    /// Watches functions for at most `limit`.
    pub(super) fn watch(
        &mut self,
        functions: &[FunctionId],
        captures: &Captures<'_>,
        limit: Duration,
        watch: &ExitWatch,
        mut calls: Option<&mut Calls>,
    ) -> anyhow::Result<Seen> {
        let Probes { plan, watched } = self.plan(functions, captures)?;
        if let Some(calls) = &mut calls {
            calls.slice(watched.clone(), process::sockets(self.target.pid));
        }
        let link_filter = self.kernel.link_filter;
        let go = plan.go.is_some();
        let options = AttachOptions { link_filter, go, ..AttachOptions::default() };
        // While sites are placed and taken away those that are there are hit.
        let begun = Instant::now();
        let mut attached = Attached::load(Targets::One(self.target.pid), &options)?;
        attached.attach(&plan, self.target)?;
        let mut ring = attached
            .take_ring()
            .ok_or_else(|| std::io::Error::other("the ring buffer was taken before"))?;
        let dearest = |probe, role| dearest_ns(probe, role, &self.kernel.costs);
        let costs: Vec<(u64, u64)> =
            plan.probes.iter().map(|p| (dearest(p, Role::Enter), dearest(p, Role::Ret))).collect();
        let mut looked = begun;
        let end = Instant::now() + limit;
        let (mut cut, mut alive, mut paid) = (false, true, 0_u64);
        let mut enters = vec![0_u64; plan.probes.len()];
        while !cut && alive && Instant::now() < end {
            ring.wait(TURN.min(limit))?;
            alive = !watch.has_exited();
            let mut cost = 0_u64;
            ring.drain(|raw| {
                let Ok(event) = reader::decode(raw) else { return };
                cost += match event.body {
                    EventBody::Enter { probe, .. } => {
                        if let Some(enters) = enters.get_mut(probe.index()) {
                            *enters += 1;
                        }
                        costs.get(probe.index()).map_or(0, |(enter, _)| *enter)
                    }
                    EventBody::Exit { probe, .. } => {
                        costs.get(probe.index()).map_or(0, |(_, ret)| *ret)
                    }
                    EventBody::Jump { .. }
                    | EventBody::Unwound { .. }
                    | EventBody::Folded { .. }
                    | EventBody::Asks { .. }
                    | EventBody::GaveUp { .. }
                    | EventBody::Carries { .. }
                    | EventBody::Spawn { .. }
                    | EventBody::Born { .. }
                    | EventBody::RunsOnce
                    | EventBody::LaneEnd
                    | EventBody::ProcessEnd
                    | EventBody::Fork { .. }
                    | EventBody::Exec => 0,
                };
                if let Some(calls) = &mut calls {
                    calls.push(&event);
                }
            });
            let now = Instant::now();
            self.budget.earn(now - looked);
            looked = now;
            paid += cost;
            cut = !self.budget.spend(cost);
        }
        attached.detach_enters();
        let time = begun.elapsed();
        let counts = attached.counters()?;
        attached.detach();
        let mut hits = Vec::new();
        let mut all = 0_u64;
        for (index, probe) in plan.probes.iter().enumerate() {
            let (enter, ret) = costs.get(index).copied().unwrap_or_default();
            let here = counts.hits(probe.id);
            // Ends cost, too, and are hits like the begins.
            let both = if ret > 0 { enter.midpoint(ret) } else { enter };
            all += here * both;
            let Some(function) = watched.get(index).and_then(|watched| watched.function) else {
                continue;
            };
            let seen = enters.get(index).copied().unwrap_or(0);
            // What the ring lost is in the counters.
            let called = if ret > 0 { seen.max(here / 2) } else { here };
            hits.push((function, called));
            self.rates.add(function, called, time);
        }
        self.budget.spend(all.saturating_sub(paid));
        Ok(Seen { time, cut, alive, hits })
    }

    /// Plans the probes; functions that cannot be probed are left out.
    fn plan(
        &mut self,
        functions: &[FunctionId],
        captures: &Captures<'_>,
    ) -> anyhow::Result<Probes> {
        let closer = matches!(captures, Captures::Words(_));
        let mut map = SymbolMap {
            name: "discover".to_owned(),
            origin: MapOrigin::File(PathBuf::new()),
            system: "unknown".to_owned(),
            description: String::new(),
            orphans: OrphanPolicy::Keep,
            matching: None,
            spans: Vec::new(),
            handoffs: Vec::new(),
        };
        let (mut of_spans, mut of_ends) = (Vec::new(), Vec::new());
        let mut whose: Vec<(Option<FunctionId>, Option<SocketUse>)> = Vec::new();
        for function in functions {
            let code = self.code(*function);
            let slots =
                if let Captures::Words(slots) = captures { slots(*function) } else { Vec::new() };
            whose.push((Some(*function), None));
            ask(&mut map, &mut of_spans, &mut of_ends, &code, &slots);
        }
        if closer {
            for (function, usage) in &self.sockets {
                whose.push((None, Some(*usage)));
                let code = std::slice::from_ref(function);
                ask(&mut map, &mut of_spans, &mut of_ends, code, &[Slot::Arg(1)]);
            }
        }
        of_spans.append(&mut of_ends);
        let symbols = self.symbols;
        let lookup = |object, address| symbols.function_at(object, address);
        let mut plan = plan::build(&map, self.target, &of_spans, &lookup, self.kernel.forms)?;
        plan.go = goroutines_of(&plan, self.target)?;
        let mut watched = Vec::with_capacity(plan.probes.len());
        for (probe, rule) in plan.probes.iter_mut().zip(&plan.rules.probes) {
            let (function, socket) = rule
                .span
                .and_then(|span| whose.get(usize::from(span)))
                .copied()
                .unwrap_or_default();
            if let Some(cost) = function.and_then(|function| self.costs.get_mut(function)) {
                *cost = CallCost::of(probe, &self.kernel.costs, Ends::RETS).call_ns();
            }
            if !closer || function.is_none() {
                probe.sites.retain(|site| site.role == Role::Enter);
                for site in &mut probe.sites {
                    site.flags |= Cookie::NO_EXIT;
                }
            }
            let captured = probe.at_enter.captures.iter().take(usize::from(probe.at_enter.len));
            watched.push(Watched {
                function,
                socket,
                slots: captured.filter_map(|capture| slot(*capture)).collect(),
            });
        }
        self.refused.get_or_insert_with(|| functions.len().saturating_sub(watched.len()));
        Ok(Probes { plan, watched })
    }

    /// How many candidates cannot be probed.
    pub(super) fn refused(&self) -> usize {
        self.refused.unwrap_or(0)
    }

    fn code(&mut self, function: FunctionId) -> Arc<[Function]> {
        let Some(candidate) = self.candidates.get(function) else { return Arc::from([]) };
        if let Some(Some(code)) = self.code.get(function) {
            return Arc::clone(code);
        }
        let mut read = self.symbols.functions_at(candidate.object, &candidate.addresses);
        for function in &mut read {
            // Whatever other name the address has, here it goes by the candidate's.
            function.name = Arc::clone(&candidate.name);
            function.base_name = Arc::clone(&candidate.base_name);
        }
        let code: Arc<[Function]> = read.into();
        if let Some(slot) = self.code.get_mut(function) {
            *slot = Some(Arc::clone(&code));
        }
        code
    }
}

/// Asks for one function: a span to observe it, and a hand-off to itself for each word, because
/// each word is captured only if it is intact where the function can be probed.
fn ask(
    map: &mut SymbolMap,
    of_spans: &mut Vec<Found>,
    of_ends: &mut Vec<Found>,
    code: &[Function],
    slots: &[Slot],
) {
    let found = Found { functions: code.to_vec(), nothing: None };
    let linkage = code.first().map_or_else(String::new, |function| function.linkage.to_string());
    let selector = Selector { select: Select::Linkage(linkage), object: None };
    let name: Arc<str> = format!("f{}", map.spans.len()).into();
    map.spans.push(SpanDecl {
        name: Arc::clone(&name),
        selector: selector.clone(),
        root: false,
        stage: None,
        system: Arc::from(""),
        operation: None,
        required: false,
        only_in_trace: false,
        fold: false,
        context: None,
        line: 0,
    });
    of_spans.push(found.clone());
    for slot in slots {
        let end = EndDecl { selector: selector.clone(), key: vec![*slot], moment: Moment::Enter };
        map.handoffs.push(HandoffDecl {
            name: Arc::clone(&name),
            give: end.clone(),
            take: end,
            until: None,
            takes: Takes::Any,
            scope: Scope::Process,
            span: None,
            line: 0,
        });
        of_ends.extend([found.clone(), found.clone()]);
    }
}

/// The slot a capture instruction reads.
fn slot(capture: profiler_common::Capture) -> Option<Slot> {
    let number = (1..=6).find(|number| {
        profiler_common::Source::arg(*number).is_some_and(|arg| arg as u8 == capture.source)
    })?;
    Some(if capture.deref == 0 {
        KeyExpr::Arg(number)
    } else {
        KeyExpr::ArgWord(number, capture.offset)
    })
}
