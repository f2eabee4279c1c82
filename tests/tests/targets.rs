//! Whom a run is aimed at: several processes, one by its name, one that comes back, one that
//! becomes another program.

use anyhow::{Result, ensure};
use profiler_tests::environment::can_probe;
use profiler_tests::family::{self, Family, binary, copy};
use profiler_tests::fixture::build;
use profiler_tests::qprof::{Run, check_code};

/// Several of the same binary and of different ones: each call under the process that made it. One
/// of them dies, and the others go on.
#[test]
fn several_targets_are_told_apart() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let other = build("family.c", &["-O2", "-ldl", "-DQUERY=other_query"])?;
    let mut first = Family::start(&binary()?)?;
    let mut second = Family::start(&binary()?)?;
    let mut third = Family::start(&other)?;
    let mut stranger = Family::start(&binary()?)?;
    let pids = [first.pid(), second.pid(), third.pid()];
    // Named twice is aimed at once.
    let named = [pids[0], pids[1], pids[2], pids[0]].map(|pid| pid.to_string());
    let arguments: Vec<&str> = named.iter().flat_map(|pid| ["-p", pid]).collect();
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    run.until_said("attached: ", 3)?;
    first.tell("call 3")?;
    second.tell("call 4")?;
    third.tell("call 5")?;
    stranger.tell("call 6")?;
    second.kill()?;
    first.tell("call 10")?;
    third.tell("call 20")?;
    ensure!(run.alive(), "the run ended with one of its targets");
    first.end()?;
    third.tell("call 40")?;
    ensure!(run.alive(), "the run ended with one of its targets");
    third.end()?;
    let done = run.wait()?;
    done.check_ok()?;
    stranger.end()?;
    family::check(&done, &file, &[(pids[0], 13), (pids[1], 4), (pids[2], 65)])
}

/// One of several is not there: nothing is attached to the others, and which one it is is said.
#[test]
fn one_of_several_is_not_there() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let family = Family::start(&binary()?)?;
    let gone = Family::start(&binary()?)?;
    let pid = gone.pid().to_string();
    gone.end()?;
    let (run, _) = family::traced(Run::with(&["-p", &family.pid().to_string(), "-p", &pid])?)?;
    let finished = run.fail()?;
    check_code(&finished, 4)?;
    ensure!(finished.stderr.contains(&pid), "it does not name {pid}: {}", finished.stderr);
    family.end()?;
    Ok(())
}

/// By the name of the executable, by a pattern, by its path; nobody; several.
#[test]
fn by_its_executable() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let name = format!("qprof-family-{}", std::process::id());
    let path = copy(&binary()?, &name)?;
    let attempt = |glob: &str, more: &[&str]| -> Result<Run> {
        Ok(family::traced(Run::with(&[&["--exe", glob], more].concat())?)?.0)
    };
    let finished = attempt(&name, &[])?.fail()?;
    check_code(&finished, 4)?;
    ensure!(finished.stderr.contains(&format!("no process runs `{name}`")), "{}", finished.stderr);

    let mut family = Family::start(&path)?;
    let path = path.to_string_lossy().into_owned();
    for glob in [&name, &format!("*-{}", &name[6..]), &path, &format!("*/{name}")] {
        let (run, file) = family::start(Run::with(&["--exe", glob])?)?;
        family.tell("call 2")?;
        let done = run.stop()?;
        done.check_ok()?;
        family::check(&done, &file, &[(family.pid(), 2)])?;
    }

    // A child runs the same: there is a choice now, and a head of both.
    let child = family.fork("")?;
    let finished = attempt(&name, &[])?.fail()?;
    check_code(&finished, 4)?;
    for said in [&family.pid().to_string(), &child.to_string(), "2 processes", "--children"] {
        ensure!(finished.stderr.contains(said), "{said} is not said: {}", finished.stderr);
    }
    let (run, file) = family::start(Run::with(&["--exe", &name, "--children"])?)?;
    family.tell("call 3")?;
    family.tell("@0 call 4")?;
    let done = run.stop()?;
    done.check_ok()?;
    family::check(&done, &file, &[(family.pid(), 3), (child, 4)])?;

    // Strangers to each other have no head.
    let stranger = Family::start(path.as_ref())?;
    for more in [&[][..], &["--children"]] {
        let finished = attempt(&name, more)?.fail()?;
        check_code(&finished, 4)?;
        ensure!(
            finished.stderr.contains("3 processes") && !finished.stderr.contains("--children"),
            "{}",
            finished.stderr
        );
    }
    stranger.end()?;
    family.end()?;
    Ok(())
}

