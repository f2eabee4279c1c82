//! Where `context.Context` is found: its parent in each type that implements it, and the context
//! that a function is called with.

use super::{GoTypes, Kind, Part, Place, Register, Signature, Type, Value};

const CONTEXT: &str = "context.Context";
const REQUEST: &str = "*net/http.Request";
/// Embedded types are looked into so deep.
const DEEPEST: u32 = 8;

/// A type that implements `context.Context` and has a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextType<'a> {
    /// The type that an itab has for it: its address is what is found there.
    pub ty: Type<'a>,
    /// Where its parent is.
    pub parent: ContextParent,
}

/// The way from the data word of an interface to the parent, an interface again: two words, the
/// itab's address and the data word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextParent {
    /// Where, from what the data word points at, there is a pointer to go on from, if there is.
    pub pointer: Option<u64>,
    /// Where the parent is, from there.
    pub offset: u64,
}

/// Where a function finds a context when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextSource {
    /// The number of the register in the order of `ABIInternal`, from 0 for rax.
    pub register: u8,
    /// None: the register has the itab, the next one the data word. Otherwise it points at a
    /// struct in which both words are, so many bytes from its start.
    pub deref_offset: Option<u64>,
}

/// What interfaces are contexts: those that ask for its methods, and maybe more.
struct Contexts<'a> {
    context: Type<'a>,
    /// `*http.Request`, which holds one.
    request: Option<Type<'a>>,
    /// How many fields and methods may still be looked at.
    left: usize,
}

impl GoTypes {
    /// All types that implement `context.Context` and hold another context, by address. Those that
    /// have none, as `context.Background()`, are the end of a chain.
    #[must_use]
    pub fn contexts(&self) -> Vec<ContextType<'_>> {
        let Some(mut contexts) = Contexts::of(self) else { return Vec::new() };
        self.all()
            .filter_map(|ty| {
                let parent = contexts.implemented_by(ty).then(|| contexts.parent(ty))??;
                Some(ContextType { ty, parent })
            })
            .collect()
    }

    /// Where a function of a signature finds its context: a parameter that is one, that of an
    /// `*http.Request`, or one that is a field of what the receiver or a parameter points at.
    #[must_use]
    pub fn context_source(&self, signature: &Signature<'_>) -> Option<ContextSource> {
        let mut contexts = Contexts::of(self)?;
        let parameters = signature.parameters.as_deref().unwrap_or_default();
        let all = || std::iter::once(&signature.receiver).chain(parameters);
        let direct = all().find_map(|value| {
            let register = first_register(value)?;
            let is_one = contexts.is_one(value.ty);
            is_one.then_some(ContextSource { register, deref_offset: None })
        });
        let request = contexts.request;
        let requests = parameters.iter().filter(|value| Some(value.ty) == request);
        direct.or_else(|| requests.chain(all()).find_map(|value| contexts.held_by(value)))
    }

    /// Where in a struct a context is, or in one that is embedded in it: also in the object that
    /// [`GoTypes::closure`] finds for a closure, from where rdx points when it is called.
    #[must_use]
    pub fn context_in(&self, ty: Type<'_>) -> Option<u64> {
        let ty = self.at(ty.address())?;
        Contexts::of(self)?.field_of(ty, DEEPEST)
    }
}

fn first_register(value: &Value<'_>) -> Option<u8> {
    let Place::Registers(parts) = &value.place else { return None };
    integer(parts.first()?)
}

const fn integer(part: &Part) -> Option<u8> {
    match part.register {
        Register::Integer(at) => Some(at),
        Register::Float(_) => None,
    }
}

impl<'a> Contexts<'a> {
    fn of(types: &'a GoTypes) -> Option<Self> {
        let context = types.named(CONTEXT).filter(|one| one.kind() == Kind::Interface)?;
        // Each of them takes 8 bytes at least.
        Some(Self { context, request: types.named(REQUEST), left: types.region.size() / 8 })
    }

