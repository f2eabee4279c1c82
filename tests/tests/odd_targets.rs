//! Targets in odd places and states: containers, deleted and overlaid binaries, 32 bits, under a
//! debugger.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, not_applicable, scratch, skip};
use profiler_tests::family::{self, Family, binary, library};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::process::Process;
use profiler_tests::qprof::{Run, check_code, verb};

/// The child of a process, as the host numbers it.
fn only_child(parent: u32) -> Result<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    children.trim().parse().with_context(|| format!("one child of {parent}: {children:?}"))
}

/// A family in namespaces of its own: `mount` makes the directory `$1` whatever it is to be, the
/// binary and its library are copied there and run from there. None if the kernel does not let it.
///
/// The mounts are those of the namespace, and go with its last process; that is killed with the
/// one that is known.
fn contained(mount: &str) -> Result<Option<Family>> {
    let directory = scratch("container")?;
    let (binary, library) = (binary()?, library()?);
    let script = format!(
        "set -e\n{mount}\ncp {} \"$1/family\"\ncp {} \"$1/library.so\"\ncd /\nexec \"$1/family\"\n",
        binary.display(),
        library.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    command.args(["sh", "-c", &script, "sh"]).arg(&directory);
    match Family::become_of(command) {
        Ok(family) => Ok(Some(family)),
        Err(error) => {
            let said = format!("{error:#}");
            let refused = ["Operation not permitted", "unknown filesystem", "wrong fs type"];
            ensure!(refused.iter().any(|why| said.contains(why)), "{said}");
            skip("no mounts in a namespace here")?;
            Ok(None)
        }
    }
}

/// Calls, children, a library and the container's own pid 1, all told by the host's numbers.
fn traced_from_outside(mut family: Family, delete: bool) -> Result<()> {
    let pid = only_child(family.pid())?;
    ensure!(family.ask("pid")? == "1", "it is not in a pid namespace of its own");
    let exe = fs::read_link(format!("/proc/{pid}/exe"))?;
    ensure!(!exe.exists(), "{} can be seen from outside", exe.display());
    if delete {
        family.tell(&format!("delete {}", exe.display()))?;
    }
    let child_inside = family.fork("")?;
    let child = only_child(pid)?;
    ensure!(child != child_inside, "the child has one number, inside and out");
    let arguments = ["-p", &pid.to_string(), "--children"];
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    family.tell("call 30")?;
    family.tell("@0 call 40")?;
    let library = exe.parent().context("no directory")?.join("library.so");
    family.tell(&format!("load 0 {}", library.display()))?;
    run.until_said("attached: more", 1)?;
    family.tell("plug 0 5")?;
    family.fork("@0 ")?;
    let grandchild = only_child(child)?;
    family.tell("@0 @0 call 50")?;
    let done = run.stop()?;
    done.check_ok()?;
    family.end()?;
    family::check(&done, &file, &[(pid, 35), (child, 40), (grandchild, 50)])
}

/// In its own mount and pid namespaces, its binary on a file system that is mounted only there.
#[test]
fn in_a_container_on_a_tmpfs() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    match contained("mount -t tmpfs none \"$1\"")? {
        Some(family) => traced_from_outside(family, false),
        None => Ok(()),
    }
}

/// The same, deleted after it was started.
#[test]
fn in_a_container_and_deleted() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    match contained("mount -t tmpfs none \"$1\"")? {
        Some(family) => traced_from_outside(family, true),
        None => Ok(()),
    }
}

/// A container's usual root: an overlay, with the binary in its upper layer and in its lower one.
#[test]
fn in_a_container_on_an_overlay() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let layers = "mount -t tmpfs none \"$1\"\n\
                  mkdir \"$1/upper\" \"$1/lower\" \"$1/work\" \"$1/merged\"\n";
    let overlay = "mount -t overlay none \
                   -o \"lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work\" \"$1/merged\"\n\
                   set -- \"$1/merged\"";
    let lower = format!(
        "cp {} \"$1/lower/family\"\ncp {} \"$1/lower/library.so\"\ncp() {{ :; }}\n",
        binary()?.display(),
        library()?.display()
    );
    for lower in [String::new(), lower] {
        let Some(family) = contained(&format!("{layers}{lower}{overlay}"))? else { return Ok(()) };
        traced_from_outside(family, false)?;
    }
    Ok(())
}

