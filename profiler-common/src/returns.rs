//! Where calls come back: what user space has learned of return addresses, for the kernel side.

/// How many landings one run may have. Sizes the per-landing BPF map.
pub const MAX_LANDINGS: u32 = 16_384;

/// How many callers that return at once the kernel side follows.
pub const MAX_LEVELS: usize = 8;

/// A landing: the index of its counts. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LandingId(pub u16);

impl LandingId {
    /// No landing.
    pub const NONE: Self = Self(0);

    /// As an index into a table of landings.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A return address in an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ReturnKey {
    /// The address space: see [`crate::target_state::TargetState::space`].
    pub space: u64,
    /// The return address.
    pub address: u64,
}

/// What is known of a return address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Return {
    /// One of the kinds below.
    pub kind: u8,
    /// Of the flags below.
    pub flags: u8,
    /// The landing that is used as a rule; [`LandingId::NONE`] where the kind has none.
    pub landing: LandingId,
    /// The landing nearest to the return point, where one was asked for.
    pub point: LandingId,
    /// Always zero.
    pub pad: u16,
    /// [`Return::CALLER`]: the caller's return slot lies this many bytes above the call's.
    pub up: u32,
}

impl Return {
    /// No landing is possible here.
    pub const NOTHING: u8 = 0;
    /// The call ends at `landing`.
    pub const LANDING: u8 = 1;
    /// The caller returns at once: the call ends where the caller's does, `up` bytes above.
    pub const CALLER: u8 = 2;
    /// The same; the caller's return slot lies above where rbp points.
    pub const CALLER_BY_FRAME_POINTER: u8 = 3;

    /// At `landing` the return value is still there.
    pub const LANDING_KEEPS_VALUE: u8 = 1 << 0;
    /// At `point` the return value is still there.
    pub const POINT_KEEPS_VALUE: u8 = 1 << 1;
    /// No site here keeps the return value.
    pub const NO_VALUE: u8 = 1 << 2;
    /// The return point cannot be one.
    pub const NO_POINT: u8 = 1 << 3;
}

/// How often a landing was run into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LandingCount {
    /// By the target.
    pub hits: u64,
    /// Of these, at the end of a call that was awaited.
    pub matched: u64,
}

const _: () = {
    assert!(size_of::<ReturnKey>() == 16);
    assert!(size_of::<Return>() == 12);
    assert!(size_of::<LandingCount>() == 16);
};
