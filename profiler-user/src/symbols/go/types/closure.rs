//! What closures have captured, by the code that makes them.
//!
//! A closure's code finds what it captured in an object that rdx points at when it is called: the
//! address of the code, then the variables. No table tells which type that object has, but whoever
//! makes it on the heap names both: `lea` of the type, for `runtime.newobject`, then `lea` of the
//! code. Those made on the stack are called before their maker returns, and name no type.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::{GoTypes, Kind, Type};

/// From the type to the code there are no more instructions.
const NEAR: usize = 32;

impl GoTypes {
    /// The type of the object that a closure finds by rdx; `maker` is the code, at an address, of the
    /// function that makes it, `closure` the address of its own. None where that makes none on the
    /// heap, or several that differ.
    #[must_use]
    pub fn closure(&self, maker: &[u8], address: u64, closure: u64) -> Option<Type<'_>> {
        let mut decoder = Decoder::with_ip(64, maker, address, DecoderOptions::NONE);
        let (mut last, mut found): (Option<(Type<'_>, usize)>, Option<Type<'_>>) = (None, None);
        for index in 0_usize.. {
            if !decoder.can_decode() {
                break;
            }
            let instruction = decoder.decode();
            if instruction.mnemonic() != Mnemonic::Lea || !instruction.is_ip_rel_memory_operand() {
                continue;
            }
            let target = instruction.ip_rel_memory_address();
            if target == closure {
                let (made, _) = last.take().filter(|(_, at)| index - at <= NEAR)?;
                if found.is_some_and(|other| other != made) {
                    return None;
                }
                found = Some(made);
            } else if let Some(ty) = self.at(target) {
                last = is_object(ty).then_some((ty, index));
            }
        }
        found
    }
}

/// Whether a type is a closure's object: a struct without a name that begins with an address of code.
fn is_object(ty: Type<'_>) -> bool {
    let first = || ty.fields().next();
    ty.kind() == Kind::Struct
        && ty.name().is_none()
        && first().is_some_and(|field| {
            field.ty.kind() == Kind::Uintptr && field.name.trim_start_matches('.') == "F"
        })
}
