//! Reads what `cargo test` prints, and counts without lying: a test program that does not
//! compile, crashes or runs no test at all is a failure, whatever the lines before it said.

/// What one `cargo test` call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// The names behind `failed`, and reasons for what failed without being a test.
    pub(crate) failures: Vec<String>,
    /// Test programs that cargo said it starts, and those that came to their result line.
    started: u64,
    finished: u64,
    /// The program started last, for the message when it is the one that crashed.
    current: String,
    crashed: Vec<String>,
}

impl Tally {
    /// Takes one line of standard output (the test harness writes there).
    pub(crate) fn stdout_line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.finished += 1;
            self.passed += count(rest, "passed");
            self.failed += count(rest, "failed");
            self.ignored += count(rest, "ignored");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// Takes one line of standard error (cargo writes there).
    pub(crate) fn stderr_line(&mut self, line: &str) {
        let line = line.trim_start();
        if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
            self.started += 1;
            line.clone_into(&mut self.current);
        } else if line.contains("process didn't exit successfully")
            // Rust's harness exits with 101 after a failed test: not a crash.
            && !line.contains("(exit status: 101)")
        {
            self.crashed.push(self.current.clone());
        }
    }

    /// Draws the sum once cargo ended; `success` is its exit code, `trouble` what the caller
    /// saw go wrong around it.
    pub(crate) fn close(mut self, success: bool, trouble: Option<String>) -> Self {
        let before = self.failed;
        for program in std::mem::take(&mut self.crashed) {
            self.fail(format!("crashed: {program}"));
        }
        if let Some(trouble) = trouble {
            self.fail(trouble);
        }
        let unfinished = self.started.saturating_sub(self.finished);
        if unfinished > 0 && self.failed == before {
            self.fail(format!("{unfinished} test program(s) ended without a result"));
        }
        if !success && self.failed == 0 {
            self.fail("cargo test failed before any test did: does it compile?".to_owned());
        }
        if success && self.passed + self.failed + self.ignored == 0 {
            self.fail("ran no test".to_owned());
        }
        self
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.failures.push(why);
    }

    #[cfg(test)]
    pub(crate) fn is_green(&self) -> bool {
        self.failed == 0
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; ...`.
fn count(result: &str, word: &str) -> u64 {
    result
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// A line a test wrote because it could not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotRun {
    /// Not counted as skipped: what this CPU or kernel lacks by build.
    pub(crate) not_applicable: bool,
    pub(crate) test: String,
    pub(crate) reason: String,
}

/// Reads `KIND<TAB>TEST<TAB>REASON` lines, KIND `skip` or `n/a`. A line of another form counts
/// as a skip, with the line as its reason: what is not understood must not look green.
pub(crate) fn parse_not_run(lines: &str) -> Vec<NotRun> {
    let parse = |line: &str| {
        let mut parts = line.splitn(3, '\t');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(kind @ ("skip" | "n/a")), Some(test), Some(reason)) => NotRun {
                not_applicable: kind == "n/a",
                test: test.to_owned(),
                reason: reason.to_owned(),
            },
            _ => NotRun { not_applicable: false, test: "?".to_owned(), reason: line.to_owned() },
        }
    };
    lines.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(stdout: &str, stderr: &str, success: bool) -> Tally {
        let mut tally = Tally::default();
        for line in stderr.lines() {
            tally.stderr_line(line);
        }
        for line in stdout.lines() {
            tally.stdout_line(line);
        }
        tally.close(success, None)
    }

    const TWO: &str = "\
running 3 tests
test a::one ... ok
test a::two ... ignored
test a::three ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s

running 1 test
test doc.rs - x (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s
";
    const TWO_PROGRAMS: &str = "\
   Compiling profiler-common v0.1.0
     Running unittests src/lib.rs (target/debug/deps/a-1)
   Doc-tests profiler_common
";

    #[test]
    fn sums_all_programs() {
        let tally = tally(TWO, TWO_PROGRAMS, true);
        assert_eq!((tally.passed, tally.failed, tally.ignored), (3, 0, 1));
        assert!(tally.is_green());
    }

    #[test]
    fn failed_tests_are_named() {
        let stdout = "\
test hop::wrong ... FAILED
failures:
    hop::wrong
test result: FAILED. 7 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s";
        let stderr = "     Running tests/hop.rs (target/debug/deps/hop-1)
error: test failed, to rerun pass `-p profiler-tests --test hop`
  process didn't exit successfully: `target/debug/deps/hop-1` (exit status: 101)";
        let tally = tally(stdout, stderr, false);
        assert_eq!((tally.passed, tally.failed), (7, 1));
        assert_eq!(tally.failures, ["hop::wrong"]);
    }

    #[test]
    fn a_crash_after_passed_tests_is_a_failure() {
        let stderr = "     Running tests/hop.rs (target/debug/deps/hop-1)
Caused by:
  process didn't exit successfully: `target/debug/deps/hop-1` (signal: 11, SIGSEGV)";
        let tally = tally("test a ... ok\n", stderr, false);
        assert_eq!(tally.failed, 1);
        assert_eq!(tally.failures, ["crashed: Running tests/hop.rs (target/debug/deps/hop-1)"]);
    }

    #[test]
    fn a_program_without_a_result_is_a_failure_even_when_cargo_says_success() {
        let tally = tally("", "     Running tests/hop.rs (x)", true);
        assert_eq!(tally.failures, ["1 test program(s) ended without a result"]);
    }

    #[test]
    fn what_does_not_compile_is_a_failure() {
        let tally = tally("", "error[E0425]: cannot find value `x`", false);
        assert_eq!(tally.failed, 1);
        assert!(tally.failures[0].contains("does it compile"));
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let stdout = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(tally(stdout, "     Running x (y)", true).failures, ["ran no test"]);
    }

    #[test]
    fn a_test_may_not_count_by_printing() {
        let tally = tally("  test result: ok. 5 passed; 0 failed\n", "", true);
        assert_eq!(tally.passed, 0);
    }

    #[test]
    fn skips_and_what_does_not_apply() {
        let lines = parse_not_run("skip\ta::b\tno bpftrace\n\nn/a\tc\tno CET\nnonsense\n");
        assert_eq!(lines.len(), 3);
        assert!(!lines[0].not_applicable && lines[0].reason == "no bpftrace");
        assert!(lines[1].not_applicable && lines[1].test == "c");
        assert!(!lines[2].not_applicable && lines[2].reason == "nonsense");
    }
}
