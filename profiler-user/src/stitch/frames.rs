//! The open calls of one stack, the first few in place.

use std::num::NonZeroU64;

use crate::model::{FrameAddr, MonoNs, ProbeId, ReturnAddr};

use super::contexts::ContextRef;
use super::trace::{Basis, Rests, SpanRef};

/// What an open frame is to the calls below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// Calls below it have this span as parent.
    Span(SpanRef),
    /// It is part of something that has no known trace; so are the calls below it.
    Orphan,
    /// Nothing below which a span could hang.
    Nothing,
}

/// Evidence other than the lane's own stack: of a call, and where that makes no span of what is directly
/// below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Via {
    pub(super) basis: Basis,
    /// The event with which it was believed, by number.
    pub(super) since: NonZeroU64,
    /// The lane it rests on, as in [`Rests`].
    pub(super) on: u32,
}

impl Via {
    pub(super) const fn rests(self) -> Rests {
        Rests { since: self.since.get(), on: self.on }
    }
}

/// A call that has begun and not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) slot: FrameAddr,
    pub(super) return_address: ReturnAddr,
    /// The slot whose return ends it: its own, or that of a caller that returns at once.
    pub(super) awaited: FrameAddr,
    /// Its own span, if it makes one and is in a trace.
    pub(super) span: Option<SpanRef>,
    /// Of [`Context::Span`].
    below: Option<SpanRef>,
    pub(super) via: Option<Via>,
    /// When it jumped to another function of which nothing is known.
    pub(super) jumped: Option<MonoNs>,
    /// The event with which it began, among all events: names one frame of all.
    pub(super) serial: u64,
    /// Where it is known by its `context.Context`.
    pub(super) known_as: Option<ContextRef>,
    pub(super) probe: ProbeId,
    /// The number of the event with which it began.
    pub(super) number: u32,
    /// Of [`Context::Orphan`].
    is_orphan: bool,
    /// It may be gone already, and its slot another call's: events of its lane were lost.
    pub(super) after_loss: bool,
    /// It may be gone already: the call its stack depends on has ended. Or its thread runs for someone
    /// else now.
    pub(super) adrift: bool,
    /// Goroutines it has made may be waiting for their first call.
    pub(super) has_spawned: bool,
}

impl Frame {
    /// Where there is none.
    const NONE: Self = Self::new(FrameAddr(0), ReturnAddr(0), FrameAddr(0), ProbeId(0), 0);

    /// A call without a span, of no known context.
    pub(super) const fn new(
        slot: FrameAddr,
        return_address: ReturnAddr,
        awaited: FrameAddr,
        probe: ProbeId,
        number: u32,
    ) -> Self {
        Self {
            slot,
            return_address,
            awaited,
            span: None,
            below: None,
            via: None,
            jumped: None,
            serial: 0,
            known_as: None,
            probe,
            number,
            is_orphan: false,
            after_loss: false,
            adrift: false,
            has_spawned: false,
        }
    }

    /// What it is to the calls below it.
    pub(super) const fn context(&self) -> Context {
        match self.below {
            Some(span) => Context::Span(span),
            None if self.is_orphan => Context::Orphan,
            None => Context::Nothing,
        }
    }

    pub(super) const fn set_context(&mut self, context: Context) {
        self.below = match context {
            Context::Span(span) => Some(span),
            Context::Orphan | Context::Nothing => None,
        };
        self.is_orphan = matches!(context, Context::Orphan);
    }

    /// Whether it may be gone already, and so is nobody's parent.
    pub(super) const fn is_doubtful(&self) -> bool {
        self.after_loss || self.adrift
    }
}

/// How many frames of a stack lie in place.
const NEAR: usize = 4;

/// Frames, outermost first. The first few lie with the stack they are of: most stacks have no more,
/// and a list of its own would be one more place to fetch.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    near: [Frame; NEAR],
    /// How many of `near` are taken.
    count: u8,
    /// Those after them.
    far: Vec<Frame>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { near: [Frame::NONE; NEAR], count: 0, far: Vec::new() }
    }
}

impl Frames {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Frame> {
        self.near.iter().take(usize::from(self.count)).chain(&self.far)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.near.iter_mut().take(usize::from(self.count)).chain(&mut self.far)
    }

    /// The outermost.
    pub(super) fn first(&self) -> Option<&Frame> {
        self.near.first().filter(|_| self.count > 0)
    }

    /// The innermost.
    pub(super) fn last(&self) -> Option<&Frame> {
        let near = usize::from(self.count).checked_sub(1).and_then(|last| self.near.get(last));
        self.far.last().or(near)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Frame> {
        let Self { near, count, far } = self;
        let near = usize::from(*count).checked_sub(1).and_then(|last| near.get_mut(last));
        far.last_mut().or(near)
    }

    pub(super) fn push(&mut self, frame: Frame) {
        if let Some(free) = self.near.get_mut(usize::from(self.count)) {
            *free = frame;
            self.count += 1;
        } else {
            self.far.push(frame);
        }
    }

    /// Takes off the innermost.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.pop_if(|_| true)
    }

    /// Takes off the innermost, if it is such.
    pub(super) fn pop_if(&mut self, is_such: impl FnOnce(&Frame) -> bool) -> Option<Frame> {
        let frame = *self.last().filter(|frame| is_such(frame))?;
        if self.far.pop().is_none() {
            self.count -= 1;
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_off_as_they_went_on() {
        let frame =
            |slot| Frame::new(FrameAddr(slot), ReturnAddr(0), FrameAddr(slot), ProbeId(0), 0);
        let mut frames = Frames::default();
        assert!(frames.is_empty() && frames.last().is_none() && frames.pop().is_none());
        for slot in 0..10 {
            frames.push(frame(slot));
            assert_eq!(frames.last_mut().map(|frame| frame.slot.0), Some(slot));
            assert_eq!(frames.iter().count() as u64, slot + 1);
        }
        assert_eq!(frames.first().map(|frame| frame.slot.0), Some(0));
        assert!(frames.pop_if(|frame| frame.slot.0 < 9).is_none());
        for slot in (0..10).rev() {
            assert_eq!(frames.pop().map(|frame| frame.slot.0), Some(slot));
        }
        assert!(frames.is_empty() && frames.first().is_none());
    }
}
