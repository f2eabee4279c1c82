//! The marker traits user space needs to move these types through BPF maps and byte buffers.

use crate::{
    Capture, CaptureProgram, ContextParent, ContextType, EventHeader, Fold, FoldKey, GoRuntime,
    KernelOffsets, LandingCount, LaneKey, ProbeCount, Return, ReturnKey, TargetState,
};

// SAFETY: `repr(C)`, made of integers only, no implicit padding (const-asserted beside the type).
unsafe impl aya::Pod for CaptureProgram {}

// SAFETY: as above; every bit pattern is a value, none is uninitialised.
unsafe impl bytemuck::Zeroable for EventHeader {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for EventHeader {}
// SAFETY: as above.
unsafe impl bytemuck::Zeroable for Capture {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Capture {}
// SAFETY: as above.
unsafe impl aya::Pod for KernelOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for TargetState {}
// SAFETY: as above.
unsafe impl aya::Pod for ReturnKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Return {}
// SAFETY: as above.
unsafe impl aya::Pod for LandingCount {}
// SAFETY: as above.
unsafe impl aya::Pod for ProbeCount {}
// SAFETY: as above.
unsafe impl bytemuck::Zeroable for ProbeCount {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for ProbeCount {}
// SAFETY: as above.
unsafe impl bytemuck::Zeroable for LandingCount {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for LandingCount {}
// SAFETY: as above.
unsafe impl aya::Pod for FoldKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Fold {}
// SAFETY: as above.
unsafe impl aya::Pod for LaneKey {}
// SAFETY: as above.
unsafe impl aya::Pod for GoRuntime {}
// SAFETY: as above.
unsafe impl aya::Pod for ContextType {}
// SAFETY: as above.
unsafe impl aya::Pod for ContextParent {}
