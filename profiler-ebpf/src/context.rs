//! In whose behalf a call is made: its `context.Context`.
//!
//! A request's context is an address that goes with it through all goroutines. A context is made of
//! another, its parent; which types keep a parent where, user space reads out of the program.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_probe_read_user;
use profiler_common::{
    ContextNode, ContextParent, ContextType, Counter, EventRecord, GoRuntime, MAX_CONTEXTS,
    MAX_WORDS,
};

use crate::count;
use crate::goroutine::word;
use crate::hit::Hit;
use crate::maps::{CONTEXT_TYPES, CONTEXTS, GO, OPEN, OpenFrame};

/// An interface: the type and the address of what it holds.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Interface {
    pub(crate) table: u64,
    pub(crate) data: u64,
}

impl Interface {
    pub(crate) const NONE: Self = Self { table: 0, data: 0 };
}

/// A call has begun, and comes back to that slot: appends its contexts to the words of its event. Who is
/// above is asked only where its stack does not tell already.
#[inline(always)]
pub(crate) fn find(hit: &Hit<'_>, own: Interface, awaited: u64, record: &mut EventRecord) {
    // One without a parent, as `context.Background()`, is everybody's.
    let Some(parent) = parent_of(hit.space, own) else { return };
    let Some(open) = OPEN.get_ptr_mut(&OpenFrame { lane: hit.lane.key, slot: awaited }) else {
        return;
    };
    // SAFETY: a live map value; no other lane touches it.
    let open = unsafe { &mut *open };
    let place = usize::from(record.header.words);
    if place + 2 > MAX_WORDS {
        return;
    }
    let nearest = if open.outer.is_none() { nearest(hit.space, own, parent) } else { 0 };
    record.words[place] = own.data;
    record.words[place + 1] = nearest;
    let count = if nearest == 0 { 1 } else { 2 };
    record.header.words += count;
    record.header.context = count;
    // Of several calls that end together it is that of the last.
    end(hit.space, open.context);
    open.context = begin(hit.space, own.data);
}

/// The nearest of a context and those above that an open call has; 0: none.
#[inline(always)]
fn nearest(space: u64, own: Interface, parent: ContextParent) -> u64 {
    let (mut at, mut parent) = (own, parent);
    for _ in 0..MAX_CONTEXTS {
        let node = ContextNode { space, address: at.data };
        if CONTEXTS.get_ptr(&node).is_some() {
            return at.data;
        }
        let Some(next) = follow(at, parent) else { break };
        let Some(above) = parent_of(space, next) else { return 0 };
        (at, parent) = (next, above);
    }
    count::count(Counter::ContextFault);
    0
}

/// Where the context of this type keeps the one it was made of; none if it keeps none.
#[inline(always)]
fn parent_of(space: u64, of: Interface) -> Option<ContextParent> {
    /// `itab.Type` (Go's `src/internal/abi/iface.go`).
    const TYPE: u32 = 8;
    if of.table == 0 || of.data == 0 {
        return None;
    }
    let address = word(of.table, TYPE)?;
    // SAFETY: a live map value.
    CONTEXT_TYPES.get_ptr(&ContextType { space, address }).map(|parent| unsafe { *parent })
}

#[inline(always)]
fn follow(at: Interface, parent: ContextParent) -> Option<Interface> {
    let base =
        if parent.through == GoRuntime::NONE { at.data } else { word(at.data, parent.through)? };
    let address = base.wrapping_add(u64::from(parent.offset)) as *const Interface;
    // SAFETY: the helper checks the address and fails where it cannot read.
    unsafe { bpf_probe_read_user(address) }.ok()
}

/// A call that has this context is open from now on. What to remember of it: 0 where it cannot be had, and
/// calls below find their parent in other ways, or none.
#[inline(always)]
fn begin(space: u64, address: u64) -> u64 {
    let node = ContextNode { space, address };
    if let Some(open) = CONTEXTS.get_ptr_mut(&node) {
        count::atomic_add(open, 1);
        return address;
    }
    if CONTEXTS.insert(&node, &1, u64::from(BPF_ANY)).is_ok() { address } else { 0 }
}

/// It is not any more.
#[inline(always)]
pub(crate) fn end(space: u64, address: u64) {
    if GO.load() == 0 || address == 0 {
        return;
    }
    let node = ContextNode { space, address };
    let Some(open) = CONTEXTS.get_ptr_mut(&node) else { return };
    // SAFETY: a live map value. Another thread may change it at the same time: then it stays too long,
    // or goes too early, and a call finds its parent in other ways, or none.
    if unsafe { *open } <= 1 {
        let _ = CONTEXTS.remove(&node);
    } else {
        count::atomic_add(open, u64::MAX);
    }
}
