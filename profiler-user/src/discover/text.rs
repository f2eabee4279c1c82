//! A proposal as a commented symbol map.

use std::fmt::Write as _;
use std::time::Duration;

use super::stages::SpanNames;
use super::{FunctionId, Hop, Proposal, ProposedSpan, Slot};

/// Functions of one kind that are named in a comment.
const NAMED: usize = 12;

/// A candidate as a map names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name without parameters, for comments and the span's name.
    pub base_name: String,
    /// `function` or `linkage`.
    pub field: &'static str,
    /// The field's value.
    pub value: String,
    /// File name of its object.
    pub object: String,
    /// The stage its name means.
    pub stage: Option<&'static str>,
}

/// What the map's header says.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The map's name.
    pub map: String,
    /// The target: name and pid.
    pub target: String,
    /// For how long it was watched, pauses included.
    pub duration: Duration,
    /// What watching cost it, predicted.
    pub spent: Duration,
    /// The objects that were searched, with how many candidates each has.
    pub objects: Vec<(String, usize)>,
    /// How many candidates were watched.
    pub watched: usize,
    /// Of these, how many were called.
    pub called: usize,
    /// Functions given up because they are called too often, with calls a second.
    pub floods: Vec<(String, f64)>,
    /// Candidates that cannot be probed safely.
    pub refused: usize,
    /// Candidates that were left out because there were too many.
    pub beyond: usize,
    /// Calls that were seen and those that were not kept.
    pub calls: (usize, u64),
}

/// Writes the map. `chosen`: every function that may be named, by its id.
#[must_use]
pub fn write(
    header: &Header,
    proposal: &Proposal,
    chosen: &dyn Fn(FunctionId) -> Option<Chosen>,
) -> String {
    let mut out = String::new();
    let mut comment = |text: &str| wrapped(&mut out, text);
    head(header, proposal, &mut comment);
    let name = |function: FunctionId| {
        chosen(function).map_or_else(|| format!("function {function}"), |chosen| chosen.base_name)
    };
    let root = proposal.spans.first().and_then(|span| chosen(span.function));
    let mut line = |text: &str| writeln!(out, "{text}").unwrap_or_default();
    line("\nversion = 1");
    line(&format!("name = {}", quoted(&header.map)));
    line("# `db.system.name`: say which system it is.");
    line("system = \"other_sql\"");
    line(&format!("description = {}", quoted(&format!("First map of {}", header.target))));
    if let Some(root) = &root {
        line("\n[match]");
        line(&format!("object = {}", quoted(&format!("*/{}", root.object))));
        if root.field == "function" {
            line(&format!("functions = [{}]", quoted(&root.value)));
        }
    }
    let mut names = SpanNames::default();
    for span in &proposal.spans {
        if let Some(chosen) = chosen(span.function) {
            write_span(&mut out, span, &chosen, &names.name(&chosen.base_name), &name);
        }
    }
    let mut names = SpanNames::default();
    for handoff in &proposal.handoffs {
        if let (Some(give), Some(take)) = (chosen(handoff.hop.give), chosen(handoff.hop.take)) {
            let span = names.name(&take.base_name);
            write_handoff(&mut out, &handoff.hop, &give, &take, &span, &name);
        }
    }
    tail(&mut out, header, proposal, &name);
    out
}

fn head(header: &Header, proposal: &Proposal, comment: &mut dyn FnMut(&str)) {
    comment(&format!(
        "A first map of {}, written by `qprof discover`. Every line of it is a proposal: what it \
         says was seen, not known. Read it, rename, remove; then look at `qprof check`.",
        header.target
    ));
    comment("");
    let objects = header.objects.iter().map(|(name, count)| format!("{name} ({count} candidates)"));
    comment(&format!(
        "Searched: {}. Watched: {} functions for {:.1} s; {} of them were called, {} calls were \
         taken apart. It cost the target about {:.0} ms of processor time.",
        objects.collect::<Vec<_>>().join(", "),
        header.watched,
        header.duration.as_secs_f64(),
        header.called,
        header.calls.0,
        header.spent.as_secs_f64() * 1e3,
    ));
    let share: f64 = proposal.spans.iter().map(|span| span.share).sum();
    comment(&format!(
        "Predicted cost of this map at the rates that were seen: {:.2} % of a processor.",
        share * 100.0
    ));
    if header.refused > 0 {
        comment(&format!("{} candidates cannot be probed safely.", header.refused));
    }
    if header.beyond > 0 {
        comment(&format!(
            "{} more candidates were not watched: their names say less (`--max-functions`).",
            header.beyond
        ));
    }
    if header.calls.1 > 0 {
        comment(&format!("{} more calls were not kept.", header.calls.1));
    }
    if !header.floods.is_empty() {
        let mut floods = header.floods.clone();
        floods.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown = floods.iter().take(NAMED).map(|(n, rate)| format!("{n} ({rate:.0}/s)"));
        comment(&format!(
            "Given up, called too often: {}.",
            list(&shown.collect::<Vec<_>>(), header.floods.len())
        ));
    }
}

