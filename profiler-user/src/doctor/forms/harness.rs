//! Runs a snippet with all registers known, and tells what it left behind. The one place of the
//! child that is `unsafe`: it jumps into code and looks at a stack that is not Rust's.

use std::arch::naked_asm;
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

/// Where the snippets are mapped: the same in every child, so that the return addresses they leave
/// can be compared. Far from where the kernel puts anything by itself.
const CODE: usize = 0x6000_0000_0000;
/// Where their stack and data are.
const SCRATCH: usize = 0x6100_0000_0000;
const SCRATCH_LEN: usize = 0x1_0000;
/// The stack pointer with which they are called.
const STACK: usize = SCRATCH + 0x8000;
/// What rdi points to.
const DATA: usize = SCRATCH + 0xc000;
/// What rsi points to.
const MORE_DATA: usize = DATA + 64;
const DATA_WORDS: usize = 32;
/// How much below the return slot is looked at: the red zone of the deepest snippet.
const BELOW_WORDS: usize = 32;

/// The general registers in the order of their numbers, then the flags.
const NAMES: [&str; 17] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "flags",
];
const VECTOR_WORDS: usize = 64;

/// How many words a [`Snapshot`] has.
pub(super) const WORDS: usize = NAMES.len() + BELOW_WORDS + DATA_WORDS + VECTOR_WORDS;

/// What a snippet left behind: registers, flags, the memory below its stack, its data, and the
/// vector registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot(pub(super) Vec<u64>);

impl Snapshot {
    /// What differs from another one, in words; none if nothing does.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let mut places: Vec<String> = Vec::new();
        for (index, _) in
            self.0.iter().zip(&other.0).enumerate().filter(|(_, (one, other))| one != other)
        {
            let place = place(index);
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
        places.dedup();
        (!places.is_empty()).then(|| places.join(", "))
    }
}

fn place(index: usize) -> String {
    let registers = NAMES.len();
    if let Some(name) = NAMES.get(index) {
        return (*name).to_owned();
    }
    match index - registers {
        below if below < BELOW_WORDS => "the red zone".to_owned(),
        data if data < BELOW_WORDS + DATA_WORDS => "memory".to_owned(),
        _ => "vector registers".to_owned(),
    }
}

/// The instruction set's part of a process's state, as `xsave` lays it out: the legacy area, the
/// header, and the upper halves of the AVX registers (Intel SDM, volume 1, chapter 13).
#[repr(C, align(64))]
struct Extended {
    legacy: [u8; 512],
    header: [u64; 8],
    upper: [u64; 32],
}

/// Offset of MXCSR, and of xmm0, in the legacy area.
const MXCSR: usize = 24;
const XMM: usize = 160;

impl Extended {
    const fn new() -> Self {
        Self { legacy: [0; 512], header: [0; 8], upper: [0; 32] }
    }

