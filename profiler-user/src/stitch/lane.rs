//! The open frames of one lane, by stack.
//!
//! A thread may run on several stacks: coroutines, signal stacks, stacks grown in pieces. Which one
//! an address lies on is told by where calls were seen before: an address within [`NEAR`] of a
//! known stack is on it, another begins a new one. A stack that is entered from a call on another
//! one depends on that call (its *base*): when the call is gone, frames that are still open there
//! may be a suspended coroutine's or may have been unwound with it. Nobody can tell, so they are
//! *adrift*: they still end at their own `ret`, but prove nothing for what comes after.
//!
//! A call that begins on another stack hangs under the innermost open call of the lane's first
//! stack, the thread's own: whatever was suspended or resumed in between, the thread is inside that
//! call. Whether one coroutine called another, or was suspended in its favour, cannot be seen, so
//! neither is claimed.

use crate::model::{FrameAddr, Goid, Lane, MonoNs, ProbeId, Tid};

use super::frames::{Frame, Frames};
use super::trace::SpanRef;

/// How far from the calls seen on a stack a new one may lie to be on it. Smaller than the smallest
/// common coroutine stack (64 KiB); a larger gap on one stack only costs that its frames become
/// doubtful when they could have been inferred.
const NEAR: u64 = 32 << 10;

/// How many stacks of a lane are remembered.
const STACKS: usize = 64;

#[derive(Clone, Debug)]
struct Stack {
    low: u64,
    high: u64,
    /// Outermost first: falling addresses.
    frames: Frames,
    /// The frame of another stack from which this one was entered, by serial.
    base: Option<u64>,
    /// The lane's first: the thread's own, on which it is never suspended. None after a loss.
    first: bool,
    /// When it was last seen, by serial.
    used: u64,
}

impl Stack {
    /// How far an address is from the calls seen here.
    const fn distance(&self, address: u64) -> u64 {
        if address < self.low { self.low - address } else { address.saturating_sub(self.high) }
    }
}

/// The stacks of a lane, the first in place: most lanes have no other.
#[derive(Clone, Debug, Default)]
struct Stacks {
    first: Option<Stack>,
    others: Vec<Stack>,
}

impl Stacks {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn get(&self, index: usize) -> Option<&Stack> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.others.get(index),
        }
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Stack> {
        match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(index) => self.others.get_mut(index),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Stack> {
        self.first.iter().chain(&self.others)
    }

    fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Stack> {
        self.first.iter_mut().chain(&mut self.others)
    }

    fn push(&mut self, stack: Stack) {
        if self.first.is_none() {
            self.first = Some(stack);
        } else {
            self.others.push(stack);
        }
    }

    fn remove(&mut self, index: usize) -> Option<Stack> {
        match index.checked_sub(1) {
            None => {
                let next = (!self.others.is_empty()).then(|| self.others.remove(0));
                std::mem::replace(&mut self.first, next)
            }
            Some(index) => (index < self.others.len()).then(|| self.others.remove(index)),
        }
    }
}

/// What carries one stack of calls at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct LaneState {
    stacks: Stacks,
    /// All addresses are on one stack, however far apart: a goroutine's.
    one_stack: bool,
    /// Index of the stack the latest event was on.
    active: usize,
    /// The latest event of the lane that was on a stack, among all events.
    serial: u64,
    open: usize,
    /// Number of the latest event on the lane.
    pub(super) sequence: u32,
    /// The latest event of the lane among all events.
    pub(super) seen: u64,
    /// Events since it began may be missing.
    pub(super) missed: bool,
    /// A call has begun on it.
    pub(super) has_called: bool,
    /// Of a goroutine: it does once what it does, and was made for that.
    pub(super) runs_once: bool,
    /// A thread: the goroutine it runs functions in C for.
    pub(super) carries: Option<Goid>,
    /// A thread: it does so only while that goroutine has calls open. It was not made by Go, and called
    /// back.
    pub(super) borrows: bool,
    /// A thread: it was told whom it carries, or something was lost and may have told it. One that was made
    /// by C has no goroutine until it calls one back.
    pub(super) was_told: bool,
    /// A thread: the event since which it does; calls that began before were made for another.
    pub(super) carries_since: u64,
    /// A goroutine: the thread that carries it.
    pub(super) carrier: Option<Tid>,
    /// The outermost frame that has ended since this was asked, by serial.
    popped: Option<u64>,
    /// Events lost since the frame opened last; they are marked on the next one.
    pub(super) lost_before_next: u64,
}

impl LaneState {
    /// One that has just begun.
    pub(super) fn of(lane: Lane) -> Self {
        Self { one_stack: matches!(lane, Lane::Goroutine(..)), ..Self::default() }
    }

    /// It begins anew: its numbers do.
    pub(super) fn begin_anew(&mut self) {
        // Of a goroutine there is only one.
        let missed = self.one_stack;
        *self = Self { one_stack: self.one_stack, seen: self.seen, missed, ..Self::default() };
    }

    pub(super) const fn is_goroutine(&self) -> bool {
        self.one_stack
    }