fn write_span(
    out: &mut String,
    span: &ProposedSpan,
    chosen: &Chosen,
    name: &str,
    named: &dyn Fn(FunctionId) -> String,
) {
    out.push('\n');
    let time = match span.mean_ns {
        0 => "of unknown length".to_owned(),
        ns => format!("{} each", duration(ns)),
    };
    let caller = match (span.root, span.caller) {
        (true, _) => "called by nobody that was watched".to_owned(),
        (false, Some(caller)) => format!("called by {}", named(caller)),
        (false, None) => "outermost on its thread".to_owned(),
    };
    let often = if span.root {
        format!("{:.1} calls/s", span.rate)
    } else {
        format!("{:.1} calls/s, {} for each request", span.rate, number(span.per_root))
    };
    let threads = if span.threads == 1 { "thread" } else { "threads" };
    wrapped(
        out,
        &format!(
            "{often}, {time}, on {} {threads}; {caller}; costs {:.2} % of a processor",
            span.threads,
            span.share * 100.0
        ),
    );
    let mut line = |text: &str| writeln!(out, "{text}").unwrap_or_default();
    line("[[span]]");
    line(&format!("name = {}", quoted(name)));
    line(&format!("{} = {}", chosen.field, quoted(&chosen.value)));
    line(&format!("object = {}", quoted(&chosen.object)));
    if let Some(stage) = chosen.stage {
        line(&format!("stage = {}", quoted(stage)));
    }
    if span.root {
        line("root = true");
        line("required = true");
    }
}

fn write_handoff(
    out: &mut String,
    hop: &Hop,
    give: &Chosen,
    take: &Chosen,
    name: &str,
    named: &dyn Fn(FunctionId) -> String,
) {
    out.push('\n');
    let many = if hop.many { "; one given word is taken several times" } else { "" };
    wrapped(
        out,
        &format!(
            "the same word in {} of {} calls, {} different ones in {} calls of {}; about {} from \
             give to take{many}",
            hop.proven,
            hop.takes,
            hop.words,
            hop.trees,
            named(hop.from),
            duration(hop.wait_ns)
        ),
    );
    let end = |chosen: &Chosen, slot: Slot| {
        format!(
            "{{ {} = {}, object = {}, key = {} }}",
            chosen.field,
            quoted(&chosen.value),
            quoted(&chosen.object),
            quoted(&key(slot))
        )
    };
    let mut line = |text: &str| writeln!(out, "{text}").unwrap_or_default();
    line("[[handoff]]");
    line(&format!("name = {}", quoted(name)));
    line(&format!("give = {}", end(give, hop.give_slot)));
    line(&format!("take = {}", end(take, hop.take_slot)));
    if hop.many {
        line("takes = \"any\"");
    }
}

fn tail(
    out: &mut String,
    header: &Header,
    proposal: &Proposal,
    named: &dyn Fn(FunctionId) -> String,
) {
    let mut group = |text: &str, functions: &[FunctionId]| {
        if !functions.is_empty() {
            out.push('\n');
            let shown: Vec<String> = functions.iter().take(NAMED).map(|f| named(*f)).collect();
            wrapped(out, &format!("{text}: {}.", list(&shown, functions.len())));
        }
    };
    group(
        "Outermost on a thread of the root's, and not chosen as root (make one of them `root = \
         true` if it is what a request enters)",
        &proposal.other_roots,
    );
    group(
        "Outermost on other threads, and no word was found that says whose work they do",
        &proposal.unconnected,
    );
    for (why, functions) in &proposal.left_out {
        group(&format!("Run for the root and left out, {why}"), functions);
    }
    let silent = header.watched.saturating_sub(header.called);
    if silent > 0 {
        out.push('\n');
        wrapped(out, &format!("{silent} candidates were never called."));
    }
}

