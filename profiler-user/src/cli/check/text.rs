//! `qprof check` for people: a header line and a few more for each function.

mod cost;

use std::collections::HashMap;
use std::io::{self, Write};

use super::cost::Costing;
use super::{class_word, classes, watches};
use crate::agent::{Ending, Endings, Prepared};
use crate::model::{VirtAddr, Watches};
use crate::plan::{
    CostClass, PlannedProbe, Predicted, ProbePlan, Return, ReturnNeeds, Site, Skipped,
};
use crate::symbols::{demangled, without_arguments};
use crate::target::{MappedObject, Target};

use profiler_common::{Cookie, ProbeId, Role};

/// How many of alike things are shown before it says "and N more".
const SHOWN: usize = 3;
/// Longer names of callers are cut.
const NAME: usize = 60;

pub(super) fn print(
    prepared: &Prepared,
    endings: &HashMap<ProbeId, Endings>,
    costing: &Costing,
    out: &mut impl Write,
) -> io::Result<()> {
    let Prepared { target, map, plan, took, .. } = prepared;
    writeln!(out, "target  {} ({}), {} objects", target.pid, target.name, target.objects.len())?;
    writeln!(out, "map     {} ({})", map.name, map.origin)?;
    writeln!(
        out,
        "plan    {} functions, {}; read and planned in {:.2} s; {}",
        plan.probes.len(),
        classes(plan),
        took.as_secs_f64(),
        if costing.observed.is_some() {
            "only counters were attached"
        } else {
            "nothing is attached"
        }
    )?;
    writeln!(out, "ends    {}", overall(endings))?;
    cost::head(costing, plan, out)?;
    for probe in &plan.probes {
        writeln!(out)?;
        print_probe(target, plan, probe, endings.get(&probe.id), costing, out)?;
    }
    cost::dearest(costing, plan, out)?;
    if !plan.skipped.is_empty() {
        writeln!(out, "\nnot probed")?;
        for skipped in &plan.skipped {
            let Skipped { wanted_by, what, why, line } = skipped;
            let line = if *line > 0 { format!(" (line {line})") } else { String::new() };
            writeln!(out, "  {wanted_by}{line}: {what}\n    {why}")?;
        }
    }
    Ok(())
}

fn overall(endings: &HashMap<ProbeId, Endings>) -> String {
    let calls: usize = endings.values().map(|endings| endings.predicted.len()).sum();
    format!(
        "{}; other callers are learned as their calls come back",
        counted(calls, &|ending| endings.values().map(|endings| endings.count(ending)).sum())
    )
}

/// `12 direct calls: 10 emulated, 2 single-stepped`.
fn counted(calls: usize, count: &dyn Fn(Ending) -> usize) -> String {
    let parts: Vec<String> = Ending::ALL
        .into_iter()
        .map(|ending| (ending, count(ending)))
        .filter(|(_, count)| *count > 0)
        .map(|(ending, count)| format!("{count} {}", ending_words(ending)))
        .collect();
    match (calls, parts.join(", ")) {
        (0, _) => "no direct call known".to_owned(),
        (1, parts) => format!("1 direct call: {parts}"),
        (calls, parts) => format!("{calls} direct calls: {parts}"),
    }
}

const fn ending_words(ending: Ending) -> &'static str {
    match ending {
        Ending::Emulated => "seen at an emulated landing",
        Ending::SingleStepped => "at a single-stepped one",
        Ending::Chain => "as their caller's return",
        Ending::Impossible => "not at their caller",
    }
}

