//! Whether the facts hold for a running process, as far as reading its memory can tell.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use serde::Serialize;

use super::program::First;
use super::{GoFacts, GoProgram, moved};
use crate::model::Pid;
use crate::target::{TargetError, process};

/// The process runs on while it is read: what changed in between is read again.
const TRIES: usize = 20;

/// What became of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum RuntimeCheck {
    /// All that could be read was as the facts have it.
    Passed {
        /// What was compared.
        compared: Vec<String>,
    },
    /// Something was not: the facts are not those of this program.
    Failed {
        /// What.
        why: String,
    },
    /// Nothing could be compared, as in a process that has only just begun.
    NotChecked {
        /// Why.
        why: String,
    },
}

/// Compares the facts with the memory of a process, which goes on undisturbed.
///
/// The g and the m of the first thread point at each other, and the m knows the thread's number.
/// That proves `g.m`, `m.g0` and `m.procid`; a goroutine on that thread, if there is one, proves
/// `m.curg`, and makes `g.goid` and the stack's bounds believable. What only a goroutine that
/// panics or was just made would show stays unproved.
///
/// # Errors
/// [`TargetError`] if the process is gone or its memory may not be read.
pub fn check(pid: Pid, program: &GoProgram, facts: &GoFacts) -> Result<RuntimeCheck, TargetError> {
    let path = process::file(pid, "mem");
    let memory = File::open(&path).map_err(|error| TargetError::reading(pid, &path, error))?;
    let Some(moved) = moved(pid, program) else {
        return Ok(not_checked("the process does not tell where its program was loaded"));
    };
    let numbers = process::numbers(pid);
    // Asked first: what is read afterwards is that of a runtime which has begun.
    let alone = is_alone(pid);
    let found = Reader { memory: &memory, facts }.compare(&program.first, moved, &numbers);
    Ok(match found {
        RuntimeCheck::Failed { why } if alone => {
            not_checked(&format!("its runtime has not begun yet, as far as can be seen: {why}"))
        }
        found => found,
    })
}

/// Whether a process has one thread, as one has that is held at its first instruction: what the runtime
/// sets up is not there yet. Before it calls `main` it starts another thread (`runtime.main` in
/// `src/runtime/proc.go`, for `sysmon`), for good.
fn is_alone(pid: Pid) -> bool {
    fs::read_dir(process::file(pid, "task")).is_ok_and(|tasks| tasks.count() == 1)
}

fn not_checked(why: &str) -> RuntimeCheck {
    RuntimeCheck::NotChecked { why: why.to_owned() }
}

/// Reads the structures of a process's runtime. Whatever stands in them is the process's word.
struct Reader<'a, M> {
    memory: &'a M,
    facts: &'a GoFacts,
}

/// Memory that words can be read from.
trait Memory {
    fn word(&self, at: u64) -> Option<u64>;
}

impl Memory for File {
    fn word(&self, at: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read_exact_at(&mut word, at).ok()?;
        Some(u64::from_le_bytes(word))
    }
}

impl<M: Memory> Reader<'_, M> {
    fn at(&self, structure: u64, offset: u32) -> Option<u64> {
        self.memory.word(structure.checked_add(u64::from(offset))?)
    }

    fn compare(&self, first: &First, moved: u64, numbers: &[u64]) -> RuntimeCheck {
        let (g0, m0, how) = match first {
            First::Named { g0, m0 } => {
                let (g0, m0) = (g0.wrapping_add(moved), m0.wrapping_add(moved));
                if !self.belong(g0, m0) {
                    let why = "runtime.g0 and runtime.m0 do not point at each other";
                    return RuntimeCheck::Failed { why: why.to_owned() };
                }
                (g0, m0, "by its symbols")
            }
            First::Among(found) if found.len() < 2 => {
                return not_checked(
                    "stripped, and its first instructions do not tell where the runtime begins",
                );
            }
            First::Among(found) => {
                let mut pairs = found.iter().filter_map(|m0| {
                    let m0 = m0.wrapping_add(moved);
                    let g0 = self.at(m0, self.facts.m.g0)?;
                    let named = found.iter().any(|one| one.wrapping_add(moved) == g0);
                    (named && g0 != m0 && self.belong(g0, m0)).then_some((g0, m0))
                });
                let Some((g0, m0)) = pairs.next() else {
                    let why = format!(
                        "none of the {} addresses that its first instructions load are a g and \
                         an m that point at each other",
                        found.len()
                    );
                    return RuntimeCheck::Failed { why };
                };
                (g0, m0, "by its first instructions")
            }
        };
        match self.first_thread(g0, m0, numbers) {
            Ok(mut compared) => {
                compared.insert(0, format!("runtime.g0 and runtime.m0, found {how}"));
                RuntimeCheck::Passed { compared }
            }
            Err(why) => RuntimeCheck::Failed { why },
        }
    }

    fn belong(&self, g0: u64, m0: u64) -> bool {
        self.at(m0, self.facts.m.g0) == Some(g0) && self.at(g0, self.facts.g.m) == Some(m0)
    }

    /// What else the structures of the first thread show, or what is wrong with them.
    fn first_thread(&self, g0: u64, m0: u64, numbers: &[u64]) -> Result<Vec<String>, String> {
        let GoFacts { g, m, .. } = self.facts;
        let mut compared = Vec::new();
        if self.at(g0, g.goid) != Some(0) {
            return Err("the g of the first thread has a goroutine's number".to_owned());
        }
        if !self.has_stack(g0) {
            return Err("the g of the first thread has no stack".to_owned());
        }
        if !numbers.is_empty() {
            let number = self.at(m0, m.procid);
            if !number.is_some_and(|number| numbers.contains(&number)) {
                return Err(format!("the m of the first thread has the number {number:?}"));
            }
            compared.push("the thread's number".to_owned());
        }
        let mut strays = 0;
        for _ in 0..TRIES {
            let Some(curg) = self.at(m0, m.curg) else {
                return Err("the m of the first thread cannot be read".to_owned());
            };
            if curg == 0 {
                continue;
            }
            let goid = self.at(curg, g.goid);
            let whole = goid.is_some_and(|goid| goid > 0) && self.has_stack(curg);
            // Read last, and again: it may have left the thread meanwhile.
            if self.at(curg, g.m) == Some(m0) && self.at(m0, m.curg) == Some(curg) {
                if let (true, Some(goid)) = (whole, goid) {
                    compared.push(format!("goroutine {goid} on the first thread"));
                    return Ok(compared);
                }
                return Err("what the first thread runs is no goroutine".to_owned());
            }
            strays += 1;
        }
        // It may be on its way to the thread, or away, but not every time.
        if strays == TRIES {
            return Err("what the first thread runs never points back at it".to_owned());
        }
        Ok(compared)
    }

    fn has_stack(&self, g: u64) -> bool {
        let bounds = (self.at(g, self.facts.g.stack_lo), self.at(g, self.facts.g.stack_hi));
        matches!(bounds, (Some(lo), Some(hi)) if 0 < lo && lo < hi)
    }
}

