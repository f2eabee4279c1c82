//! A trace as a tree of text.
//!
//! ```text
//!                               time      self  share
//! search_request             2.14 ms   88.0 µs   100%  ━━━━━━━━━━━━━━━━━━━━━━━━  search
//! ├─ create_plan              120 µs    120 µs   5.6%  ━╸                        plan
//! └─ search_segment          1.62 ms    310 µs  75.7%    ━━━━━━━━━━━━━━━━━━      segment  ↷ …
//! ```

use std::fmt;

use rustc_hash::{FxHashMap, FxHashSet};

use super::format::{clean, count, duration, percent, plural};
use super::line::{Line, Style};
use crate::analysis::critical_path;
use crate::model::{
    Evidence, ExitKind, Lane, MonoNs, Span, SpanId, ThreadNames, Tid, Trace, TraceEnd,
};

/// Deeper levels are drawn at this one, with their depth as a number.
const MAX_DEPTH: usize = 12;
/// The name column is not wider than this.
const MAX_NAME: usize = 52;
/// Cells of the time bar.
const BAR: usize = 24;
/// The time bar is left out below this width.
const MIN_WIDTH_FOR_BAR: usize = 90;

/// How to draw a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeStyle {
    /// With colour.
    pub colour: bool,
    /// Longer lines are cut to so many characters; none: never.
    pub width: Option<usize>,
    /// At most so many spans, the rest is told as a number; none: all.
    pub max_spans: Option<usize>,
}

/// Writes a trace as a tree, a span a line.
///
/// The columns: the span; how long it took; its self time; its share of the whole trace; when it
/// was open (heavy on the critical path, light beside it); its stage; then what is out of the
/// ordinary: another thread or goroutine than its parent's, a parent not known from the stack, an end not seen,
/// folded calls, losses.
///
/// # Errors
///
/// Only those of `out`.
pub fn write_tree(
    out: &mut dyn fmt::Write,
    trace: &Trace,
    threads: &ThreadNames,
    style: TreeStyle,
) -> fmt::Result {
    let tree = Tree::of(trace);
    write_head(out, trace, style)?;
    let shown = style.max_spans.unwrap_or(usize::MAX).min(tree.rows.len());
    let rows = &tree.rows[..shown];
    let name = rows.iter().map(Row::width).max().unwrap_or(0).min(MAX_NAME);
    let stage = |row: &Row<'_>| row.span.stage.as_deref().map_or(0, |stage| stage.chars().count());
    let stage = rows.iter().map(stage).max().unwrap_or(0);
    let mut head = Line::default();
    head.blanks(name).right("time", 10, Style::Dim).right("self", 10, Style::Dim);
    head.right("share", 8, Style::Dim).end(out, style.colour, style.width)?;
    let bar = style.width.is_none_or(|width| width >= MIN_WIDTH_FOR_BAR);
    for row in rows {
        let mut line = Line::default();
        row.add_name(&mut line, name);
        let time = row.span.folded.map_or_else(|| row.span.duration(), |folded| folded.sum);
        line.right(&duration(time), 10, Style::Plain);
        line.right(&duration(row.span.self_time), 10, Style::Dim);
        let share = if tree.total == 0 { 0.0 } else { time as f64 / tree.total as f64 };
        line.right(&percent(share), 8, Style::Plain).blanks(2);
        if bar {
            let critical = tree.critical.contains(&row.span.id);
            let style = if critical { Style::Yellow } else { Style::Blue };
            line.left(&tree.bar(row.span, critical), BAR, style).blanks(2);
        }
        if stage > 0 {
            let text = row.span.stage.as_deref().unwrap_or_default();
            line.left(&clean(text), stage, stage_style(text));
        }
        add_marks(&mut line, row, threads);
        line.end(out, style.colour, style.width)?;
    }
    if shown < tree.rows.len() {
        let mut line = Line::default();
        let rest = (tree.rows.len() - shown) as u64;
        line.add(format!("… and {}", plural(rest, "more span")), Style::Dim);
        line.end(out, style.colour, style.width)?;
    }
    Ok(())
}

