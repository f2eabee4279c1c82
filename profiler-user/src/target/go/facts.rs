//! Where Go's runtime keeps what it knows of a goroutine, by version.
//!
//! The numbers are data, `facts.json`, made by `cargo xtask go-facts` out of what the toolchains
//! themselves say, never by hand.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{GoVersion, NotAGoVersion};

/// Offsets in bytes into the structures of Go's runtime on x86-64, and how one of its functions
/// is called. `None`: this version has no such field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoFacts {
    /// Of `runtime.g`, the goroutine.
    pub g: GFacts,
    /// Of `runtime._panic`, a panic under way.
    pub panic: PanicFacts,
    /// Of `runtime.m`, the thread.
    pub m: MFacts,
    /// Where a thread keeps the address of its g, from the base of `fs`, in a program without
    /// C code. Others may have it elsewhere: [`super::GoProgram`] tells.
    pub tls: i32,
    /// The names of the arguments of `runtime.newproc1`, in the order of the registers.
    pub newproc1: Vec<String>,
}

/// Offsets into `runtime.g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GFacts {
    /// Lowest address of the stack.
    pub stack_lo: u32,
    /// The address above its highest.
    pub stack_hi: u32,
    /// The innermost panic, a `*_panic`.
    pub panic: u32,
    /// The thread that runs it, a `*m`; null if none does.
    pub m: u32,
    /// The stack pointer while it does not run.
    pub sched_sp: u32,
    /// Whether it runs, waits, is in a system call; 32 bits.
    pub atomicstatus: u32,
    /// Its number, never given twice; 64 bits.
    pub goid: u32,
    /// The number of the goroutine that made it; from 1.21 on.
    pub parent_goid: Option<u32>,
    /// The address of the `go` statement that made it.
    pub gopc: u32,
    /// Where its function begins.
    pub startpc: u32,
    /// What it waits for; 8 bits.
    pub waitreason: u32,
    /// The stack pointer that `runtime.recovery` goes on at, up to 1.21; from 1.22 on it is the
    /// panic's.
    pub sigcode0: u32,
}

/// Offsets into `runtime._panic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PanicFacts {
    /// The arguments of the deferred call under way.
    pub argp: Option<u32>,
    /// From 1.22 on the stack pointer of the frame whose deferred calls run, which is where a
    /// recovery goes on; before, of `runtime.Goexit` alone.
    pub sp: u32,
    /// The stack pointer where the panic began; from 1.22 on.
    pub start_sp: Option<u32>,
    /// The address at which a recovery goes on; from 1.22 on.
    pub retpc: Option<u32>,
    /// Whether it was recovered; 8 bits.
    pub recovered: u32,
    /// Whether it is no panic but the end of the goroutine; 8 bits.
    pub goexit: u32,
}

/// Offsets into `runtime.m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MFacts {
    /// The g of the thread's own stack, on which the scheduler runs.
    pub g0: u32,
    /// The goroutine that the thread runs; null if none.
    pub curg: u32,
    /// The thread's number.
    pub procid: u32,
}

/// A minor version of Go whose facts are known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KnownGo {
    /// Such as `1.20`.
    pub go: String,
    /// The releases that were asked, and said the same.
    pub read_from: Vec<String>,
    /// What they said.
    pub facts: GoFacts,
}

/// Why nothing is known of a version of Go.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownGo {
    /// It is no version.
    #[error(transparent)]
    NotAVersion(#[from] NotAGoVersion),
    /// It is one that we have not.
    #[error(
        "nothing is known of Go {version}: known are {known}; with --go-offsets-from FILE it is \
         read from any program built by that version with its debug information (no -w, no strip)"
    )]
    Version {
        /// The version.
        version: GoVersion,
        /// Which we have, for the message.
        known: String,
    },
}

impl KnownGo {
    /// All there are, the oldest first.
    pub fn all() -> &'static [Self] {
        static KNOWN: OnceLock<Vec<KnownGo>> = OnceLock::new();
        // A test reads the same text: an empty table is never released.
        KNOWN.get_or_init(|| serde_json::from_str(include_str!("facts.json")).unwrap_or_default())
    }

    /// What is known of a version, named as a program names the one that built it.
    ///
    /// What holds for the first and the last release of a minor version is taken to hold for
    /// those between and after them; what was never released is refused, whatever its number.
    ///
    /// # Errors
    /// [`UnknownGo`] for what is no version, was not released, or is not in the table.
    pub fn of(version: &str) -> Result<&'static Self, UnknownGo> {
        let version: GoVersion = version.parse()?;
        let minor = format!("{}.{}", version.major, version.minor);
        let known = Self::all().iter().find(|known| version.released && known.go == minor);
        known.ok_or_else(|| UnknownGo::Version {
            version,
            known: match Self::all() {
                [] => "none".to_owned(),
                [only] => only.go.clone(),
                [first, .., last] => format!("the releases of {} to {}", first.go, last.go),
            },
        })
    }
}

impl GoFacts {
    /// The facts of a version, as [`KnownGo::of`] finds them.
    ///
    /// # Errors
    /// [`UnknownGo`] for what is no version, was not released, or is not in the table.
    pub fn of(version: &str) -> Result<&'static Self, UnknownGo> {
        KnownGo::of(version).map(|known| &known.facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_without_gaps() {
        let known: Vec<KnownGo> = serde_json::from_str(include_str!("facts.json")).unwrap();
        assert_eq!(known, KnownGo::all());
        assert_eq!(known.first().unwrap().go, "1.18");
        let minors: Vec<u16> = known
            .iter()
            .map(|one| format!("go{}", one.go).parse::<GoVersion>().unwrap().minor)
            .collect();
        assert!(minors.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{minors:?}");
        for one in &known {
            let [first, last] = one.read_from.as_slice() else { panic!("{one:?}") };
            for release in [first, last] {
                assert_eq!(GoFacts::of(&format!("go{release}")).unwrap(), &one.facts);
            }
        }
    }

    /// Read on live servers and out of other builds, by other means.
    #[test]
    fn what_was_seen_elsewhere_is_what_the_table_says() {
        for (go, goid, parent, startpc, curg, procid) in [
            ("go1.18.3", 152, None, 312, 192, 72),
            ("go1.19.8", 152, None, 312, 192, 72),
            ("go1.20.4", 152, None, 312, 192, 72),
            ("go1.21.5", 152, Some(272), 296, 192, 72),
            ("go1.22.1", 152, Some(272), 296, 192, 72),
            ("go1.23.4", 160, Some(280), 304, 192, 72),
            ("go1.24.6", 160, Some(280), 304, 192, 72),
            ("go1.25.5", 152, Some(272), 296, 184, 64),
            ("go1.26.8", 152, Some(280), 304, 184, 64),
        ] {
            let GoFacts { g, m, .. } = GoFacts::of(go).unwrap();
            assert_eq!((g.stack_lo, g.stack_hi, g.m), (0, 8, 48), "{go}");
            assert_eq!((g.goid, g.parent_goid), (goid, parent), "{go}");
            assert_eq!(g.startpc, startpc, "{go}");
            assert_eq!((m.curg, m.procid), (curg, procid), "{go}");
        }
    }

    #[test]
    fn the_unknown_is_refused_with_the_known_and_the_way_out() {
        for text in ["go1.17.13", "go1.99.1", "go2.20", "go1.22rc1", "devel go1.26-abc Tue"] {
            let error = GoFacts::of(text).unwrap_err().to_string();
            for part in ["1.18 to 1.", "--go-offsets-from FILE"] {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
        assert!(GoFacts::of("gccgo").unwrap_err().to_string().contains("`gccgo`"));
    }
}
