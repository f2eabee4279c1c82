//! The process being profiled and the ELF objects mapped into it: the only reader of `/proc`.

mod boot;
mod code_map;
mod cpus;
mod error;
mod find;
pub mod go;
mod guard;
mod maps;
mod object;
mod open;
mod own;
pub mod process;
mod watch;

pub use boot::boot_id;
pub use code_map::{CodeMap, MappedCode};
pub use cpus::{Scheduled, allowed_cpus, scheduled};
pub use error::TargetError;
pub use find::{Running, descendants, read as read_running, running};
pub use guard::FileGuard;
pub use object::{BuildId, Inode, MappedObject, ObjectId, Target};
pub use open::{mapped_files, open_mapped};
pub use own::{Confinement, ContainerRuntime, confinement};
pub use process::{ProcessFacts, mapping_around, random_word, thread_name};
pub use watch::ExitWatch;