fn write_head(out: &mut dyn fmt::Write, trace: &Trace, style: TreeStyle) -> fmt::Result {
    let threads: FxHashSet<Tid> = trace.spans.iter().map(|span| span.tid).collect();
    let mut line = Line::default();
    let what = if trace.end == TraceEnd::Late { "late part of trace" } else { "trace" };
    line.add(format!("{what} {}", trace.id), Style::Dim);
    line.add(format!(" · {}", plural(trace.spans.len() as u64, "span")), Style::Dim);
    line.add(format!(" · {}", plural(threads.len() as u64, "thread")), Style::Dim);
    let lanes = trace.spans.iter().map(|span| span.lane);
    let goroutines: FxHashSet<Lane> =
        lanes.filter(|lane| matches!(lane, Lane::Goroutine(..))).collect();
    if !goroutines.is_empty() {
        line.add(format!(" · {}", plural(goroutines.len() as u64, "goroutine")), Style::Dim);
    }
    if trace.end == TraceEnd::Incomplete {
        line.add(" · incomplete", Style::Red);
    }
    line.end(out, style.colour, style.width)
}

struct Row<'a> {
    span: &'a Span,
    /// The lines that lead to the name.
    guides: String,
    /// Another thread or goroutine than its parent's.
    hop: bool,
}

impl Row<'_> {
    fn width(&self) -> usize {
        self.guides.chars().count() + self.span.name.chars().count()
    }

    fn add_name(&self, line: &mut Line, width: usize) {
        let room = width.saturating_sub(self.guides.chars().count());
        let style = if self.span.parent.is_none() { Style::Bold } else { Style::Plain };
        line.add(self.guides.clone(), Style::Dim);
        let name = clean(&self.span.name);
        if name.chars().count() > room {
            let cut: String = name.chars().take(room.saturating_sub(1)).collect();
            line.left(&format!("{cut}…"), room, style);
        } else {
            line.left(&name, room, style);
        }
    }
}

struct Tree<'a> {
    rows: Vec<Row<'a>>,
    /// 100 %.
    total: u64,
    /// From when to when the bars reach.
    start: MonoNs,
    end: MonoNs,
    critical: FxHashSet<SpanId>,
}

impl<'a> Tree<'a> {
    fn of(trace: &'a Trace) -> Self {
        let ids: FxHashSet<SpanId> = trace.spans.iter().map(|span| span.id).collect();
        let mut children: FxHashMap<SpanId, Vec<&Span>> = FxHashMap::default();
        let mut tops = Vec::new();
        for span in &trace.spans {
            match span.parent.filter(|parent| ids.contains(parent)) {
                Some(parent) => children.entry(parent).or_default().push(span),
                None => tops.push(span),
            }
        }
        let mut rows = Vec::with_capacity(trace.spans.len());
        let mut open: Vec<(&Span, Option<&Span>, Place)> = Vec::new();
        open.extend(tops.iter().rev().map(|top| (*top, None, Place::default())));
        while let Some((span, parent, place)) = open.pop() {
            let hop = parent.is_some_and(|parent| is_hop(parent, span));
            rows.push(Row { span, guides: place.guides(), hop });
            let children = children.remove(&span.id).unwrap_or_default();
            let last = children.len().saturating_sub(1);
            for (index, child) in children.into_iter().enumerate().rev() {
                open.push((child, Some(span), place.below(index < last)));
            }
        }
        let total = tops.first().map_or(0, |top| top.duration());
        let start = trace.spans.iter().map(|span| span.start).min().unwrap_or_default();
        let end = trace.spans.iter().map(|span| span.end).max().unwrap_or_default();
        Self { rows, total, start, end, critical: critical_path(trace) }
    }