    fn filled(components: u64) -> Self {
        let mut this = Self::new();
        // FCW and MXCSR as after power-up: all exceptions masked.
        this.legacy[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        this.legacy[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        for (index, byte) in this.legacy[XMM..XMM + 256].iter_mut().enumerate() {
            *byte = (index as u8).wrapping_mul(7) | 1;
        }
        for (word, n) in this.upper.iter_mut().zip(1_u64..) {
            *word = 0x0101_0101_0101_0101_u64.wrapping_mul(n);
        }
        this.header[0] = components;
        this
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let low = self.legacy[XMM..XMM + 256].as_chunks::<8>().0.iter();
        low.map(|bytes| u64::from_le_bytes(*bytes)).chain(self.upper)
    }
}

/// What [`call`] reads and writes.
#[repr(C, align(64))]
struct State {
    /// Registers before and after, in the order of [`NAMES`].
    before: [u64; 17],
    after: [u64; 17],
    own_rsp: u64,
    /// The parts of the extended state that are loaded and stored; 0: none.
    components: u64,
    /// 1: under a shadow stack.
    shadow: u64,
    /// What the kernel said to a shadow stack.
    shadow_answer: i64,
    extended_before: Extended,
    extended_after: Extended,
}

/// What must be found again when a snippet may have changed every register.
static STATE: AtomicU64 = AtomicU64::new(0);
static TARGET: AtomicU64 = AtomicU64::new(0);
static RAX: AtomicU64 = AtomicU64::new(0);

/// Calls the code at [`TARGET`] with the registers of a state.
///
/// Follows the calling convention towards its caller, whatever the snippet does, as long as it
/// returns to where it was called from. Only one at a time.
#[unsafe(naked)]
unsafe extern "sysv64" fn call(state: *mut State) {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "mov [rip + {state}], rdi",
        "mov [rdi + {own}], rsp",
        // A shadow stack, if asked for: from here on every return must match its call.
        "cmp qword ptr [rdi + {shadow}], 0",
        "je 20f",
        "mov rbx, rdi",
        "mov edi, {enable}",
        "mov esi, 1",
        "mov eax, {prctl}",
        "syscall",
        "mov rdi, rbx",
        "mov [rdi + {answer}], rax",
        "test rax, rax",
        "jnz 25f",
        "20:",
        "mov eax, [rdi + {components}]",
        "xor edx, edx",
        "test eax, eax",
        "jz 21f",
        "xrstor64 [rdi + {xbefore}]",
        "21:",
        "mov rsp, [rdi + {before} + 4*8]",
        "push qword ptr [rdi + {before} + 16*8]",
        "popfq",
        "mov rax, [rdi + {before}]",
        "mov rcx, [rdi + {before} + 1*8]",
        "mov rdx, [rdi + {before} + 2*8]",
        "mov rbx, [rdi + {before} + 3*8]",
        "mov rbp, [rdi + {before} + 5*8]",
        "mov rsi, [rdi + {before} + 6*8]",
        "mov r8, [rdi + {before} + 8*8]",
        "mov r9, [rdi + {before} + 9*8]",
        "mov r10, [rdi + {before} + 10*8]",
        "mov r11, [rdi + {before} + 11*8]",
        "mov r12, [rdi + {before} + 12*8]",
        "mov r13, [rdi + {before} + 13*8]",
        "mov r14, [rdi + {before} + 14*8]",
        "mov r15, [rdi + {before} + 15*8]",
        "mov rdi, [rdi + {before} + 7*8]",
        "call qword ptr [rip + {target}]",
        // Nothing below the snippet's stack pointer may be written until it has been looked at.
        "mov [rip + {rax}], rax",
        "mov rax, [rip + {state}]",
        "mov [rax + {after} + 4*8], rsp",
        "mov rsp, [rax + {own}]",
        "pushfq",
        "pop qword ptr [rax + {after} + 16*8]",
        "mov [rax + {after} + 1*8], rcx",
        "mov [rax + {after} + 2*8], rdx",
        "mov [rax + {after} + 3*8], rbx",
        "mov [rax + {after} + 5*8], rbp",
        "mov [rax + {after} + 6*8], rsi",
        "mov [rax + {after} + 7*8], rdi",
        "mov [rax + {after} + 8*8], r8",
        "mov [rax + {after} + 9*8], r9",
        "mov [rax + {after} + 10*8], r10",
        "mov [rax + {after} + 11*8], r11",
        "mov [rax + {after} + 12*8], r12",
        "mov [rax + {after} + 13*8], r13",
        "mov [rax + {after} + 14*8], r14",
        "mov [rax + {after} + 15*8], r15",
        "mov rcx, [rip + {rax}]",
        "mov [rax + {after}], rcx",
        "mov rdi, rax",
        "mov eax, [rdi + {components}]",
        "xor edx, edx",
        "test eax, eax",
        "jz 22f",
        "xsave64 [rdi + {xafter}]",
        "22:",
        "cmp qword ptr [rdi + {shadow}], 0",
        "je 25f",
        "mov edi, {disable}",
        "mov esi, 1",
        "mov eax, {prctl}",
        "syscall",
        "25:",
        "cld",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
        "ret",
        state = sym STATE,
        target = sym TARGET,
        rax = sym RAX,
        own = const offset_of!(State, own_rsp),
        before = const offset_of!(State, before),
        after = const offset_of!(State, after),
        components = const offset_of!(State, components),
        shadow = const offset_of!(State, shadow),
        answer = const offset_of!(State, shadow_answer),
        xbefore = const offset_of!(State, extended_before),
        xafter = const offset_of!(State, extended_after),
        prctl = const libc::SYS_arch_prctl,
        // ARCH_SHSTK_ENABLE and ARCH_SHSTK_DISABLE (arch/x86/include/uapi/asm/prctl.h).
        enable = const 0x5001,
        disable = const 0x5002,
    )
}

/// The snippets, mapped, and what they run on.
pub(super) struct Harness {
    code_len: usize,
    /// Parts of the extended state this processor has: x87 and SSE, and AVX.
    components: u64,
}

/// Why a snippet did not run.
pub(super) enum NotRun {
    /// The kernel gives no shadow stack.
    NoShadowStack(io::Error),
    /// It is not in the file.
    OutOfFile,
}

impl Harness {
    /// Maps the file of the snippets. At most once in a process.
    pub(super) fn new(file: impl AsFd, code_len: usize) -> io::Result<Self> {
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: a new mapping, of which the kernel makes sure that it replaces none.
        unsafe {
            mmap(CODE as *mut c_void, code_len, ProtFlags::READ | ProtFlags::EXEC, fixed, file, 0)?;
        }
        // SAFETY: as above.
        unsafe {
            let read_write = ProtFlags::READ | ProtFlags::WRITE;
            mmap_anonymous(SCRATCH as *mut c_void, SCRATCH_LEN, read_write, fixed)?;
        }
        let this = Self { code_len, components: components() };
        // A page that was never written is not there, and whoever reads it from a probe gets nothing.
        clear();
        Ok(this)
    }