    /// The outermost frame that has ended since this was asked, by serial.
    pub(super) const fn take_popped(&mut self) -> Option<u64> {
        self.popped.take()
    }

    pub(super) const fn open_frames(&self) -> usize {
        self.open
    }

    /// Goes to the stack an address lies on, known or new. If too many are known, the one longest
    /// unused goes, and its frames are returned.
    pub(super) fn go_to(&mut self, slot: FrameAddr, now: u64) -> Vec<Frame> {
        self.serial = now;
        let mut forgotten = Vec::new();
        let on_active = |stack: &Stack| stack.distance(slot.0) == 0;
        if self.one_stack && self.stacks.len() > 0 {
            self.active = 0;
        } else if !self.stacks.get(self.active).is_some_and(on_active) {
            let nearest = self
                .stacks
                .iter()
                .enumerate()
                .map(|(index, stack)| (stack.distance(slot.0), index != self.active, index))
                .filter(|(distance, ..)| *distance <= NEAR)
                .min();
            if let Some((.., index)) = nearest {
                self.active = index;
            } else {
                if self.stacks.len() >= STACKS {
                    forgotten = self.forget_stack();
                }
                self.active = self.stacks.len();
                self.stacks.push(Stack {
                    low: slot.0,
                    high: slot.0,
                    frames: Frames::default(),
                    base: None,
                    // If what came before was lost, it may be another.
                    first: self.stacks.len() == 0 && !self.missed,
                    used: self.serial,
                });
            }
        }
        if let Some(stack) = self.stacks.get_mut(self.active) {
            stack.low = stack.low.min(slot.0);
            stack.high = stack.high.max(slot.0);
            stack.used = self.serial;
        }
        forgotten
    }

    /// Forgets the stack longest unused, one without open frames first; not the active one. Its
    /// frames, innermost first.
    pub(super) fn forget_stack(&mut self) -> Vec<Frame> {
        let longest_unused = self
            .stacks
            .iter()
            .enumerate()
            .filter(|(index, stack)| *index != self.active && !stack.first)
            .min_by_key(|(_, stack)| (!stack.frames.is_empty(), stack.used))
            .map(|(index, _)| index);
        let Some(index) = longest_unused else { return Vec::new() };
        let Some(stack) = self.stacks.remove(index) else { return Vec::new() };
        if self.active > index {
            self.active -= 1;
        }
        let frames: Vec<Frame> = stack.frames.iter().rev().copied().collect();
        for frame in &frames {
            self.gone(frame);
        }
        frames
    }

    /// The innermost frame of the active stack.
    pub(super) fn innermost(&self) -> Option<&Frame> {
        self.stacks.get(self.active)?.frames.last()
    }

    /// The innermost frame of the active stack, if it is that one, jumps to another function.
    pub(super) fn jumps(&mut self, probe: ProbeId, slot: FrameAddr, at: MonoNs) {
        let innermost = self.stacks.get_mut(self.active).and_then(|stack| stack.frames.last_mut());
        if let Some(frame) = innermost.filter(|frame| (frame.probe, frame.slot) == (probe, slot)) {
            frame.jumped = Some(at);
        }
    }

    /// The innermost frame of the active stack if it has jumped and its address is above `slot`, taken
    /// off.
    pub(super) fn pop_jumped(&mut self, slot: FrameAddr) -> Option<Frame> {
        let stack = self.stacks.get_mut(self.active)?;
        let frame = stack.frames.pop_if(|frame| frame.jumped.is_some() && frame.slot > slot)?;
        self.gone(&frame);
        Some(frame)
    }

    /// What the innermost frame of the active stack jumped to is a call that is known.
    pub(super) fn handed_on(&mut self) {
        let innermost = self.stacks.get_mut(self.active).and_then(|stack| stack.frames.last_mut());
        if let Some(frame) = innermost {
            frame.jumped = None;
        }
    }

    /// Whether a jump to an address above, within one mapping, stays on the active stack: a thread's own
    /// is a mapping of its own, others may lie side by side in one.
    pub(super) fn lands_on_this_stack(&self, below: FrameAddr) -> bool {
        self.stacks.get(self.active).is_some_and(|stack| {
            stack.first || stack.frames.first().is_some_and(|outermost| outermost.slot >= below)
        })
    }

    /// The innermost frame of the active stack if its address is below `slot` (or equal, with
    /// `equal`), taken off.
    pub(super) fn pop_below(&mut self, slot: FrameAddr, equal: bool) -> Option<Frame> {
        let stack = self.stacks.get_mut(self.active)?;
        let gone = |frame: &Frame| frame.slot < slot || (equal && frame.slot == slot);
        let frame = stack.frames.pop_if(gone)?;
        self.gone(&frame);
        Some(frame)
    }

    /// Takes off the innermost frame of any stack.
    pub(super) fn pop_any(&mut self) -> Option<Frame> {
        let stack = self.stacks.iter_mut().rev().find(|stack| !stack.frames.is_empty())?;
        let frame = stack.frames.pop()?;
        self.gone(&frame);
        Some(frame)
    }

