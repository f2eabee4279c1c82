//! Many values of a per-CPU BPF array in one system call: aya reads them one by one, and what a run
//! costs is looked at ten times a second.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use bytemuck::Pod;

use super::AttachError;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (`include/uapi/linux/bpf.h`); of per-CPU arrays since
/// kernel 5.13.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The part of `union bpf_attr` for batches (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Lookup {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The first `len` values of a per-CPU array, each folded over the CPUs.
pub(super) fn sums<T: Pod>(
    bpf: &Ebpf,
    name: &'static str,
    len: usize,
    add: impl Fn(T, &T) -> T,
) -> Result<Vec<T>, AttachError> {
    let what = "read the kernel side's counters";
    let Some(Map::PerCpuArray(map)) = bpf.map(name) else {
        return Err(super::load::missing(what, name));
    };
    first(map, len, add).map_err(|error| AttachError::bpf(what, error))
}

fn first<T: Pod>(map: &MapData, len: usize, add: impl Fn(T, &T) -> T) -> io::Result<Vec<T>> {
    const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds up to 8 bytes") };
    if len == 0 {
        return Ok(Vec::new());
    }
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?.get() as usize;
    let mut values = vec![T::zeroed(); len * cpus];
    let mut keys = vec![0_u32; len];
    let mut next = 0_u32;
    let mut lookup = Lookup {
        in_batch: 0,
        out_batch: (&raw mut next).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: len as u32,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes at most `count` keys of 4 bytes and values of `size_of::<T>()` bytes
    // for every possible CPU, which is what they were made for, and one key to `next`.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut lookup, size_of::<Lookup>())
    };
    // The end of the map is no error: those before it are there.
    let error = io::Error::last_os_error();
    if answer < 0 && error.raw_os_error() != Some(libc::ENOENT) {
        return Err(error);
    }
    let mut sums = vec![T::zeroed(); len];
    for (key, values) in keys.iter().zip(values.chunks(cpus)).take(lookup.count as usize) {
        if let Some(sum) = sums.get_mut(*key as usize) {
            *sum = values.iter().fold(T::zeroed(), &add);
        }
    }
    Ok(sums)
}