    /// Counts what is looked at; whether there may be so much.
    fn look(&mut self, at: Type<'_>) -> bool {
        let left = self.left.checked_sub(at.children());
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    /// Whether an interface asks for all methods of a context.
    fn is_one(&mut self, ty: Type<'a>) -> bool {
        if ty == self.context {
            return true;
        }
        if ty.kind() != Kind::Interface || !self.look(ty) {
            return false;
        }
        let mut asked = ty.interface_methods();
        self.context
            .interface_methods()
            .all(|wanted| asked.any(|method| method.name == wanted.name && method.ty == wanted.ty))
    }

    /// Whether a type that is no interface has them: both lists are in the order of the names.
    fn implemented_by(&mut self, ty: Type<'a>) -> bool {
        if (ty.method_count() as usize) < self.context.children() || !self.look(ty) {
            return false;
        }
        let mut methods = ty.methods();
        self.context.interface_methods().all(|wanted| {
            let found = methods.find(|method| method.name == wanted.name);
            found.is_some_and(|method| method.ty.is_none_or(|ty| ty == wanted.ty))
        })
    }

    fn parent(&mut self, ty: Type<'a>) -> Option<ContextParent> {
        match ty.kind() {
            Kind::Pointer => self.parent_in(ty.elem()?, DEEPEST),
            Kind::Struct if ty.is_direct() => {
                // The data word is its only field: a pointer to what has the parent.
                let field = ty.fields().find(|field| field.ty.size() > 0)?;
                let inner = field.ty.elem().filter(|_| field.ty.kind() == Kind::Pointer)?;
                self.parent_in(inner, DEEPEST)
            }
            Kind::Struct => self.parent_in(ty, DEEPEST),
            _ => None,
        }
    }

    /// An embedded context is the parent, before what an embedded struct has, before a field, before
    /// that of a request.
    fn parent_in(&mut self, ty: Type<'a>, depth: u32) -> Option<ContextParent> {
        if ty.kind() != Kind::Struct || depth == 0 || !self.look(ty) {
            return None;
        }
        let direct = |offset| ContextParent { pointer: None, offset };
        let embedded = || ty.fields().filter(|field| field.embedded);
        if let Some(field) = embedded().find(|field| self.is_one(field.ty)) {
            return Some(direct(field.offset));
        }
        for field in embedded() {
            let is_pointer = field.ty.kind() == Kind::Pointer;
            let inner = if is_pointer { field.ty.elem() } else { Some(field.ty) };
            let Some(inner) = inner.filter(|_| self.has_methods(field.ty)) else { continue };
            let Some(found) = self.parent_in(inner, depth - 1) else { continue };
            let further = |offset: u64| field.offset.wrapping_add(offset);
            match (is_pointer, found.pointer) {
                (false, pointer) => {
                    let offset =
                        if pointer.is_some() { found.offset } else { further(found.offset) };
                    return Some(ContextParent { pointer: pointer.map(further), offset });
                }
                (true, None) => {
                    return Some(ContextParent { pointer: Some(field.offset), ..found });
                }
                // Nobody embeds pointers in what they embed by pointer: one step is enough.
                (true, Some(_)) => {}
            }
        }
        let field = ty.fields().find(|field| self.is_one(field.ty));
        field.map(|field| direct(field.offset)).or_else(|| self.of_request(ty))
    }

    /// The context of a request that a struct has, as frameworks for HTTP servers do it.
    fn of_request(&mut self, ty: Type<'a>) -> Option<ContextParent> {
        let request = self.request?;
        let field = ty.fields().find(|field| field.ty == request)?;
        let offset = self.field_of(request.elem()?, DEEPEST)?;
        Some(ContextParent { pointer: Some(field.offset), offset })
    }

    /// Whether an embedded type can be where the methods come from: the pointer to it may have them.
    fn has_methods(&mut self, ty: Type<'a>) -> bool {
        self.implemented_by(ty)
            || ty.types().pointer_to(ty).is_some_and(|pointer| self.implemented_by(pointer))
    }

    /// A context that is a field of a struct, or of one that is embedded in it.
    fn field_of(&mut self, ty: Type<'a>, depth: u32) -> Option<u64> {
        if ty.kind() != Kind::Struct || depth == 0 || !self.look(ty) {
            return None;
        }
        if let Some(field) = ty.fields().find(|field| self.is_one(field.ty)) {
            return Some(field.offset);
        }
        ty.fields()
            .filter(|field| field.embedded)
            .find_map(|field| Some(field.offset.wrapping_add(self.field_of(field.ty, depth - 1)?)))
    }

    /// A context in what a value is or points at.
    fn held_by(&mut self, value: &Value<'a>) -> Option<ContextSource> {
        if value.ty.kind() == Kind::Pointer {
            let offset = self.field_of(value.ty.elem()?, DEEPEST)?;
            let register = first_register(value)?;
            return Some(ContextSource { register, deref_offset: Some(offset) });
        }
        let offset = self.field_of(value.ty, DEEPEST)?;
        let Place::Registers(parts) = &value.place else { return None };
        let register = parts.iter().find(|part| part.offset == offset).and_then(integer)?;
        Some(ContextSource { register, deref_offset: None })
    }
}
