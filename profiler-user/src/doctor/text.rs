//! What is known of this kernel's probes, for a person.

use std::fmt::Write as _;

use super::forms::{Calibration, FormResult, Position, Verdict};
use super::measured::{Knowledge, Measured};
use crate::plan::{CostClass, Costs};

/// Appends it: what works in a line a class, what does not in a line each.
pub(super) fn probes(text: &mut String, knowledge: &Knowledge) {
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _: Result<(), _> = writeln!(text, "{name:<18} {value}");
    };
    match knowledge {
        Knowledge::Measured { measured, problems } => {
            line("probes", &format!("tried on a child in {:.0} ms", measured.took_ms));
            for problem in problems {
                line("  note", problem);
            }
        }
        Knowledge::Known { .. } => {
            line("probes", "known since this machine was started (--again measures again)");
        }
        Knowledge::Failed { why } => {
            line("probes", &format!("not tried, what is usual is assumed: {why}"));
        }
    }
    let Some(measured) = knowledge.measured() else { return };
    used(measured, &mut line);
    let failed = |form: &&FormResult| form.kind.is_some() && form.verdict.is_against();
    for (names, words) in alike(measured.forms.iter().filter(failed)) {
        line("  NOT USED here", &format!("{names}: {words}"));
    }
    let open = |form: &&FormResult| {
        form.kind.is_some() && !form.verdict.is_against() && form.verdict != Verdict::Works
    };
    for (names, words) in alike(measured.forms.iter().filter(open)) {
        line("  open", &format!("{names}: {words}"));
    }
    for (names, words) in alike(measured.forms.iter().filter(|form| form.kind.is_none())) {
        line("  never used", &format!("{names}: {words}"));
    }
    line("  pid filter", &measured.pid_filter.words());
    if let Some(calibration) = &measured.calibration {
        costs(calibration, &measured.kernel().costs, &mut line);
    }
}

/// What is used and was found exact, by what it costs.
fn used(measured: &Measured, line: &mut impl FnMut(&str, &str)) {
    let rows = [
        (CostClass::Optimised, "  optimised"),
        (CostClass::Emulated, "  emulated"),
        (CostClass::SingleStepped, "  single-stepped"),
    ];
    for (class, title) in rows {
        let mut names: Vec<&str> = Vec::new();
        for form in measured.forms.iter().filter(|form| form.used) {
            let of_class = form.kind.is_some_and(|kind| kind.class() == class);
            if of_class && form.verdict == Verdict::Works && !names.contains(&form.form.as_str()) {
                names.push(&form.form);
            }
        }
        if !names.is_empty() {
            line(title, &format!("exact: {}", names.join(", ")));
        }
    }
}

/// Forms of which the same is to be said: their names with their positions, and the words.
fn alike<'a>(forms: impl Iterator<Item = &'a FormResult>) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    for form in forms {
        let position = match form.position {
            Position::First => "first",
            Position::Inside => "inside",
        };
        let (name, words) = (format!("{} ({position})", form.form), form.verdict.words());
        match said.iter_mut().find(|(_, other)| *other == words) {
            Some((names, _)) => {
                names.push_str(", ");
                names.push_str(&name);
            }
            None => said.push((name, words)),
        }
    }
    said
}

fn costs(calibration: &Calibration, costs: &Costs, line: &mut impl FnMut(&str, &str)) {
    let [optimised, emulated, stepped] = costs.trap;
    line(
        "  cost of a trap",
        &format!(
            "{optimised:.0} ns optimised, {emulated:.0} ns emulated, {stepped:.0} ns single-stepped"
        ),
    );
    let rows = [
        (CostClass::Optimised, "    optimised"),
        (CostClass::Emulated, "    emulated"),
        (CostClass::SingleStepped, "    single-stepped"),
    ];
    for (class, title) in rows {
        let of_class = calibration.traps.iter().filter(|trap| trap.form.class() == class);
        let each = of_class.map(|trap| format!("{} {:.0}", trap.form.name(), trap.ns));
        let each: Vec<String> = each.collect();
        if !each.is_empty() {
            line(title, &format!("{} ns", each.join(", ")));
        }
    }
    let events = calibration.events.iter();
    let events =
        events.map(|event| format!("{:.0} ns with {} words", event.ns, event.words.count()));
    let events: Vec<String> = events.collect();
    line(
        "  and its event",
        &format!("{}; of a landing {:.0} ns", events.join(", "), costs.landing),
    );
    line("  unmatched landing", &format!("{:.0} ns", calibration.unmatched_landing_ns));
    line("  a whole call", &format!("{:.0} ns, begun and landed at nops", calibration.call_ns));
    if let (Some(call), Some(landing)) =
        (calibration.call_on_two_threads_ns, calibration.unmatched_landing_on_two_threads_ns)
    {
        let said = format!("{call:.0} ns a whole call, {landing:.0} ns an unmatched landing");
        line("  on two threads", &said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::FormKind;

    #[test]
    fn what_fails_is_said() {
        let form = |form: &str, position, kind, verdict| FormResult {
            form: form.to_owned(),
            name: form.to_owned(),
            position,
            kind,
            used: kind.is_some() && verdict == Verdict::Works,
            verdict,
        };
        let wrong = || Verdict::Wrong { what: "the red zone".to_owned() };
        let measured = Measured {
            forms: vec![
                form("nop1", Position::First, Some(FormKind::Nop1), Verdict::Works),
                form("nop5", Position::First, Some(FormKind::Nop5), wrong()),
                form("nop5", Position::Inside, None, wrong()),
                form("vpor", Position::Inside, None, wrong()),
            ],
            pid_filter: Verdict::Miscounted { hits: 8, runs: 16 },
            ..Measured::default()
        };
        let mut text = String::new();
        probes(&mut text, &Knowledge::Known { measured });
        for line in [
            "  emulated         exact: nop1\n",
            "  NOT USED here    nop5 (first): WRONG: changes the red zone\n",
            "  never used       nop5 (inside), vpor (inside): WRONG: changes the red zone\n",
            "  pid filter       WRONG: 8 hits of 16 runs\n",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