    /// When the span was open, in half cells; never nothing.
    fn bar(&self, span: &Span, critical: bool) -> String {
        let halves = 2 * BAR as u128;
        let window = u128::from(self.end.since(self.start)).max(1);
        let half =
            |time: MonoNs| (u128::from(time.since(self.start)) * halves + window / 2) / window;
        let begin = half(span.start).min(halves - 1);
        let end = half(span.end).max(begin + 1);
        let [both, left, right] =
            if critical { ['━', '╸', '╺'] } else { ['─', '╴', '╶'] };
        let cell = |index: u128| {
            let on = |half: u128| (begin..end).contains(&half);
            match (on(2 * index), on(2 * index + 1)) {
                (true, true) => both,
                (true, false) => left,
                (false, true) => right,
                (false, false) => ' ',
            }
        };
        (0..BAR as u128).map(cell).collect()
    }
}

/// Whether a span runs on another thread or goroutine than its parent. From Go into C and back is none.
fn is_hop(parent: &Span, span: &Span) -> bool {
    match (parent.lane, span.lane) {
        (Lane::Thread(..), Lane::Thread(..)) => parent.tid != span.tid,
        (above, below) => above != below && span.evidence != Evidence::Cgo,
    }
}

/// Where a span stands in the tree.
#[derive(Clone, Copy, Default)]
struct Place {
    depth: usize,
    /// Bit 0: a sibling follows; bit 1: one of its parent; and so on, as far as they are drawn.
    followed: u32,
}

impl Place {
    const fn below(self, followed: bool) -> Self {
        Self { depth: self.depth + 1, followed: self.followed << 1 | followed as u32 }
    }

    /// The lines that lead to the name. Of a deep span, the nearest; its depth is told in front.
    fn guides(self) -> String {
        let (mut guides, levels) = if self.depth > MAX_DEPTH {
            (format!("{:<6}", format!("⋯{}", self.depth)), MAX_DEPTH - 2)
        } else {
            (String::new(), self.depth)
        };
        for level in (0..levels).rev() {
            guides.push_str(match (level, self.followed >> level & 1) {
                (0, 0) => "└─ ",
                (0, _) => "├─ ",
                (_, 0) => "   ",
                (_, _) => "│  ",
            });
        }
        guides
    }
}

fn add_marks(line: &mut Line, row: &Row<'_>, threads: &ThreadNames) {
    let span = row.span;
    let mut mark = |text: String, style: Style| {
        line.blanks(2).add(text, style);
    };
    if row.hop {
        let where_to = if let Lane::Goroutine(_, goroutine) = span.lane {
            format!("goroutine {goroutine}")
        } else {
            let name = threads.get(&span.tid).map(|name| format!(" {}", clean(name)));
            format!("thread {}{}", span.tid, name.unwrap_or_default())
        };
        mark(format!("↷ {where_to}"), Style::Cyan);
    }
    match &span.evidence {
        Evidence::Stack => {}
        Evidence::None if span.root => {}
        Evidence::None => mark("no parent known".to_owned(), Style::Yellow),
        Evidence::Cgo | Evidence::Context | Evidence::Spawn | Evidence::Handoff(_) => {
            mark(clean(&span.evidence.to_string()).into_owned(), Style::Dim);
        }
    }
    if let Some(folded) = span.folded {
        let (min, max) = (duration(folded.min), duration(folded.max));
        mark(format!("×{} ({min} – {max})", count(span.calls)), Style::Dim);
    }
    if span.shared > 1 {
        mark(format!("shared by {}", span.shared), Style::Dim);
    }
    match span.exit {
        ExitKind::Landing | ExitKind::Ret => {}
        ExitKind::Jump => mark("left by a jump".to_owned(), Style::Yellow),
        ExitKind::Unwound => mark("unwound".to_owned(), Style::Yellow),
        ExitKind::Inferred => mark("end inferred".to_owned(), Style::Yellow),
        ExitKind::Open => mark("still open".to_owned(), Style::Yellow),
    }
    if span.lost > 0 {
        mark(format!("{} lost", plural(span.lost, "event")), Style::Red);
    }
}

