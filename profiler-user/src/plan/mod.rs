//! Choosing the instructions to probe: pure, explained, tested on instruction bytes.
//!
//! No I/O, no clock, no `unsafe`: code bytes come in, sites and reasons go out. A probe on the
//! wrong instruction corrupts or kills the target; what keeps it from that is, in order:
//!
//! 1. `form`: an allow-list of exact encodings; nothing else ever carries a probe. `kernel_forms`
//!    takes from it what this kernel was seen to get wrong.
//! 2. `listing`, `flow`: an instruction is one only if decoding from the function's start says so
//!    and control, followed from there, agrees. Code that does not add up is refused whole.
//!    `start`: and the function's start is one only if the code around it does not say otherwise.
//! 3. `enter`, `exits`: where a call is seen to begin and to end, exactly once each.
//! 4. `tails`, `exit_sites`: where a frame ends that was handed on, each instruction once in the
//!    whole plan.
//! 5. `catalogue`, `captures`, `build`, `assemble`: from a symbol map and what was found to a
//!    [`ProbePlan`].
//! 6. `landing`, `line`: where a call is seen to have come back, in its caller; `callers`:
//!    which callers can be told beforehand.
//! 7. `silent`: what is probed besides; `grow`: one numbering for the plans of a whole run.
//! 8. `recorded`: which calls are recorded one by one.
//! 9. `costs`, `predict`: what all that will cost the target; `price`: what it has cost.
//! 10. `stack_check`: how Go functions start; `go_runtime`: what Go's runtime tells of goroutines.
#![forbid(unsafe_code)]

mod analyse;
mod assemble;
mod build;
mod callers;
mod captures;
mod catalogue;
mod contexts;
mod costs;
mod enter;
mod error;
mod exit_sites;
mod exits;
mod flow;
mod form;
mod go_runtime;
mod grow;
mod kernel_forms;
mod landing;
mod line;
mod listing;
mod predict;
mod price;
mod probe_plan;
mod reasons;
mod recorded;
mod silent;
mod stack_check;
mod start;
mod tails;

#[cfg(test)]
mod tests;

use crate::model::VirtAddr;
use crate::symbols::Function;
use crate::target::ObjectId;

pub use build::{build, selectors};
pub use callers::{CallScan, Candidates, Predicted, predict};
pub use contexts::{
    add_contexts, context_in_memory, context_in_registers, record_outside_of_traces,
};
pub use costs::{Costs, EventWords, Kernel};
pub use error::{Missing, PlanError};
pub use form::entry_cost;
pub use go_runtime::{GoPlace, add_go_runtime, go_runtime};
pub use grow::GrowingPlan;
pub use kernel_forms::{FormKind, KernelForms};
pub use landing::{
    LandingSite, NoLanding, Return, ReturnNeeds, ReturnPlan, Returns, Stop, StopAt, Up,
};
pub use predict::{CallCost, Ends, call_costs, dearest_first, dearest_ns};
pub use price::{Price, since};
pub use probe_plan::{CostClass, ForeseenReturn, GoPlan, PlannedProbe, ProbePlan, Site, Skipped};
pub use silent::{MARKED, add_silent, silent};

/// Finds the function that starts at an address of an object, if one does.
pub type CodeLookup<'a> = dyn Fn(ObjectId, VirtAddr) -> Option<Function> + 'a;
