//! Who calls a function, read from the code: where its calls will be seen to return.
//!
//! Only direct calls (`call rel32`) within one object can be told beforehand, also where they take
//! the way round by its own PLT. Calls from other objects and through pointers are learned as they
//! happen.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::KernelForms;
use super::landing::{NoLanding, Return, ReturnNeeds, ReturnPlan, Returns};
use crate::model::VirtAddr;
use crate::symbols::Function;

/// `call rel32`.
const CALL: u8 = 0xe8;
/// Its length.
const LENGTH: usize = 5;
/// How many callers of one function are kept; the rest are counted.
const KEPT: usize = 4096;

/// Looks for direct calls of some functions.
#[derive(Clone, Debug, Default)]
pub struct CallScan {
    /// By the start of the function.
    found: FxHashMap<u64, Candidates>,
    /// Other addresses at which these functions are called: where they begin, by address.
    aliases: FxHashMap<u64, u64>,
}

/// Where calls of one function may return to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Behind what looks like a call; the first 4096 that were come upon.
    pub return_addresses: Vec<VirtAddr>,
    /// How many there are.
    pub count: usize,
}

impl CallScan {
    /// Consecutive pieces of code must overlap by so many bytes, so that no call is cut in two.
    pub const OVERLAP: usize = LENGTH - 1;

    /// Looks for calls of the functions that begin at `starts`.
    #[must_use]
    pub fn of(starts: impl IntoIterator<Item = VirtAddr>) -> Self {
        let found = starts.into_iter().map(|start| (start.0, Candidates::default()));
        Self { found: found.collect(), aliases: FxHashMap::default() }
    }

    /// That calls of `alias`, a stub of the linker, are calls of the function at `start`.
    pub fn add_alias(&mut self, alias: VirtAddr, start: VirtAddr) {
        if self.found.contains_key(&start.0) {
            self.aliases.insert(alias.0, start.0);
        }
    }

    /// Looks through a piece of code that lies at `base`. What only looks like a call, in the middle
    /// of another instruction, is found too.
    pub fn scan(&mut self, base: VirtAddr, code: &[u8]) {
        if self.found.is_empty() {
            return;
        }
        for at in memchr::memchr_iter(CALL, code) {
            let Some(&[_, a, b, c, d]) = code.get(at..).and_then(<[u8]>::first_chunk::<LENGTH>)
            else {
                break;
            };
            let behind = base.0.wrapping_add((at + LENGTH) as u64);
            let by = i64::from(i32::from_le_bytes([a, b, c, d]));
            let target = behind.wrapping_add_signed(by);
            let start = self.aliases.get(&target).copied().unwrap_or(target);
            if let Some(found) = self.found.get_mut(&start) {
                found.count += 1;
                if found.return_addresses.len() < KEPT {
                    found.return_addresses.push(VirtAddr(behind));
                }
            }
        }
    }

    /// What was found of the function that begins at `start`.
    #[must_use]
    pub fn callers(&self, start: VirtAddr) -> Option<&Candidates> {
        self.found.get(&start.0)
    }
}

/// A direct call, found in the code of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Where it returns to.
    pub return_address: VirtAddr,
    /// The calling function, under the name its symbol table has for it.
    pub caller: Arc<str>,
    /// How its return can be observed.
    pub plan: ReturnPlan,
}

