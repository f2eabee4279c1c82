//! All types of a program: those that are listed, and those that they are made of.

use super::region::At;
use super::{GoTypes, Kind, Type};

/// Places of the region, each marked or not. Types begin at multiples of 8.
struct Marks(Vec<u64>);

impl Marks {
    fn new(size: usize) -> Self {
        Self(vec![0; size.div_ceil(8 * 64)])
    }

    /// Marks a place; whether it was not before.
    fn mark(&mut self, at: At) -> bool {
        let bit = 1 << (at / 8 % 64);
        let Some(word) = self.0.get_mut((at / 8 / 64) as usize) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn all(&self) -> impl Iterator<Item = At> {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            let bits = (0..64_u32).filter(move |bit| word & (1 << bit) != 0);
            bits.map(move |bit| (index as u32 * 64 + bit) * 8)
        })
    }
}

/// All types, by their places.
pub(super) fn all(types: &GoTypes) -> Vec<At> {
    let mut walk = Walk {
        types,
        marks: Marks::new(types.region.size()),
        next: Vec::new(),
        // What leads to a type takes at least 4 bytes: there is no more in an honest file.
        left: types.region.size() / 4,
    };
    for &root in &types.roots {
        walk.meet(types.type_at(root));
    }
    if let Some((from, to)) = types.contiguous {
        walk.line(from, to);
    }
    walk.follow();
    let mut all: Vec<At> = walk.marks.all().collect();
    all.shrink_to_fit();
    all
}

struct Walk<'a> {
    types: &'a GoTypes,
    marks: Marks,
    next: Vec<At>,
    /// How much may still be looked at.
    left: usize,
}

impl<'a> Walk<'a> {
    fn meet(&mut self, one: Option<Type<'a>>) {
        if let Some(one) = one.filter(|one| self.marks.mark(one.at)) {
            self.next.push(one.at);
        }
    }

    /// Types that stand one behind the other, as far as they do.
    fn line(&mut self, mut at: At, end: At) {
        while at < end {
            let Some(one) = self.types.type_at(at) else { return };
            let Some(size) = one.descriptor_size() else { return };
            self.meet(Some(one));
            let Some(behind) = at.checked_add(size.next_multiple_of(8)) else { return };
            at = behind;
        }
    }

    fn follow(&mut self) {
        while let Some(at) = self.next.pop() {
            let Some(one) = self.types.type_at(at) else { continue };
            let Some(left) = self.left.checked_sub(one.children()) else { continue };
            self.left = left;
            self.meet(one.elem());
            self.meet(one.told_pointer());
            self.meet(one.companion());
            match one.kind() {
                Kind::Map => self.meet(one.key()),
                Kind::Struct => one.fields().for_each(|field| self.meet(Some(field.ty))),
                Kind::Func => {
                    one.parameters().chain(one.results()).for_each(|value| self.meet(value));
                }
                Kind::Interface => {
                    one.interface_methods().for_each(|method| self.meet(Some(method.ty)));
                }
                _ => {}
            }
            one.methods().for_each(|method| self.meet(method.ty));
        }
    }
}