fn print_probe(
    target: &Target,
    plan: &ProbePlan,
    probe: &PlannedProbe,
    endings: Option<&Endings>,
    costing: &Costing,
    out: &mut impl Write,
) -> io::Result<()> {
    let of_runtime = probe.sites.iter().any(|site| site.role == Role::GoRuntime);
    let role = match (&probe.span, watches(plan, probe)) {
        (Some(span), _) => span,
        (None, _) if of_runtime => "(Go runtime)",
        (None, Watches::Calls) => "(hand-off)",
        (None, Watches::Unwinding | Watches::Jumping) => "(witness)",
        (None, Watches::Loading) => "(loader)",
    };
    let object = target.object(probe.object).map_or_else(String::new, MappedObject::file_name);
    writeln!(out, "{role}  {}", probe.function)?;
    let copies =
        if probe.copies > 1 { format!(", {} copies", probe.copies) } else { String::new() };
    writeln!(out, "  in {object}{copies}")?;
    cost::line(costing, probe.id, out)?;
    let of_role = |role| probe.sites.iter().filter(move |site| site.role == role);
    for (role, word) in [(Role::Enter, "enter"), (Role::GoRuntime, "runs")] {
        for site in of_role(role).take(SHOWN) {
            let restarts = site.flags & Cookie::RESTARTS != 0;
            let taken = if restarts { ", taken where the stack is to grow: no call" } else { "" };
            let instruction = format!("{}{taken}", site.instruction);
            site_line(out, word, site.address, site.cost, &instruction)?;
        }
        and_more(out, of_role(role).count())?;
    }
    if let Some(endings) = endings {
        print_endings(endings, out)?;
    }
    let (jumps, rets): (Vec<_>, Vec<_>) =
        of_role(Role::Ret).partition(|site| site.flags & Cookie::JUMP != 0);
    print_rets(&rets, out)?;
    for site in jumps.iter().take(SHOWN) {
        site_line(out, "jump", site.address, site.cost, &site.instruction)?;
    }
    and_more(out, jumps.len())?;
    if let Some(recorded) = recorded(probe) {
        writeln!(out, "  calls  {recorded}")?;
    }
    for note in &probe.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

/// Which calls are recorded, where it is not all, one by one.
fn recorded(probe: &PlannedProbe) -> Option<&'static str> {
    let has = |flag| probe.sites.iter().any(|site| site.flags & flag != 0);
    match (has(Cookie::ONLY_IN_TRACE), has(Cookie::FOLD)) {
        (true, true) => Some("those in a trace, added up below the call they are made in"),
        (true, false) => Some("those in a trace"),
        (false, true) => Some("added up below the call they are made in"),
        (false, false) => None,
    }
}

fn print_endings(endings: &Endings, out: &mut impl Write) -> io::Result<()> {
    let calls = endings.predicted.len();
    if calls == 0 {
        writeln!(
            out,
            "  ends   no direct call in this object: its callers are learned as calls come back"
        )?;
    } else {
        writeln!(out, "  ends   {}", counted(calls, &|ending| endings.count(ending)))?;
    }
    let shown = endings.predicted.iter().filter(|predicted| site_of(predicted).is_some());
    for predicted in shown.clone().take(SHOWN) {
        let Some(site) = site_of(predicted) else { continue };
        let caller = short(&without_arguments(&demangled(&predicted.caller)));
        let instruction = format!("{}  in {caller}", site.instruction);
        site_line(out, "land", site.address, site.cost, &instruction)?;
    }
    and_more(out, shown.count())?;
    if endings.more > 0 {
        writeln!(out, "         {} direct calls more are not looked at", endings.more)?;
    }
    for (why, count) in endings.why_impossible() {
        writeln!(out, "         {count} not at the caller: {why}")?;
    }
    if endings.needs != ReturnNeeds::Nothing {
        writeln!(out, "  value  {}", value(endings))?;
    }
    Ok(())
}

/// Where what a function returns is captured.
fn value(endings: &Endings) -> String {
    let what = match endings.needs {
        ReturnNeeds::Pointee => "what it returns, and what that points to,",
        ReturnNeeds::Nothing | ReturnNeeds::Value => "what it returns",
    };
    let count = |ending| endings.count(ending);
    match (count(Ending::Emulated), count(Ending::SingleStepped), count(Ending::Impossible)) {
        (0, 0, 0) => format!(
            "{what} is captured at the landing where it is still there, else at the return point, \
             single-stepped"
        ),
        (landing, point, lost) => format!(
            "{what} is captured at {landing} landings (emulated) and at {point} return points \
             (single-stepped){}",
            if lost > 0 { format!(", at `ret` for {lost} calls") } else { String::new() }
        ),
    }
}

fn print_rets(rets: &[&Site], out: &mut impl Write) -> io::Result<()> {
    if rets.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = rets.iter().take(SHOWN).map(|site| site.address.to_string()).collect();
    let more = rets.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(
        out,
        "  ret    {} single-stepped until the landings stand: {}{more}",
        rets.len(),
        shown.join(", ")
    )
}

fn site_of(predicted: &Predicted) -> Option<&crate::plan::LandingSite> {
    match &predicted.plan.first {
        Return::Landing(site) => Some(site),
        Return::Caller(_) | Return::None(_) => None,
    }
}

fn site_line(
    out: &mut impl Write,
    role: &str,
    address: VirtAddr,
    cost: CostClass,
    instruction: &str,
) -> io::Result<()> {
    let (address, class) = (address.to_string(), class_word(cost));
    writeln!(out, "  {role:<6} {address:>12}  {class:<14} {instruction}")
}

fn and_more(out: &mut impl Write, count: usize) -> io::Result<()> {
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "         and {more} more"),
    }
}

pub(super) fn short(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}