/// How the returns of calls can be observed that were found by [`CallScan`], by return address. What
/// is no call after all is left out. `containing` finds the function that a byte of code lies in.
/// `forms`: what this kernel may be trusted with.
#[must_use]
pub fn predict(
    return_addresses: &[VirtAddr],
    needs: ReturnNeeds,
    containing: &dyn Fn(VirtAddr) -> Option<Function>,
    forms: KernelForms,
) -> Vec<Predicted> {
    let mut sorted = return_addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut predicted = Vec::with_capacity(sorted.len());
    let mut rest = sorted.as_slice();
    while let Some((&first, others)) = rest.split_first() {
        let Some(caller) = last_byte_before(first).and_then(containing) else {
            rest = others;
            continue;
        };
        // Those of the same function need it decoded only once.
        let is_same =
            |address: &&VirtAddr| last_byte_before(**address).is_some_and(|at| caller.contains(at));
        let same = others.iter().take_while(is_same).count();
        let (here, later) = rest.split_at((same + 1).min(rest.len()));
        rest = later;
        let returns = Returns::of(&caller, forms);
        for &return_address in here {
            let plan = match &returns {
                Ok(returns) => returns.at(return_address, needs),
                Err(why) => ReturnPlan::none(why.clone()),
            };
            if !is_no_call(&plan) {
                predicted.push(Predicted { return_address, caller: caller.linkage.clone(), plan });
            }
        }
    }
    predicted
}

/// The last byte of the call that returns to an address.
fn last_byte_before(address: VirtAddr) -> Option<VirtAddr> {
    address.0.checked_sub(1).map(VirtAddr)
}

fn is_no_call(plan: &ReturnPlan) -> bool {
    matches!(plan.first, Return::None(NoLanding::NotBehindCall(_) | NoLanding::Outside(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(at: u64, to: u64) -> [u8; LENGTH] {
        let [a, b, c, d] = (to.wrapping_sub(at + LENGTH as u64) as u32).to_le_bytes();
        [CALL, a, b, c, d]
    }

    #[test]
    fn calls_are_found_by_their_targets() {
        let mut code = vec![0x90; 64];
        for (at, to) in [(0_usize, 0x9000_u64), (10, 0x8000), (20, 0x9000), (59, 0x9000)] {
            code[at..at + LENGTH].copy_from_slice(&call(0x1000 + at as u64, to));
        }
        let mut scan = CallScan::of([VirtAddr(0x9000), VirtAddr(0x7000)]);
        scan.scan(VirtAddr(0x1000), &code);
        let found = scan.callers(VirtAddr(0x9000)).unwrap();
        assert_eq!(found.return_addresses, [0x1005, 0x1019, 0x1040].map(VirtAddr));
        assert_eq!(scan.callers(VirtAddr(0x7000)), Some(&Candidates::default()));
        assert_eq!(scan.callers(VirtAddr(0x8000)), None);

        let mut scan = CallScan::of([VirtAddr(0x9000)]);
        scan.add_alias(VirtAddr(0x8000), VirtAddr(0x9000));
        scan.add_alias(VirtAddr(0x9000), VirtAddr(0x7000));
        scan.scan(VirtAddr(0x1000), &code);
        assert_eq!(scan.callers(VirtAddr(0x9000)).unwrap().count, 4);
    }

    #[test]
    fn callers_beyond_the_bound_are_counted() {
        let mut scan = CallScan::of([VirtAddr(0x9000)]);
        let code: Vec<u8> =
            (0..KEPT as u64 + 10).flat_map(|i| call(i * LENGTH as u64, 0x9000)).collect();
        scan.scan(VirtAddr(0), &code);
        let found = scan.callers(VirtAddr(0x9000)).unwrap();
        assert_eq!((found.count, found.return_addresses.len()), (KEPT + 10, KEPT));
    }

    proptest! {
        #[test]
        fn overlapping_pieces_find_what_the_whole_has(
            code in prop::collection::vec(prop_oneof![Just(CALL), Just(0), any::<u8>()], 0..200),
            base in any::<u64>(),
            size in 5_usize..40,
        ) {
            let starts = || (0..400).map(|into| VirtAddr(base.wrapping_add(into)));
            let mut whole = CallScan::of(starts());
            whole.scan(VirtAddr(base), &code);
            let mut pieces = CallScan::of(starts());
            let mut from = 0;
            while from < code.len() {
                let to = (from + size).min(code.len());
                pieces.scan(VirtAddr(base.wrapping_add(from as u64)), &code[from..to]);
                if to == code.len() {
                    break;
                }
                from = to - CallScan::OVERLAP;
            }
            for start in starts() {
                prop_assert_eq!(whole.callers(start), pieces.callers(start));
            }
        }
    }
}
