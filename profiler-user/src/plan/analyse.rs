//! One function taken apart: where it can be entered and how it is left.

use iced_x86::{Formatter, Instruction, IntelFormatter};

use super::enter::{Enters, enters};
use super::exits::{Indirect, Leaves, leaves};
use super::flow::Flow;
use super::listing::{Listing, Refused};
use super::start::check_start;
use super::{CostClass, KernelForms};
use crate::model::{FileOffset, VirtAddr};
use crate::symbols::{Function, Language};

/// How many addresses a note names before it says "and N more".
const NAMED: usize = 3;

/// A site before it belongs to a probe.
#[derive(Clone, Debug)]
pub(super) struct SiteSpec {
    pub(super) address: VirtAddr,
    pub(super) offset: FileOffset,
    pub(super) slot_offset: i32,
    pub(super) cost: CostClass,
    /// rbp is still what it was when the function was entered.
    pub(super) keeps_frame_pointer: bool,
    /// It is the conditional jump behind a Go function's stack check: taken, it is no call.
    pub(super) restarts: bool,
    pub(super) insn: Instruction,
}

/// What probing one copy of a function takes.
#[derive(Clone, Debug)]
pub(super) struct Analysis {
    pub(super) enters: Enters,
    pub(super) leaves: Leaves,
    /// What the user should know of its exits.
    pub(super) notes: Vec<String>,
}

/// Analyses a function. `starts_another`: whether another function starts at an address. `forms`:
/// what this kernel may be trusted with.
pub(super) fn analyse(
    function: &Function,
    starts_another: &dyn Fn(VirtAddr) -> bool,
    forms: KernelForms,
) -> Result<Analysis, Refused> {
    check_language(function.language)?;
    check_start(function)?;
    let listing = Listing::of(function)?;
    let flow = Flow::of(&listing)?;
    let leaves = leaves(&listing, &flow, forms);
    let enters = enters(&listing, &flow, &leaves, starts_another, forms)?;
    let notes = notes(&leaves, &flow);
    Ok(Analysis { enters, leaves, notes })
}

/// Analyses only how a function is left: for the target of a tail call, which is not entered by
/// our account.
pub(super) fn analyse_leaves(function: &Function, forms: KernelForms) -> Result<Leaves, Refused> {
    check_language(function.language)?;
    check_start(function)?;
    let listing = Listing::of(function)?;
    let flow = Flow::of(&listing)?;
    Ok(leaves(&listing, &flow, forms))
}

/// Whether calls of a language's functions can be followed.
fn check_language(language: Language) -> Result<(), Refused> {
    match language {
        Language::Native | Language::Go => Ok(()),
        Language::GccGo => Err(Refused::OtherGo("gccgo")),
        Language::TinyGo => Err(Refused::OtherGo("TinyGo")),
    }
}

/// Writes instructions as text, Intel syntax. Making one costs more than using it.
pub(super) struct Disassembler(IntelFormatter);

impl Disassembler {
    pub(super) fn new() -> Self {
        let mut formatter = IntelFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_branch_leading_zeros(false);
        options.set_small_hex_numbers_in_decimal(true);
        options.set_space_after_operand_separator(true);
        Self(formatter)
    }

    pub(super) fn text(&mut self, insn: &Instruction) -> String {
        let mut text = String::new();
        self.0.format(insn, &mut text);
        text
    }
}

fn notes(leaves: &Leaves, flow: &Flow) -> Vec<String> {
    let mut notes = Vec::new();
    let indirect = |wanted: fn(&Indirect) -> Option<VirtAddr>| {
        leaves.indirect.iter().filter_map(wanted).collect::<Vec<_>>()
    };
    let tails = indirect(|jump| match jump {
        Indirect::Tail { at } => Some(*at),
        Indirect::Inside { .. } | Indirect::Unknown { .. } => None,
    });
    if !tails.is_empty() {
        notes.push(format!(
            "leaves by an indirect jump at {}: unknown tail target, its end is inferred there",
            list(&tails)
        ));
    }
    let unknown = indirect(|jump| match jump {
        Indirect::Unknown { at } => Some(*at),
        Indirect::Inside { .. } | Indirect::Tail { .. } => None,
    });
    if !unknown.is_empty() {
        notes.push(format!(
            "the indirect jump at {} may leave it: if so its end is inferred there",
            list(&unknown)
        ));
    }
    if let Some(first) = leaves.unprobed_rets.first() {
        let at: Vec<_> = leaves.unprobed_rets.iter().map(|ret| ret.address).collect();
        notes.push(format!(
            "returns by `{}` at {}, which must not carry a probe: its end is inferred there",
            first.text,
            list(&at)
        ));
    }
    if !leaves.runs_off.is_empty() {
        notes.push(format!(
            "its code runs off its end at {}: its end is inferred there",
            list(&leaves.runs_off)
        ));
    }
    if !flow.opaque.is_empty() {
        notes.push(format!(
            "what lies at {} cannot be told from data and is left alone: if it is code that \
             returns, its end is inferred there",
            list(&flow.opaque)
        ));
    }
    notes
}

/// The first few addresses, and how many more there are.
pub(super) fn list(addresses: &[VirtAddr]) -> String {
    let named: Vec<_> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    let more = addresses.len().saturating_sub(NAMED);
    if more > 0 {
        return format!("{} and {more} more", named.join(", "));
    }
    named.join(", ")
}