#[cfg(test)]
mod tests {
    use rustc_hash::FxHashMap;

    use super::*;

    impl Memory for FxHashMap<u64, u64> {
        fn word(&self, at: u64) -> Option<u64> {
            Some(self.get(&at).copied().unwrap_or_default())
        }
    }

    const G0: u64 = 0x1000;
    const M0: u64 = 0x2000;
    const CURG: u64 = 0xc000_0000_0000;

    fn process(facts: &GoFacts) -> FxHashMap<u64, u64> {
        let GoFacts { g, m, .. } = facts;
        let at = |structure: u64, offset: u32| structure + u64::from(offset);
        FxHashMap::from_iter([
            (at(G0, g.m), M0),
            (at(G0, g.stack_lo), 0x7000),
            (at(G0, g.stack_hi), 0x8000),
            (at(M0, m.g0), G0),
            (at(M0, m.procid), 77),
            (at(M0, m.curg), CURG),
            (at(CURG, g.m), M0),
            (at(CURG, g.goid), 5),
            (at(CURG, g.stack_lo), 0x9000),
            (at(CURG, g.stack_hi), 0xa000),
        ])
    }

    fn compare(memory: &FxHashMap<u64, u64>, facts: &GoFacts, first: &First) -> RuntimeCheck {
        Reader { memory, facts }.compare(first, 0, &[77])
    }

    #[test]
    fn a_process_as_the_facts_have_it_passes() {
        let facts = GoFacts::of("go1.24.1").unwrap();
        let memory = process(facts);
        for first in [First::Named { g0: G0, m0: M0 }, First::Among(vec![0x5000, M0, 0x6000, G0])] {
            let RuntimeCheck::Passed { compared } = compare(&memory, facts, &first) else {
                panic!("{first:?}")
            };
            assert!(compared.iter().any(|one| one.contains("goroutine 5")), "{compared:?}");
        }
        let few = compare(&memory, facts, &First::Among(vec![M0]));
        assert!(matches!(few, RuntimeCheck::NotChecked { .. }), "{few:?}");
    }

    #[test]
    fn an_idle_first_thread_is_no_failure() {
        let facts = GoFacts::of("go1.24.1").unwrap();
        let mut memory = process(facts);
        memory.insert(M0 + u64::from(facts.m.curg), 0);
        let check = compare(&memory, facts, &First::Named { g0: G0, m0: M0 });
        let RuntimeCheck::Passed { compared } = check else { panic!("{check:?}") };
        assert_eq!(compared.len(), 2, "{compared:?}");
    }

    #[test]
    fn a_wrong_offset_shows() {
        let facts = GoFacts::of("go1.24.1").unwrap();
        let memory = process(facts);
        let first = First::Named { g0: G0, m0: M0 };
        let wrong: [fn(&mut GoFacts); 6] = [
            |facts| facts.g.m += 8,
            |facts| facts.g.goid += 8,
            |facts| facts.g.stack_hi += 8,
            |facts| facts.m.g0 += 8,
            |facts| facts.m.procid += 8,
            |facts| facts.m.curg = facts.m.procid,
        ];
        for (index, change) in wrong.iter().enumerate() {
            let mut facts = facts.clone();
            change(&mut facts);
            let check = compare(&memory, &facts, &first);
            assert!(matches!(check, RuntimeCheck::Failed { .. }), "{index}: {check:?}");
        }
    }
}