/// A server that becomes itself again, and another program, and itself once more.
#[test]
fn a_target_becomes_another_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let other = build("family.c", &["-O2", "-ldl", "-DQUERY=other_query"])?;
    let mut family = Family::start(&binary()?)?;
    let pid = family.pid();
    let (mut run, file) = family::start(Run::on(pid)?)?;
    family.tell("call 2")?;
    // The same file: what is probed stays probed.
    let ready = family.ask(&format!("exec {}", binary()?.display()))?;
    ensure!(ready == "ready", "it says {ready:?}");
    family.tell("call 3")?;
    let ready = family.ask(&format!("exec {}", other.display()))?;
    ensure!(ready == "ready", "it says {ready:?}");
    run.until_said("attached: more", 1)?;
    family.tell("call 5")?;
    let ready = family.ask(&format!("exec {}", binary()?.display()))?;
    ensure!(ready == "ready", "it says {ready:?}");
    family.tell("call 7")?;
    family.end()?;
    let done = run.wait()?;
    done.check_ok()?;
    let traces = family::traces(&done, &file)?;
    let of_other = traces.iter().filter(|trace| trace.count("other_query") == 1).count();
    ensure!(of_other == 5, "{of_other} calls of the other program");
    family::check(&done, &file, &[(pid, 17)])
}

/// `--follow`: it ends, by itself and by force, and runs again, twice.
#[test]
fn a_target_that_comes_back() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let path = copy(&binary()?, "comes-back")?;
    let mut family = Family::start(&path)?;
    let mut made = vec![(family.pid(), 2)];
    let arguments = ["-p", &family.pid().to_string(), "--follow"];
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    family.tell("call 2")?;
    for turn in 1..=2 {
        if turn == 1 {
            family.end()?;
        } else {
            family.kill()?;
        }
        run.until_said("waiting until it runs again", turn)?;
        family = Family::start(&path)?;
        run.until_said("runs again as", turn)?;
        run.until_said("attached: ", turn + 1)?;
        let calls = 10 * turn;
        family.tell(&format!("call {calls}"))?;
        made.push((family.pid(), calls));
    }
    let done = run.stop()?;
    done.check_ok()?;
    family.end()?;
    family::check(&done, &file, &made)
}

/// The same with children: those of the one that came back are taken too.
#[test]
fn a_family_that_comes_back() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let path = copy(&binary()?, "comes-back")?;
    let mut family = Family::start(&path)?;
    let child = family.fork("")?;
    let mut made = vec![(family.pid(), 1), (child, 2)];
    let arguments = ["-p", &family.pid().to_string(), "--follow", "--children"];
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    family.tell("call 1")?;
    family.tell("@0 call 2")?;
    family.end()?;
    run.until_said("waiting until it runs again", 1)?;
    family = Family::start(&path)?;
    let early = family.fork("")?;
    run.until_said("runs again as", 1)?;
    let late = family.fork("")?;
    family.tell("call 3")?;
    family.tell("@0 call 4")?;
    family.tell("@1 call 5")?;
    made.extend([(family.pid(), 3), (early, 4), (late, 5)]);
    let done = run.stop()?;
    done.check_ok()?;
    family.end()?;
    family::check(&done, &file, &made)
}

/// Several are followed, each by itself; who runs the same beside them is nobody's successor.
#[test]
fn several_targets_that_come_back() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let path = copy(&binary()?, "comes-back")?;
    let other = copy(&build("family.c", &["-O2", "-ldl", "-DQUERY=other_query"])?, "other")?;
    let mut stranger = Family::start(&path)?;
    let mut first = Family::start(&path)?;
    let mut second = Family::start(&other)?;
    let mut made = vec![(first.pid(), 1), (second.pid(), 2)];
    let named = [first.pid().to_string(), second.pid().to_string()];
    let arguments = ["-p", &named[0], "-p", &named[1], "--follow"];
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    run.until_said("attached: ", 2)?;
    first.tell("call 1")?;
    second.tell("call 2")?;
    first.kill()?;
    run.until_said("waiting until it runs again", 1)?;
    first = Family::start(&path)?;
    run.until_said(&format!("process {} runs again as process {}", named[0], first.pid()), 1)?;
    run.until_said("attached: ", 3)?;
    first.tell("call 4")?;
    second.tell("call 8")?;
    made[1].1 += 8;
    second.end()?;
    run.until_said("waiting until it runs again", 2)?;
    second = Family::start(&other)?;
    run.until_said(&format!("process {} runs again as process {}", named[1], second.pid()), 1)?;
    run.until_said("attached: ", 4)?;
    second.tell("call 16")?;
    stranger.tell("call 32")?;
    made.extend([(first.pid(), 4), (second.pid(), 16)]);
    let done = run.stop()?;
    done.check_ok()?;
    for family in [stranger, first, second] {
        family.end()?;
    }
    family::check(&done, &file, &made)
}
