//! In whose behalf Go functions are called: their `context.Context`, as two words of a call.

use profiler_common::{Capture, CaptureProgram, Cookie, LaneKind, Role, Source};

use super::{PlannedProbe, ProbePlan};
use crate::config::{KeyExpr, SymbolMap};

/// The two words of an interface that begins in a register of a Go function, counted from 1.
#[must_use]
pub fn context_in_registers(first: u8) -> Option<[Capture; 2]> {
    let word = |number| Some(Capture::register(Source::go_word(number)?));
    Some([word(first)?, word(first.checked_add(1)?)?])
}

/// The two words of an interface in a structure that such a register points at.
#[must_use]
pub fn context_in_memory(register: u8, offset: i32) -> Option<[Capture; 2]> {
    let word = |offset| Some(Capture::word_at(Source::go_word(register)?, offset));
    Some([word(offset)?, word(offset.checked_add(8)?)?])
}

/// Lets the calls of Go functions that are spans tell their contexts: where the map says that they are, else
/// where `of_types` does.
pub fn add_contexts(
    plan: &mut ProbePlan,
    map: &SymbolMap,
    of_types: &mut dyn FnMut(&PlannedProbe) -> Option<[Capture; 2]>,
) {
    for (probe, rule) in plan.probes.iter_mut().zip(&plan.rules.probes) {
        let span = rule.span.and_then(|span| map.spans.get(usize::from(span)));
        let Some(span) = span.filter(|_| probe.lane() == LaneKind::Goroutine) else { continue };
        let declared = match span.context {
            Some(KeyExpr::Arg(number)) => context_in_registers(number),
            Some(KeyExpr::ArgWord(number, offset)) => context_in_memory(number, offset),
            Some(KeyExpr::Ret | KeyExpr::RetWord(_)) | None => None,
        };
        let Some(context) = declared.or_else(|| of_types(probe)) else { continue };
        let words = usize::from(probe.at_enter.len);
        if words > CaptureProgram::MAX_WITH_CONTEXT {
            probe.notes.push(format!(
                "its context is not looked at: it takes two words, and the keys of its hand-offs {words}; \
                 {} is the most",
                profiler_common::MAX_WORDS
            ));
            continue;
        }
        let mut enters = probe.sites.iter_mut().filter(|site| site.role == Role::Enter);
        // Behind the stack check all arguments are where they were.
        if enters.any(|site| site.flags & Cookie::RESTARTS == 0) {
            probe.notes.push(
                "its context is not looked at: it does not check its stack, and the register may be \
                 overwritten where its calls are seen"
                    .to_owned(),
            );
            continue;
        }
        probe.at_enter.context = context;
        for site in probe.sites.iter_mut().filter(|site| site.role == Role::Enter) {
            site.flags |= Cookie::HAS_CAPTURE;
        }
    }
}

/// Goroutines and threads take up work of others without a call that is known to: in a Go program it
/// cannot be told beforehand which of them are in a trace.
pub fn record_outside_of_traces(plan: &mut ProbePlan) {
    for probe in &mut plan.probes {
        let only = |flags: u16| flags & Cookie::ONLY_IN_TRACE != 0;
        if !probe.sites.iter().any(|site| only(site.flags)) {
            continue;
        }
        for site in &mut probe.sites {
            site.flags &= !Cookie::ONLY_IN_TRACE;
        }
        probe.notes.push(
            "`only_in_trace` does not hold: in a Go program goroutines take up the work of others"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_takes_two_words() {
        let [table, data] = context_in_registers(2).unwrap();
        assert_eq!(table, Capture::register(Source::Rbx));
        assert_eq!(data, Capture::register(Source::Rcx));
        assert!(context_in_registers(9).is_none());
        let [table, data] = context_in_memory(1, 24).unwrap();
        assert_eq!(table, Capture::word_at(Source::Rax, 24));
        assert_eq!(data, Capture::word_at(Source::Rax, 32));
    }
}