/// `a, b and 3 more`.
fn list(shown: &[String], all: usize) -> String {
    let more = all.saturating_sub(shown.len());
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// A slot as a map's key has it.
pub(super) fn key(slot: Slot) -> String {
    match slot {
        Slot::Arg(number) => format!("arg({number})"),
        Slot::ArgWord(number, offset) if offset < 0 => {
            format!("*(arg({number})-{})", offset.unsigned_abs())
        }
        Slot::ArgWord(number, offset) => format!("*(arg({number})+{offset})"),
        Slot::Ret => "ret".to_owned(),
        Slot::RetWord(offset) if offset < 0 => format!("*(ret-{})", offset.unsigned_abs()),
        Slot::RetWord(offset) => format!("*(ret+{offset})"),
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.1} µs", ns as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn number(value: f64) -> String {
    if (value - value.round()).abs() < 0.05 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A comment, in lines of at most 100 characters.
fn wrapped(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > 100 {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KeyExpr, MapOrigin, Select, parse_map};

    fn chosen(function: FunctionId) -> Option<Chosen> {
        Some(Chosen {
            base_name: format!("ns::A::Search{function}"),
            field: if function == 2 { "linkage" } else { "function" },
            value: format!("ns::A::Search{function}(char const*, \"x\")"),
            object: "libengine.so.1".to_owned(),
            stage: Some("search"),
        })
        .map(|chosen| match function {
            2 => Chosen { value: "_ZN2ns1AE".to_owned(), ..chosen },
            _ => chosen,
        })
    }

    fn span(function: FunctionId) -> ProposedSpan {
        ProposedSpan {
            function,
            root: function == 0,
            per_root: 1.5,
            mean_ns: 12_345,
            threads: 2,
            caller: Some(0),
            rate: 10.0,
            share: 0.001,
        }
    }

    #[test]
    fn what_is_written_is_a_map() {
        let hop = Hop {
            give: 1,
            give_slot: Slot::Arg(2),
            take: 2,
            take_slot: Slot::ArgWord(1, 32),
            outermost: 2,
            from: 0,
            takes: 412,
            proven: 412,
            words: 40,
            trees: 60,
            many: true,
            wait_ns: 40_000,
        };
        let proposal = Proposal {
            spans: vec![span(0), span(1), span(2)],
            handoffs: vec![super::super::ProposedHandoff { hop }],
            other_roots: vec![3],
            unconnected: vec![4],
            requests: 60,
            left_out: [("too short to be worth a span", vec![5])].into(),
        };
        let header = Header {
            map: "engine".to_owned(),
            target: "engined (pid 1)".to_owned(),
            floods: vec![("ns::row\nnext".to_owned(), 1e6)],
            watched: 9,
            called: 5,
            ..Header::default()
        };
        let text = write(&header, &proposal, &chosen);
        let map = parse_map(&text, MapOrigin::BuiltIn).unwrap();
        assert_eq!(map.spans.len(), 3);
        assert!(map.spans[0].root && !map.spans[1].root);
        let function = "ns::A::Search0(char const*, \"x\")".to_owned();
        assert_eq!(map.spans[0].selector.select, Select::Function(function));
        assert_eq!(map.handoffs[0].take.key, [KeyExpr::ArgWord(1, 32)]);
        assert!(text.contains("the same word in 412 of 412 calls"), "{text}");
        assert!(text.lines().all(|line| line.starts_with('#') || !line.contains("ns::row")));
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        for (slot, text) in [
            (Slot::Arg(3), "arg(3)"),
            (Slot::ArgWord(1, 0), "*(arg(1)+0)"),
            (Slot::ArgWord(1, -8), "*(arg(1)-8)"),
            (Slot::RetWord(16), "*(ret+16)"),
        ] {
            assert_eq!(key(slot), text);
        }
    }
}