    /// Runs a snippet that begins at `start` of the file, with these flags.
    pub(super) fn run(&self, start: u32, flags: u64, shadow: bool) -> Result<Snapshot, NotRun> {
        let target = self.address(start).ok_or(NotRun::OutOfFile)?;
        let mut state = State {
            before: std::array::from_fn(|register| {
                0x1111_1111_1111_1111_u64.wrapping_mul(register as u64).wrapping_add(1)
            }),
            after: [0; 17],
            own_rsp: 0,
            components: self.components,
            shadow: u64::from(shadow),
            shadow_answer: 0,
            extended_before: Extended::filled(self.components),
            extended_after: Extended::new(),
        };
        let [_, _, _, _, rsp, _, rsi, rdi, .., rflags] = &mut state.before;
        (*rsp, *rsi, *rdi, *rflags) = (STACK as u64, MORE_DATA as u64, DATA as u64, flags);
        clear();
        TARGET.store(target as u64, std::sync::atomic::Ordering::SeqCst);
        // SAFETY: `target` is the start of a snippet, which returns. What probes make of that is
        // what this process is for.
        unsafe { call(&raw mut state) };
        if state.shadow_answer != 0 {
            let errno = i32::try_from(-state.shadow_answer).unwrap_or(libc::EINVAL);
            return Err(NotRun::NoShadowStack(io::Error::from_raw_os_error(errno)));
        }
        let slot = STACK - 8;
        let mut words = state.after.to_vec();
        words.extend(memory(slot - 8 * BELOW_WORDS, BELOW_WORDS));
        words.extend(memory(DATA, DATA_WORDS));
        words.extend(state.extended_after.words());
        Ok(Snapshot(words))
    }

    /// A snippet that keeps to the calling convention, to be called as often as one likes.
    pub(super) fn function(&self, start: u32) -> Option<impl Fn() + Copy + Send + use<>> {
        type Snippet = extern "sysv64" fn();
        let address = self.address(start)?;
        // SAFETY: the timed snippets are functions, mapped for good.
        let function = unsafe { std::mem::transmute::<*const (), Snippet>(address as *const ()) };
        Some(move || function())
    }

    fn address(&self, start: u32) -> Option<usize> {
        let start = start as usize;
        (start < self.code_len).then_some(CODE + start)
    }
}

/// Makes the scratch memory, which must be mapped, what it is before every run.
fn clear() {
    // SAFETY: it is mapped for good as soon as there is a `Harness`, and nobody refers to it.
    unsafe { ptr::write_bytes(SCRATCH as *mut u8, 0x5a, SCRATCH_LEN) };
}

/// Words of the scratch memory.
fn memory(address: usize, words: usize) -> Vec<u64> {
    // SAFETY: within the scratch memory, aligned, mapped for good; nobody writes while this looks.
    unsafe { slice::from_raw_parts(address as *const u64, words) }.to_vec()
}

pub(super) fn has_avx() -> bool {
    is_x86_feature_detected!("avx")
}

/// The parts of the extended state there are.
fn components() -> u64 {
    match (is_x86_feature_detected!("xsave"), has_avx()) {
        (true, true) => 0b111,
        (true, false) => 0b11,
        (false, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_place_once() {
        let same = Snapshot(vec![0; WORDS]);
        assert_eq!(same.difference(&same), None);
        let mut other = same.clone();
        for index in [0, 4, 16, 17, 18, NAMES.len() + BELOW_WORDS, WORDS - 1] {
            other.0[index] = 1;
        }
        let found = same.difference(&other).unwrap();
        assert_eq!(found, "rax, rsp, flags, the red zone, memory, vector registers");
    }
}
