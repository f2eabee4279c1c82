//! Where values are when a function is called and when it returns: Go's `ABIInternal` on x86-64.
//!
//! The rules are those of `cmd/compile/abi-internal.md`, since Go 1.17: each value goes whole into
//! registers, field by field, or whole onto the stack.

use std::fmt;

use super::{Kind, Type};

const INTEGERS: [&str; 9] = ["rax", "rbx", "rcx", "rdi", "rsi", "r8", "r9", "r10", "r11"];
const FLOATS: u8 = 15;
/// No honest type is nested deeper, or has more fields in all that are looked at before there are
/// no registers left.
const DEEPEST: u32 = 64;
const STEPS: u32 = 4096;

/// A register, by its number in the order of `ABIInternal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11.
    Integer(u8),
    /// xmm0 to xmm14.
    Float(u8),
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(at) => f.write_str(INTEGERS.get(usize::from(*at)).unwrap_or(&"?")),
            Self::Float(at) => write!(f, "xmm{at}"),
        }
    }
}

/// A part of a value that a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where in the value it is, bytes.
    pub offset: u64,
    /// How much of the register it takes, bytes.
    pub size: u64,
    /// Which register.
    pub register: Register,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In registers, by its parts; what has no size, and what is only padding, has none.
    Registers(Vec<Part>),
    /// On the stack, so many bytes above the word behind the return address: when the function is
    /// entered that word is at the stack pointer + 8.
    Stack(u64),
}

/// The registers and the stack of one sequence of values.
#[derive(Debug, Default)]
pub(super) struct Places {
    integers: u8,
    floats: u8,
    stack: u64,
}

impl Places {
    /// For the results behind some parameters: registers begin anew, the stack does not.
    pub(super) const fn results(&self) -> Self {
        Self { integers: 0, floats: 0, stack: self.stack.next_multiple_of(8) }
    }

    /// Where the next value is. None if its type is broken.
    pub(super) fn next(&mut self, one: Type<'_>) -> Option<Place> {
        let (size, align) = (one.size(), one.align());
        if size == 0 {
            self.stack = self.stack.checked_next_multiple_of(align)?;
            return Some(Place::Registers(Vec::new()));
        }
        let mut taken =
            Taken { integers: self.integers, floats: self.floats, parts: Vec::new(), left: STEPS };
        match taken.take(one, 0, DEEPEST) {
            Fit::Yes => {
                (self.integers, self.floats) = (taken.integers, taken.floats);
                Some(Place::Registers(taken.parts))
            }
            Fit::No => {
                let at = self.stack.checked_next_multiple_of(align)?;
                self.stack = at.checked_add(size)?;
                Some(Place::Stack(at))
            }
            Fit::Broken => None,
        }
    }
}

/// Whether a value goes into registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Broken,
}

/// The registers of one value.
struct Taken {
    integers: u8,
    floats: u8,
    parts: Vec<Part>,
    left: u32,
}

impl Taken {
    fn take(&mut self, one: Type<'_>, offset: u64, depth: u32) -> Fit {
        let Some(left) = self.left.checked_sub(1).filter(|_| depth > 0) else {
            return Fit::Broken;
        };
        self.left = left;
        let size = one.size();
        match one.kind() {
            Kind::Float32 | Kind::Float64 => self.floats(offset, size, 1),
            Kind::Complex64 | Kind::Complex128 => self.floats(offset, size / 2, 2),
            Kind::String | Kind::Interface => self.integers(offset, 8, 2),
            Kind::Slice => self.integers(offset, 8, 3),
            Kind::Array => match (one.length(), one.elem()) {
                (Some(0), _) => Fit::Yes,
                (Some(1), Some(elem)) => self.take(elem, offset, depth - 1),
                (Some(_), _) => Fit::No,
                (None, _) => Fit::Broken,
            },
            Kind::Struct => {
                let mut fields = 0;
                for field in one.fields() {
                    fields += 1;
                    match self.take(field.ty, offset.wrapping_add(field.offset), depth - 1) {
                        Fit::Yes => {}
                        other => return other,
                    }
                }
                // One that could not be read is missing.
                if fields == one.field_count() { Fit::Yes } else { Fit::Broken }
            }
            _ => self.integers(offset, size, 1),
        }
    }

    fn integers(&mut self, offset: u64, size: u64, count: u8) -> Fit {
        if usize::from(self.integers + count) > INTEGERS.len() {
            return Fit::No;
        }
        for index in 0..count {
            let register = Register::Integer(self.integers);
            self.parts.push(Part {
                offset: offset.wrapping_add(u64::from(index) * size),
                size,
                register,
            });
            self.integers += 1;
        }
        Fit::Yes
    }

    fn floats(&mut self, offset: u64, size: u64, count: u8) -> Fit {
        if self.floats + count > FLOATS {
            return Fit::No;
        }
        for index in 0..count {
            let register = Register::Float(self.floats);
            self.parts.push(Part {
                offset: offset.wrapping_add(u64::from(index) * size),
                size,
                register,
            });
            self.floats += 1;
        }
        Fit::Yes
    }
}
