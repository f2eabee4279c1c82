//! Where members of the kernel's structures lie, from its own description of its types (BTF,
//! `Documentation/bpf/btf.rst`).

use std::fs;

use profiler_common::KernelOffsets;

use super::AttachError;

/// The kernel's types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The offsets the kernel side asks for.
///
/// # Errors
///
/// [`AttachError::NoBtf`] where the kernel does not tell.
pub(super) fn kernel_offsets() -> Result<KernelOffsets, AttachError> {
    let bytes = fs::read(VMLINUX)
        .map_err(|error| AttachError::NoBtf { file: VMLINUX, why: error.to_string() })?;
    let types = Btf::parse(&bytes)
        .ok_or_else(|| AttachError::NoBtf { file: VMLINUX, why: "it is malformed".to_owned() })?;
    let offset = |structure: &str, member: &str| {
        types.offset(structure, member).ok_or_else(|| AttachError::NoBtf {
            file: VMLINUX,
            why: format!("it has no {structure}.{member}"),
        })
    };
    Ok(KernelOffsets {
        task_tgid: offset("task_struct", "tgid")?,
        task_signal: offset("task_struct", "signal")?,
        signal_live: offset("signal_struct", "live")?,
        task_fsbase: offset("task_struct", "thread")?
            .checked_add(offset("thread_struct", "fsbase")?)
            .ok_or_else(|| AttachError::NoBtf {
                file: VMLINUX,
                why: "task_struct.thread.fsbase lies too far in".to_owned(),
            })?,
    })
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Anonymous members within anonymous members; the kernel's own go two deep.
const NESTED: u32 = 8;

/// A parsed BTF blob.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, by its number less 1.
    starts: Vec<usize>,
}

/// A structure or union.
#[derive(Clone, Copy)]
struct Composite {
    members: usize,
    count: usize,
    bitfields: bool,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            starts.push(at);
            let (kind, count) = info(types, at)?;
            let tail = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                6 | 13 => count * 8,
                STRUCT | UNION | 15 | 19 => count * 12,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
            at += 12 + tail;
        }
        Some(Self { types, strings, starts })
    }

    /// The offset of a structure's member, bytes.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let found = self.starts.iter().find_map(|&at| {
            let (kind, _) = info(self.types, at)?;
            let named = kind == STRUCT && self.name(word(self.types, at)?)? == structure.as_bytes();
            if named { self.composite(at) } else { None }
        })?;
        let bits = self.member(found, member, NESTED)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// A member's offset in bits, looked for in anonymous members too.
    fn member(&self, of: Composite, wanted: &str, depth: u32) -> Option<u32> {
        for index in 0..of.count {
            let at = of.members + index * 12;
            let (name, kind) = (word(self.types, at)?, word(self.types, at + 4)?);
            let offset = word(self.types, at + 8)?;
            let offset = if of.bitfields { offset & 0xff_ffff } else { offset };
            if self.name(name)? == wanted.as_bytes() {
                return Some(offset);
            }
            let nested = (name == 0 && depth > 0).then(|| self.numbered(kind)).flatten();
            let inner = nested.and_then(|inner| self.member(inner, wanted, depth - 1));
            if let Some(inner) = inner {
                return offset.checked_add(inner);
            }
        }
        None
    }

    fn numbered(&self, number: u32) -> Option<Composite> {
        self.composite(*self.starts.get(usize::try_from(number).ok()?.checked_sub(1)?)?)
    }

    fn composite(&self, at: usize) -> Option<Composite> {
        let (kind, count) = info(self.types, at)?;
        let bitfields = word(self.types, at + 4)? >> 31 == 1;
        matches!(kind, STRUCT | UNION).then_some(Composite { members: at + 12, count, bitfields })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(offset as usize..)?.split(|&byte| byte == 0).next()
    }
}

/// A type's kind and how many members it has.
fn info(types: &[u8], at: usize) -> Option<(u32, usize)> {
    let info = word(types, at + 4)?;
    Some((info >> 24 & 0x1f, (info & 0xffff) as usize))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells() {
        let offsets = kernel_offsets().unwrap();
        assert!(offsets.task_tgid > 0 && offsets.task_signal > 0 && offsets.signal_live > 0);
    }

    #[test]
    fn what_is_malformed_is_refused_and_never_panics() {
        let whole = fs::read(VMLINUX).unwrap();
        for length in [0, 1, 2, 10, 23, 24, 25, 1000, whole.len() / 2, whole.len() - 1] {
            assert!(Btf::parse(&whole[..length]).is_none(), "{length}");
        }
        let mut wrong = whole[..4096].to_vec();
        wrong[8..24].fill(0xff);
        assert!(Btf::parse(&wrong).is_none());
        let types = Btf::parse(&whole).unwrap();
        assert_eq!(types.offset("task_struct", "no_such_member"), None);
        assert_eq!(types.offset("no_such_struct", "tgid"), None);
    }
}
