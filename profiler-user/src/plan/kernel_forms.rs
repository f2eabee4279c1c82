//! What this kernel has been seen to handle, of the forms that may carry a probe at all.

use serde::{Deserialize, Serialize};

use super::{CostClass, form};

/// A group of encodings that the kernel handles by the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FormKind {
    /// `nop` of one byte.
    Nop1,
    /// Of two.
    Nop2,
    /// Of three.
    Nop3,
    /// Of four.
    Nop4,
    /// Of five, as a function's first instruction.
    Nop5,
    /// Of six.
    Nop6,
    /// Of seven.
    Nop7,
    /// Of eight.
    Nop8,
    /// `push` of a register.
    Push,
    /// Conditional jump, 8-bit distance.
    JccShort,
    /// Conditional jump, 32-bit distance.
    JccNear,
    /// Jump, either distance.
    Jmp,
    /// `bnd jmp`, either distance.
    BndJmp,
    /// `call` of a fixed target.
    Call,
    /// `endbr64`.
    Endbr64,
    /// `leave`.
    Leave,
    /// `pop` of a register.
    Pop,
    /// `ret`, with or without bytes to pop.
    Ret,
    /// Everything else that is single-stepped.
    Stepped,
}

impl FormKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Nop1,
        Self::Nop2,
        Self::Nop3,
        Self::Nop4,
        Self::Nop5,
        Self::Nop6,
        Self::Nop7,
        Self::Nop8,
        Self::Push,
        Self::JccShort,
        Self::JccNear,
        Self::Jmp,
        Self::BndJmp,
        Self::Call,
        Self::Endbr64,
        Self::Leave,
        Self::Pop,
        Self::Ret,
        Self::Stepped,
    ];

    /// How the kernel executes it.
    #[must_use]
    pub const fn class(self) -> CostClass {
        match self {
            Self::Nop5 => CostClass::Optimised,
            Self::Nop1
            | Self::Nop2
            | Self::Nop3
            | Self::Nop4
            | Self::Nop6
            | Self::Nop7
            | Self::Nop8
            | Self::Push
            | Self::JccShort
            | Self::JccNear
            | Self::Jmp
            | Self::BndJmp
            | Self::Call => CostClass::Emulated,
            Self::Endbr64 | Self::Leave | Self::Pop | Self::Ret | Self::Stepped => {
                CostClass::SingleStepped
            }
        }
    }

    /// Its name, for a person.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nop1 => "nop1",
            Self::Nop2 => "nop2",
            Self::Nop3 => "nop3",
            Self::Nop4 => "nop4",
            Self::Nop5 => "nop5",
            Self::Nop6 => "nop6",
            Self::Nop7 => "nop7",
            Self::Nop8 => "nop8",
            Self::Push => "push",
            Self::JccShort => "jcc (short)",
            Self::JccNear => "jcc (near)",
            Self::Jmp => "jmp",
            Self::BndJmp => "bnd jmp",
            Self::Call => "call",
            Self::Endbr64 => "endbr64",
            Self::Leave => "leave",
            Self::Pop => "pop",
            Self::Ret => "ret",
            Self::Stepped => "other",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Which groups of the allow-list this kernel may be trusted with. It only ever takes away: a form
/// that is not on the list stays forbidden, however well a kernel handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelForms {
    denied: u32,
}

impl Default for KernelForms {
    /// Nothing is known against this kernel: the allow-list as it stands, which is what every
    /// kernel with `uprobe_multi` links is known to handle.
    fn default() -> Self {
        Self { denied: 0 }
    }
}

impl KernelForms {
    /// The same without a group: this kernel gets it wrong.
    #[must_use]
    pub const fn without(self, kind: FormKind) -> Self {
        Self { denied: self.denied | kind.bit() }
    }

    /// Whether a group may be used.
    #[must_use]
    pub const fn allows(self, kind: FormKind) -> bool {
        self.denied & kind.bit() == 0
    }

    /// The groups that may not be used.
    pub fn denied(self) -> impl Iterator<Item = FormKind> {
        FormKind::ALL.into_iter().filter(move |kind| !self.allows(*kind))
    }

    /// What a probe on the instruction that is exactly `bytes` costs; none if it must not carry one.
    /// `first`: it is its function's first instruction.
    #[must_use]
    pub fn cost(self, bytes: &[u8], first: bool) -> Option<CostClass> {
        let kind = form::kind(bytes, first)?;
        self.allows(kind).then(|| kind.class())
    }

    /// Whether a `ret` of exactly these bytes may carry a probe.
    #[must_use]
    pub fn is_probed_ret(self, bytes: &[u8]) -> bool {
        form::is_plain_ret(bytes) && self.allows(FormKind::Ret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_is_taken_away_alone() {
        for kind in FormKind::ALL {
            let forms = KernelForms::default().without(kind);
            assert_eq!(forms.denied().collect::<Vec<_>>(), [kind]);
            assert_eq!(FormKind::ALL.iter().filter(|other| !forms.allows(**other)).count(), 1);
        }
        assert_eq!(KernelForms::default().denied().count(), 0);
    }

    #[test]
    fn what_fails_is_not_used() {
        let nop5 = [0x0f, 0x1f, 0x44, 0x00, 0x00];
        let push = [0x55];
        let forms = KernelForms::default().without(FormKind::Nop5);
        assert_eq!(KernelForms::default().cost(&nop5, true), Some(CostClass::Optimised));
        assert_eq!(forms.cost(&nop5, true), None);
        assert_eq!(forms.cost(&push, true), Some(CostClass::Emulated));
        assert_eq!(forms.without(FormKind::Push).cost(&push, true), None);
        assert!(KernelForms::default().is_probed_ret(&[0xc3]));
        assert!(!KernelForms::default().without(FormKind::Ret).is_probed_ret(&[0xc3]));
    }

    #[test]
    fn what_is_not_on_the_list_is_never_used() {
        let nop5 = [0x0f, 0x1f, 0x44, 0x00, 0x00];
        for bytes in [&[0xc5, 0xf8, 0x77][..], &[0x9c], &nop5] {
            assert_eq!(KernelForms::default().cost(bytes, false), None, "{bytes:x?}");
        }
    }
}
