//! Where a frame ends that was handed on by a direct tail jump: at the returns of the function
//! jumped to, and of those it jumps to in turn.

use std::collections::HashMap;
use std::rc::Rc;

use super::analyse::{SiteSpec, analyse_leaves, list};
use super::exits::{Indirect, Leaves};
use super::{CodeLookup, KernelForms};
use crate::model::VirtAddr;
use crate::symbols::Function;
use crate::target::ObjectId;

/// How many jumps in a row are followed.
const LEVELS: usize = 4;
/// How many returns in other functions one function may end at.
const MAX_SITES: usize = 64;

/// Functions whose returns are not watched on behalf of a tail call: they run so often on behalf
/// of everyone else that a probe on their returns would cost more than the end is worth.
const TOO_HOT: [&str; 22] = [
    "operator new",
    "operator new[]",
    "operator delete",
    "operator delete[]",
    "malloc",
    "calloc",
    "realloc",
    "free",
    "sdallocx",
    "cfree",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "memchr",
    "strlen",
    "strcmp",
    "__rust_alloc",
    "__rust_dealloc",
    "__rdl_dealloc",
    "pthread_mutex_lock",
    "pthread_mutex_unlock",
];

/// Where tail calls of one function end.
#[derive(Debug, Default)]
pub(super) struct TailEnds {
    /// Returns of functions that are not probed themselves.
    pub(super) sites: Vec<SiteSpec>,
    /// Functions that are: their own returns end the frame too.
    pub(super) into: Vec<VirtAddr>,
    /// Where jumps go that are not followed.
    pub(super) unfollowed: Vec<VirtAddr>,
    /// Ends that cannot be seen.
    pub(super) notes: Vec<String>,
}

/// Follows direct tail jumps. Remembers what it has decoded: many functions share a target.
pub(super) struct TailCalls<'a> {
    lookup: &'a CodeLookup<'a>,
    forms: KernelForms,
    seen: HashMap<(ObjectId, VirtAddr), Option<Rc<TailTarget>>>,
}

/// What is at the target of a tail jump.
struct TailTarget {
    function: Function,
    /// None if its code cannot be read.
    leaves: Option<Leaves>,
}

impl<'a> TailCalls<'a> {
    pub(super) fn new(lookup: &'a CodeLookup<'a>, forms: KernelForms) -> Self {
        Self { lookup, forms, seen: HashMap::new() }
    }

    /// Follows the jumps `leaves` of `function`. `planned`: whether the function that starts at an
    /// address is probed itself.
    pub(super) fn follow(
        &mut self,
        function: &Function,
        leaves: &Leaves,
        planned: &dyn Fn(VirtAddr) -> bool,
    ) -> TailEnds {
        let object = function.object;
        let mut ends = TailEnds::default();
        let mut visited: Vec<Rc<TailTarget>> = Vec::new();
        let mut unknown = Vec::new();
        let mut level = leaves.tails.clone();
        for _ in 0..LEVELS {
            let mut next = Vec::new();
            for address in std::mem::take(&mut level) {
                let inside = |function: &Function| function.contains(address);
                if inside(function) || visited.iter().any(|target| inside(&target.function)) {
                    continue;
                }
                if planned(address) {
                    ends.into.push(address);
                    continue;
                }
                let Some(target) = self.target(object, address) else {
                    unknown.push(address);
                    ends.unfollowed.push(address);
                    continue;
                };
                let name = &target.function.base_name;
                if TOO_HOT.contains(&&**name) {
                    ends.unfollowed.push(address);
                    ends.notes.push(format!(
                        "leaves through `{name}`, which runs too often for its returns to be \
                         watched: its end is inferred there"
                    ));
                    continue;
                }
                let Some(leaves) = &target.leaves else {
                    ends.notes.push(format!(
                        "leaves through `{name}`, which is not decodable: its end is inferred there"
                    ));
                    continue;
                };
                if ends.sites.len().saturating_add(leaves.rets.len()) > MAX_SITES {
                    ends.notes.push(format!(
                        "leaves through `{name}`, which would make more than {MAX_SITES} exits: \
                         its end is inferred there"
                    ));
                    continue;
                }
                if leaves.indirect.iter().any(|jump| !matches!(jump, Indirect::Inside { .. }))
                    || !leaves.unprobed_rets.is_empty()
                {
                    ends.notes.push(format!(
                        "leaves through `{name}`, some of whose exits cannot be seen: its end may \
                         be inferred there"
                    ));
                }
                if !leaves.rets.is_empty() {
                    ends.notes.push(format!(
                        "leaves through `{name}`: ends at its returns, which all its calls pay for"
                    ));
                }
                ends.sites.extend(leaves.rets.iter().cloned());
                next.extend(leaves.tails.iter().copied());
                visited.push(target);
            }
            next.sort_unstable();
            next.dedup();
            level = next;
        }
        level.retain(|address| {
            !function.contains(*address)
                && !visited.iter().any(|target| target.function.contains(*address))
        });
        if !level.is_empty() {
            ends.notes.push(format!(
                "leaves through more than {LEVELS} tail calls in a row (at last to {}): its end \
                 is inferred there",
                list(&level)
            ));
        }
        if !unknown.is_empty() {
            ends.notes.push(format!(
                "jumps out to {}, where no function starts: its end is inferred there",
                list(&unknown)
            ));
        }
        ends
    }

    fn target(&mut self, object: ObjectId, address: VirtAddr) -> Option<Rc<TailTarget>> {
        let (lookup, forms) = (self.lookup, self.forms);
        self.seen
            .entry((object, address))
            .or_insert_with(|| {
                let function = lookup(object, address)?;
                // The middle of a function is no function: what it does with the stack is unknown.
                if function.code.address != address {
                    return None;
                }
                let leaves = analyse_leaves(&function, forms).ok();
                Some(Rc::new(TailTarget { function, leaves }))
            })
            .clone()
    }
}
