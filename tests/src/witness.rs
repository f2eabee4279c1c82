//! Two witnesses of what the planner says of code: `objdump`, for where instructions begin and what
//! they are, and the unwind tables as `readelf` reads them, for how deep the stack is.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};

/// How many contradictions are kept in words.
const KEPT: usize = 20;

/// A file's code, as others read it.
#[derive(Debug)]
pub struct Witness {
    file: File,
    /// What was asked about; nothing: all.
    ranges: Vec<Range<u64>>,
    instructions: BTreeMap<u64, Shown>,
    frames: Frames,
}

/// The unwind tables of a file; by default of none.
#[derive(Debug, Default)]
pub struct Frames(BTreeMap<u64, Frame>);

/// An instruction.
#[derive(Debug)]
struct Shown {
    bytes: Vec<u8>,
    text: String,
}

/// A description of a range of code.
#[derive(Debug)]
struct Frame {
    end: u64,
    /// From which address on, where the frame's upper end is.
    rows: Vec<(u64, Top)>,
}

/// Where the upper end of a frame is: right above the return slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// So many bytes above rsp.
    FromStack(i32),
    /// So many bytes above rbp.
    FromFrame(i32),
    /// Elsewhere.
    Other,
}

/// A site to be held against the witnesses.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// As the ELF file names it.
    pub address: u64,
    /// In the file.
    pub offset: u64,
    /// The instruction, in our words.
    pub instruction: &'a str,
}

/// What was compared, and what contradicted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sites whose instruction was looked up.
    pub sites: usize,
    /// Slot offsets that the unwind tables could confirm or contradict.
    pub stacks: usize,
    /// Instructions that are not what was said.
    pub wrong_sites: usize,
    /// Slot offsets that the tables contradict.
    pub wrong_stacks: usize,
    /// The first contradictions, in words.
    pub said: Vec<String>,
}

impl Tally {
    /// A slot offset, and what the tables make of it, if they say.
    pub fn stack(&mut self, ours: i32, theirs: Option<i32>, what: impl FnOnce() -> String) {
        let Some(theirs) = theirs else { return };
        self.stacks += 1;
        if ours != theirs {
            self.wrong_stacks += 1;
            self.say(|| format!("{}: {ours}, the unwind tables say {theirs}", what()));
        }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.said.len() < KEPT {
            self.said.push(what());
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.sites += other.sites;
        self.stacks += other.stacks;
        self.wrong_sites += other.wrong_sites;
        self.wrong_stacks += other.wrong_stacks;
        self.said.extend(other.said);
        self.said.truncate(KEPT);
    }
}

impl Frames {
    /// Reads what `readelf --debug-dump=frames-interp` says of `.eh_frame`: a header for each
    /// description, and a row for each change. One without rows is as at a function's start.
    ///
    /// # Errors
    /// When readelf is not there or does not answer as it does.
    pub fn of(path: &Path) -> Result<Self> {
        let output = Command::new("readelf")
            .args(["--debug-dump=frames-interp", "--wide"])
            .arg(path)
            .output()
            .context("running readelf")?;
        ensure!(output.status.success(), "readelf {}: {}", path.display(), output.status);
        let mut frames = BTreeMap::new();
        let mut now: Option<(u64, Frame)> = None;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if line.contains(" FDE ") || line.contains(" CIE ") || line.starts_with("Contents of") {
                frames.extend(now.take());
            }
            if let Some((_, range)) = line.split_once("pc=") {
                let (start, end) = range.split_once("..").context("a range")?;
                let start = hex(start)?;
                now = Some((start, Frame { end: hex(end)?, rows: Vec::new() }));
            } else if let Some((_, frame)) = &mut now {
                let mut words = line.split_whitespace();
                if let (Some(at), Some(top)) = (words.next(), words.next())
                    && let Ok(at) = hex(at)
                {
                    frame.rows.push((at, top_of(top)));
                }
            }
        }
        frames.extend(now);
        for (start, frame) in &mut frames {
            if frame.rows.is_empty() {
                frame.rows.push((*start, Top::FromStack(8)));
            }
        }
        Ok(Self(frames))
    }

    /// Where each description begins: mostly a function's start.
    pub fn starts(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.keys().copied()
    }
}

impl Witness {
    /// Asks about all of a file's code, or about ranges of it.
    ///
    /// # Errors
    /// When objdump is not there or does not answer as it does.
    pub fn of(path: &Path, ranges: &[Range<u64>], frames: Frames) -> Result<Self> {
        let mut instructions = BTreeMap::new();
        if ranges.is_empty() {
            disassemble(path, None, &mut instructions)?;
        }
        for range in ranges {
            disassemble(path, Some(range), &mut instructions)?;
        }
        ensure!(!instructions.is_empty(), "objdump shows no instruction of {}", path.display());
        Ok(Self { file: File::open(path)?, ranges: ranges.to_vec(), instructions, frames })
    }

