//! The safety suite: whatever is probed, and however the profiler or its target ends, the target
//! does what it would have done alone. The table of hazards in `docs/safety.md` names the test of
//! each, here and elsewhere.

mod cycles;
mod engines;
mod hazards;
mod hostile;
mod keys;
mod objects;
mod processes;
mod sites;
mod tracers;
mod unwinding;