/// After an upgrade: another file lies under the path, and the old one still runs.
#[test]
fn deleted_and_replaced() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let path = family::copy(&binary()?, "upgraded")?;
    let mut old = Family::start(&path)?;
    fs::remove_file(&path)?;
    let newer = build("family.c", &["-O1", "-ldl"])?;
    fs::copy(newer, &path)?;
    let mut new = Family::start(&path)?;
    let (run, file) =
        family::start(Run::with(&["-p", &old.pid().to_string(), "-p", &new.pid().to_string()])?)?;
    old.tell("call 12")?;
    new.tell("call 34")?;
    let done = run.stop()?;
    done.check_ok()?;
    let made = [(old.pid(), 12), (new.pid(), 34)];
    old.end()?;
    new.end()?;
    family::check(&done, &file, &made)
}

/// Somebody debugs the target before and while it is profiled: neither disturbs the other.
#[test]
fn under_a_debugger() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let tracer = build("tracer.c", &["-O1"])?;
    let mut family = Family::start(&binary()?)?;
    let pid = family.pid().to_string();
    let before = Fixture::start(&tracer, &[&pid])?;
    let (run, file) = family::start(Run::with(&["-p", &pid, "--children"])?)?;
    family.tell("call 15")?;
    family.tell("storm 10")?;
    let mut before = before;
    before.kill()?;
    family.tell("call 25")?;
    let mut after = Fixture::start(&tracer, &[&pid])?;
    family.tell("call 35")?;
    let done = run.stop()?;
    done.check_ok()?;
    family.tell("call 45")?;
    after.kill()?;
    let roots = family::roots(&family::traces(&done, &file)?)?;
    ensure!(roots.get(&family.pid()) == Some(&75), "{roots:?}");
    ensure!(roots.len() == 11, "{roots:?}");
    family.end()?;
    Ok(())
}

/// The smallest program of 32 bits: it sleeps until a signal ends it.
fn write_32_bit(path: &Path) -> Result<()> {
    // i386: mov eax, 29 (pause); int 0x80; jmp back to the start.
    const CODE: [u8; 9] = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + CODE.len() as u32;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    // ET_EXEC, EM_386, then version, entry, program headers at 52, no sections, no flags.
    half(&mut elf, 2);
    half(&mut elf, 3);
    for value in [1, BASE + HEADERS, 52, 0, 0] {
        word(&mut elf, value);
    }
    for value in [52, 32, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    // PT_LOAD of the whole file, to be read and executed.
    for value in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        word(&mut elf, value);
    }
    elf.extend(CODE);
    fs::write(path, elf)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A 32-bit process is refused, by whichever verb and however it is named.
#[test]
fn a_32_bit_process_is_refused() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let path = scratch("32-bit")?.join("small");
    write_32_bit(&path)?;
    let mut small = match Process::spawn("small", Command::new(&path)) {
        Ok(small) => small,
        Err(error) => return not_applicable(&format!("no 32-bit programs here: {error:#}")),
    };
    let pid = small.pid().to_string();
    for arguments in
        [vec!["run", "-p", &pid], vec!["check", "-p", &pid], vec!["symbols", &pid, "*"]]
    {
        let finished = verb(&arguments)?;
        check_code(&finished, 4).with_context(|| format!("{arguments:?}"))?;
        ensure!(finished.stderr.contains("32-bit"), "{arguments:?}: {}", finished.stderr);
    }
    ensure!(small.alive(), "it did not live through that");
    small.kill()?;

    let finished = Run::command(&path, &[])?.map(family::map()?).fail()?;
    ensure!(finished.code != Some(0) && finished.stderr.contains("32-bit"), "{finished:?}");
    Ok(())
}