    /// What depends on a frame that has ended is adrift from now on.
    fn gone(&mut self, frame: &Frame) {
        self.open -= 1;
        self.popped = Some(self.popped.map_or(frame.serial, |popped| popped.min(frame.serial)));
        let depends = |stack: &Stack, serial: u64| stack.base == Some(serial);
        if !self.stacks.iter().any(|stack| depends(stack, frame.serial)) {
            return;
        }
        let mut gone = vec![frame.serial];
        while let Some(serial) = gone.pop() {
            for stack in self.stacks.iter_mut().filter(|stack| depends(stack, serial)) {
                stack.base = None;
                for frame in stack.frames.iter_mut() {
                    frame.adrift = true;
                    gone.push(frame.serial);
                }
            }
        }
    }

    /// The innermost frame of the active stack, if it is of those that have led to the next call: not one
    /// that was made for a goroutine the thread does not carry any more.
    pub(super) fn inside(&self) -> Option<&Frame> {
        self.innermost().filter(|frame| frame.serial > self.carries_since)
    }

    /// The call from which the active stack was entered, if it is empty.
    pub(super) fn outside(&self) -> Option<&Frame> {
        let active = self.stacks.get(self.active)?;
        if active.first || !active.frames.is_empty() {
            return None;
        }
        // As long as the lane is elsewhere its first stack does not change.
        let outside = self.stacks.iter().find(|stack| stack.first)?.frames.last();
        outside.filter(|frame| frame.serial > self.carries_since)
    }

    /// Runs for another from now on, after the event `now`.
    pub(super) fn carry(&mut self, goroutine: Option<Goid>, now: u64) {
        (self.carries, self.carries_since, self.borrows) = (goroutine, now, false);
        self.was_told = true;
        for frame in self.stacks.iter_mut().flat_map(|stack| stack.frames.iter_mut()) {
            frame.adrift = true;
        }
    }

    /// Whether a goroutine that makes a call on this thread is called back by what the thread runs.
    pub(super) fn calls_back(&self) -> bool {
        !self.was_told && self.inside().is_some_and(|frame| !frame.is_doubtful())
    }

    /// Runs calls of a goroutine that it has called back, or no more.
    pub(super) const fn borrow(&mut self, goroutine: Option<Goid>) {
        (self.carries, self.borrows) = (goroutine, goroutine.is_some());
    }

    /// The innermost frame of the thread's own stack, if it began after the event `since` for whom the
    /// thread carries now; taken off.
    pub(super) fn pop_carried(&mut self, since: u64) -> Option<Frame> {
        let since = since.max(self.carries_since);
        let own = self.stacks.iter_mut().find(|stack| stack.first)?;
        let frame = own.frames.pop_if(|frame| frame.serial > since)?;
        self.gone(&frame);
        Some(frame)
    }

    /// Frames that began after the event `since` may be gone.
    pub(super) fn doubt_since(&mut self, since: u64) {
        for frame in self.stacks.iter_mut().flat_map(|stack| stack.frames.iter_mut()) {
            frame.adrift |= frame.serial > since;
        }
    }

    /// The open frame of that serial.
    pub(super) fn frame_mut(&mut self, serial: u64) -> Option<&mut Frame> {
        let mut frames = self.stacks.iter_mut().flat_map(|stack| stack.frames.iter_mut());
        frames.find(|frame| frame.serial == serial)
    }

    /// Opens a frame on the active stack. `base`: the frame of another stack it was called from.
    pub(super) fn push(&mut self, mut frame: Frame, base: Option<u64>) {
        if let Some(stack) = self.stacks.get_mut(self.active) {
            if stack.frames.is_empty() {
                stack.base = base;
            }
            frame.serial = self.serial;
            stack.frames.push(frame);
            self.open += 1;
        }
    }

    /// Whether a span's frame is open, without doubt, among those that have led to the next call:
    /// the active stack's and those it was entered from.
    pub(super) fn is_running(&self, span: SpanRef) -> bool {
        let is_it = |frame: &Frame| frame.span == Some(span) && !frame.is_doubtful();
        let Some(active) = self.stacks.get(self.active) else { return false };
        let below = active.frames.is_empty() || active.base.is_some();
        active.frames.iter().any(is_it)
            || below
                && self.stacks.iter().any(|stack| stack.first && stack.frames.iter().any(is_it))
    }

    /// The open frames, in no particular order of stacks.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.stacks.iter().flat_map(|stack| stack.frames.iter())
    }

    /// Calls may have been left for good: that a caller returns does not say any more that what it
    /// called last has returned.
    pub(super) fn doubt_callers(&mut self) {
        for frame in self.stacks.iter_mut().flat_map(|stack| stack.frames.iter_mut()) {
            frame.awaited = frame.slot;
        }
    }

    /// After a loss every frame may be gone, and no stack is known to be empty: what calls onto
    /// another stack cannot be told any more.
    pub(super) fn doubt_all(&mut self) {
        self.missed = true;
        for stack in self.stacks.iter_mut() {
            stack.first = false;
            for frame in stack.frames.iter_mut() {
                frame.after_loss = true;
            }
        }
    }
}
