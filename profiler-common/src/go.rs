//! What the kernel side must know of Go programs, by address space.

/// Where a Go program's runtime keeps what it knows of a goroutine: offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoRuntime {
    /// Where a thread keeps its g, from the base of `fs`.
    pub tls: i32,
    /// `g.m`
    pub g_m: u32,
    /// `g.goid`
    pub g_goid: u32,
    /// `m.curg`
    pub m_curg: u32,
    /// Where `runtime.recovery` goes on, as a stack pointer: in the g; or, if `panic_sp` is not
    /// [`GoRuntime::NONE`], the innermost panic, which has it.
    pub g_recovery: u32,
    /// `_panic.sp`, from Go 1.22 on.
    pub panic_sp: u32,
}

impl GoRuntime {
    /// There is no such field.
    pub const NONE: u32 = u32::MAX;
}

/// A type that implements `context.Context`, in an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ContextType {
    /// See [`crate::target_state::TargetState::space`].
    pub space: u64,
    /// The address of its description.
    pub address: u64,
}

/// Where such a type keeps the context it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ContextParent {
    /// Where a pointer is that leads to the structure with the parent; [`GoRuntime::NONE`]: it is in the
    /// value itself. Bytes.
    pub through: u32,
    /// Where the two words of the parent are in it, bytes.
    pub offset: u32,
}

/// A value of such a type, which open calls have as their context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ContextNode {
    /// See [`crate::target_state::TargetState::space`].
    pub space: u64,
    /// Its address.
    pub address: u64,
}

/// How many contexts are followed from a call's own to that of another open call.
pub const MAX_CONTEXTS: usize = 32;

const _: () = {
    assert!(size_of::<GoRuntime>() == 24);
    assert!(size_of::<ContextType>() == 16);
    assert!(size_of::<ContextParent>() == 8);
    assert!(size_of::<ContextNode>() == 16);
};