/// The same stage has the same colour in every tree.
pub(super) fn stage_style(stage: &str) -> Style {
    const STYLES: [Style; 5] =
        [Style::Green, Style::Magenta, Style::Cyan, Style::Blue, Style::Yellow];
    let sum = stage.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte));
    STYLES[sum % STYLES.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{span, trace};
    use crate::model::{Folded, Goid, Pid, TraceId};

    fn milvus() -> (Trace, ThreadNames) {
        let micros = |span: Span| Span {
            start: MonoNs(span.start.0 * 1000),
            end: MonoNs(span.end.0 * 1000),
            ..span
        };
        let with = |span: Span, stage: &str, tid: u32, self_time: u64| Span {
            stage: Some(stage.into()),
            tid: Tid(tid),
            self_time: self_time * 1000,
            ..micros(span)
        };
        let mut spans = vec![
            with(span(1, 0, "search_request", 0, 2140), "search", 4711, 88),
            with(span(2, 1, "parse_request", 4, 45), "parse", 4711, 41),
            with(span(3, 1, "create_plan", 50, 170), "plan", 4711, 120),
            with(span(4, 1, "search_segment", 180, 1800), "segment", 4713, 310),
            with(span(5, 4, "vector_search", 200, 1510), "search", 4713, 12),
            with(span(6, 5, "brute_force", 201, 1499), "search", 4720, 1298),
            with(span(7, 1, "search_segment", 182, 993), "segment", 4714, 811),
            with(span(8, 1, "merge_results", 1820, 1922), "merge", 4711, 102),
        ];
        for index in [3, 5, 6] {
            spans[index].evidence = Evidence::Handoff("plan".into());
        }
        let mut threads = ThreadNames::default();
        threads.insert(Tid(4713), "MILVUS_FUTURE_C".into());
        threads.insert(Tid(4720), "knowhere\u{1b}[31m".into());
        (Trace { id: TraceId(0x4bf9_2f35_77b3_4da6), ..trace(spans) }, threads)
    }

    fn text(trace: &Trace, threads: &ThreadNames, style: TreeStyle) -> String {
        let mut text = String::new();
        write_tree(&mut text, trace, threads, style).unwrap();
        text
    }

    #[test]
    fn a_search_of_milvus() {
        let (trace, threads) = milvus();
        let expected = "\
trace 00000000000000004bf92f3577b34da6 · 8 spans · 4 threads
                          time      self   share
search_request         2.14 ms   88.0 µs    100%  ━━━━━━━━━━━━━━━━━━━━━━━━  search
├─ parse_request       41.0 µs   41.0 µs    1.9%  ╸                         parse
├─ create_plan          120 µs    120 µs    5.6%  ╺━                        plan
├─ search_segment      1.62 ms    310 µs   75.7%    ━━━━━━━━━━━━━━━━━━      segment  ↷ thread 4713 MILVUS_FUTURE_C  handoff:plan
│  └─ vector_search    1.31 ms   12.0 µs   61.2%    ━━━━━━━━━━━━━━━         search
│     └─ brute_force   1.30 ms   1.30 ms   60.7%    ╺━━━━━━━━━━━━━━         search   ↷ thread 4720 knowhere�[31m  handoff:plan
├─ search_segment       811 µs    811 µs   37.9%    ─────────               segment  ↷ thread 4714  handoff:plan
└─ merge_results        102 µs    102 µs    4.8%                      ╺╸    merge
";
        assert_eq!(text(&trace, &threads, TreeStyle::default()), expected);
    }

    #[test]
    fn calls_of_goroutines() {
        let on = |span: Span, lane: Lane, tid: u32, evidence: Evidence| Span {
            lane,
            tid: Tid(tid),
            evidence,
            ..span
        };
        let go = |number: u64| Lane::Goroutine(Pid(1), Goid(number));
        let spans = vec![
            on(span(1, 0, "search", 0, 100), go(7), 4, Evidence::None),
            on(span(2, 1, "plan", 10, 20), go(7), 5, Evidence::Stack),
            on(span(3, 1, "scan", 20, 90), go(8), 6, Evidence::Spawn),
            on(span(4, 3, "filter", 30, 80), Lane::Thread(Pid(1), Tid(5)), 5, Evidence::Cgo),
        ];
        let text = text(&trace(spans), &ThreadNames::default(), TreeStyle::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("4 spans · 3 threads · 2 goroutines"), "{text}");
        assert!(lines[3].contains("plan") && !lines[3].contains('↷'), "{text}");
        assert!(lines[4].ends_with("↷ goroutine 8  spawn"), "{text}");
        assert!(lines[5].ends_with("cgo") && !lines[5].contains('↷'), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_no_bar_and_whole_lines() {
        let (trace, threads) = milvus();
        let style = TreeStyle { width: Some(60), max_spans: Some(4), ..TreeStyle::default() };
        let expected = "\
trace 00000000000000004bf92f3577b34da6 · 8 spans · 4 threads
                       time      self   share
search_request      2.14 ms   88.0 µs    100%  search
├─ parse_request    41.0 µs   41.0 µs    1.9%  parse
├─ create_plan       120 µs    120 µs    5.6%  plan
├─ search_segment   1.62 ms    310 µs   75.7%  segment  ↷ t…
… and 4 more spans
";
        assert_eq!(text(&trace, &threads, style), expected);
    }

    #[test]
    fn colour_changes_nothing_else() {
        let (trace, threads) = milvus();
        let coloured = text(&trace, &threads, TreeStyle { colour: true, ..TreeStyle::default() });
        assert!(coloured.contains("\u{1b}[1msearch_request\u{1b}[0m"));
        let mut plain = String::new();
        for piece in coloured.split('\u{1b}') {
            plain.push_str(
                piece
                    .split_once('m')
                    .filter(|_| piece.starts_with('['))
                    .map_or(piece, |(_, rest)| rest),
            );
        }
        assert_eq!(plain, text(&trace, &threads, TreeStyle::default()));
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_told() {
        let mut orphan = span(1, 0, "orphan", 0, 1000);
        orphan.root = false;
        orphan.shared = 2;
        orphan.exit = ExitKind::Open;
        let mut folded = span(2, 1, "read", 10, 900);
        folded.calls = 1200;
        folded.folded = Some(Folded { sum: 500, min: 20, max: 1500 });
        folded.lost = 1;
        folded.exit = ExitKind::Inferred;
        let trace = Trace { end: TraceEnd::Incomplete, ..trace(vec![orphan, folded]) };
        let text = text(&trace, &ThreadNames::default(), TreeStyle::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("2 spans · 1 thread · incomplete"), "{text}");
        assert!(lines[2].ends_with("  no parent known  shared by 2  still open"), "{text}");
        assert!(lines[3].starts_with("└─ read   0.50 µs"), "{text}");
        assert!(
            lines[3].ends_with("×1,200 (0.02 µs – 1.50 µs)  end inferred  1 event lost"),
            "{text}"
        );
    }

    #[test]
    fn deep_recursion_stays_readable() {
        let spans = (1..=5000).map(|id| span(id, id - 1, "walk", id, 20_000 - id)).collect();
        let text = text(&trace(spans), &ThreadNames::default(), TreeStyle::default());
        let line = text.lines().last().unwrap();
        assert!(line.starts_with(&format!("⋯4999 {}└─ walk", " ".repeat(27))), "{line}");
        assert!(text.lines().all(|line| line.chars().count() < 140));
    }

    #[test]
    fn no_spans_and_no_time() {
        let empty = text(&trace(Vec::new()), &ThreadNames::default(), TreeStyle::default());
        assert!(empty.contains("0 spans · 0 threads\n"), "{empty}");
        let spans = vec![span(1, 0, "a", 5, 5), span(2, 1, "b", 5, 5)];
        let text = text(&trace(spans), &ThreadNames::default(), TreeStyle::default());
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
