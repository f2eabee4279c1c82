//! Tests of the whole room; those of single pieces stand beside them.
#![expect(clippy::assert_is_empty, reason = "an empty array of a named type reads worse")]

mod build;
mod fixtures;
mod functions;
mod go;
mod landing;
mod random;
mod snapshot;

use std::sync::Arc;

use fixtures::Fixture;

use super::analyse::{Analysis, SiteSpec, analyse};
use super::enter::Needs;
use super::listing::Refused;
use super::{CostClass, FormKind, KernelForms, ReturnNeeds, ReturnPlan, Returns};
use crate::model::{FileOffset, VirtAddr};
use crate::symbols::{CodePart, Function, Language};
use crate::target::ObjectId;

/// Addresses and file offsets differ by this in all tests, as they do in real files.
const BIAS: u64 = 0x1000;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn part(address: u64, code: &[u8]) -> CodePart {
    CodePart {
        address: VirtAddr(address),
        offset: FileOffset(address.wrapping_add(BIAS)),
        bytes: code.into(),
    }
}

/// A function of raw code, named `name()`.
fn raw(name: &str, address: u64, code: &[u8], cold: &[(u64, &[u8])]) -> Function {
    Function {
        object: ObjectId(0),
        name: Arc::from(format!("{name}()")),
        base_name: Arc::from(name),
        linkage: Arc::from(name),
        language: Language::Native,
        code: part(address, code),
        cold: cold.iter().map(|(address, code)| part(*address, code)).collect(),
        around: Vec::new(),
    }
}

/// A function of hexadecimal code.
fn hex(name: &str, address: u64, code: &str) -> Function {
    raw(name, address, &bytes(code), &[])
}

fn function(name: &str, fixture: &Fixture) -> Function {
    let cold = fixture.cold.map(|(address, code)| (address, bytes(code)));
    let cold: Vec<_> = cold.iter().map(|(address, code)| (*address, code.as_slice())).collect();
    raw(name, fixture.address, &bytes(fixture.hex), &cold)
}

fn analysed(function: &Function) -> Result<Analysis, Refused> {
    analyse(function, &|_| false, KernelForms::default())
}

/// Where a function is entered: address, slot offset, cost.
fn enter(analysis: &Analysis) -> (u64, i32, CostClass) {
    let site: &SiteSpec = analysis.enters.best(Needs::default()).expect("an enter site");
    (site.address.0, site.slot_offset, site.cost)
}

fn rets(analysis: &Analysis) -> Vec<u64> {
    analysis.leaves.rets.iter().map(|site| site.address.0).collect()
}

fn tails(analysis: &Analysis) -> Vec<u64> {
    analysis.leaves.tails.iter().map(|address| address.0).collect()
}

/// What a call that returns to `return_address`, in `function`, can be observed at.
fn at_return(
    function: &Function,
    return_address: VirtAddr,
    needs: ReturnNeeds,
    forms: KernelForms,
) -> ReturnPlan {
    match Returns::of(function, forms) {
        Ok(returns) => returns.at(return_address, needs),
        Err(why) => ReturnPlan::none(why),
    }
}