    /// Where the frame's upper end is before the instruction at an address, and which description
    /// says so.
    #[must_use]
    pub fn top(&self, address: u64) -> Option<(u64, Top)> {
        let (start, frame) = self.frames.0.range(..=address).next_back()?;
        let row = frame.rows.partition_point(|(from, _)| *from <= address).checked_sub(1)?;
        (address < frame.end).then(|| Some((*start, frame.rows.get(row)?.1)))?
    }

    /// How far the return slot of the function is from the stack pointer before an instruction.
    #[must_use]
    pub fn own_slot(&self, address: u64) -> Option<i32> {
        match self.top(address)?.1 {
            Top::FromStack(bytes) => Some(bytes - 8),
            Top::FromFrame(_) | Top::Other => None,
        }
    }

    /// How far the return slot of a call that came back at `return_address` is from the stack
    /// pointer at `site`, in the same function.
    #[must_use]
    pub fn slot_of_call(&self, return_address: u64, site: u64) -> Option<i32> {
        match (self.top(return_address)?, self.top(site)?) {
            ((here, Top::FromStack(then)), (there, Top::FromStack(now))) if here == there => {
                Some(now - then - 8)
            }
            _ => None,
        }
    }

    /// Whether a site is the instruction it is said to be, and none that must not carry a probe.
    /// What lies in code that was not asked about is not counted.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn check(&self, claim: Claim<'_>, tally: &mut Tally) -> Result<()> {
        let Claim { address, offset, instruction } = claim;
        if !self.ranges.is_empty() && !self.ranges.iter().any(|range| range.contains(&address)) {
            return Ok(());
        }
        tally.sites += 1;
        let wrong = match self.instructions.get(&address) {
            None => Some("no instruction begins there".to_owned()),
            Some(shown) => self.contradiction(shown, offset, instruction)?,
        };
        if let Some(wrong) = wrong {
            tally.wrong_sites += 1;
            tally.say(|| format!("`{instruction}` at {address:#x}: {wrong}"));
        }
        Ok(())
    }

    fn contradiction(&self, shown: &Shown, offset: u64, ours: &str) -> Result<Option<String>> {
        let mut bytes = vec![0; shown.bytes.len()];
        self.file.read_exact_at(&mut bytes, offset)?;
        if bytes != shown.bytes {
            return Ok(Some(format!("{bytes:02x?} at its offset, not {:02x?}", shown.bytes)));
        }
        let vex = matches!(bytes.first(), Some(0xc4 | 0xc5 | 0x62)) || {
            let mut words = shown.text.split_whitespace();
            words.any(|word| word.starts_with('v') && !word.starts_with("ver"))
        };
        if vex {
            return Ok(Some(format!("`{}` is a VEX or EVEX instruction", shown.text)));
        }
        let word = ours.split_whitespace().next().unwrap_or_default();
        let same = shown.text.split_whitespace().any(|theirs| match (word, theirs) {
            ("mov", "movabs") | ("nop", "xchg") | ("xchg", "nop") => true,
            _ => word == theirs,
        });
        Ok((!same).then(|| format!("`{}` by objdump", shown.text)))
    }
}

/// Reads `ADDRESS:\tBYTES\tTEXT`.
fn disassemble(
    path: &Path,
    range: Option<&Range<u64>>,
    into: &mut BTreeMap<u64, Shown>,
) -> Result<()> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "-w", "-z", "--insn-width=16", "-M", "intel"]);
    if let Some(range) = range {
        objdump.arg(format!("--start-address={:#x}", range.start));
        objdump.arg(format!("--stop-address={:#x}", range.end));
    }
    let output = objdump.arg(path).output().context("running objdump")?;
    ensure!(output.status.success(), "objdump {}: {}", path.display(), output.status);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut fields = line.split('\t');
        let (Some(address), Some(bytes), Some(text)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(address) = address.trim().strip_suffix(':') else { continue };
        let bytes: Result<Vec<u8>, _> =
            bytes.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect();
        if let (Ok(address), Ok(bytes)) = (u64::from_str_radix(address, 16), bytes) {
            into.insert(address, Shown { bytes, text: text.trim().to_owned() });
        }
    }
    Ok(())
}

fn top_of(rule: &str) -> Top {
    let bytes = |base: &str| rule.strip_prefix(base).and_then(|bytes| bytes.parse().ok());
    bytes("rsp+")
        .map(Top::FromStack)
        .or_else(|| bytes("rbp+").map(Top::FromFrame))
        .unwrap_or(Top::Other)
}

fn hex(digits: &str) -> Result<u64> {
    u64::from_str_radix(digits.trim(), 16).map_err(|error| anyhow!("{digits}: {error}"))
}
