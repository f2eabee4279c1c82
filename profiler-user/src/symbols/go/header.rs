//! The header of `.gopclntab` (`runtime.pcHeader`), and what it says lies where.
//!
//! Go's `internal/abi/symtab.go` and `runtime/symtab.go` have the formats. Before 1.16 the parts were
//! not apart; since 1.26 the text's start is no longer in it.

/// What a header takes at most, bytes.
pub(super) const SIZE: usize = 72;

/// How functions are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Go 1.16 and 1.17: by address, pointers in the table.
    Go116,
    /// Go 1.18 and 1.19: by offset from the text's start.
    Go118,
    /// Since Go 1.20: as before, with the line a function starts at.
    Go120,
}

impl Format {
    fn of(magic: u32) -> Option<Self> {
        match magic {
            0xffff_fffa => Some(Self::Go116),
            0xffff_fff0 => Some(Self::Go118),
            0xffff_fff1 => Some(Self::Go120),
            _ => None,
        }
    }

    /// What a header of each begins with on x86-64: magic, two zeros, instructions of any length,
    /// pointers of 8 bytes.
    pub(super) const BEGINS: [[u8; 8]; 3] = [
        [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8],
        [0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8],
        [0xfa, 0xff, 0xff, 0xff, 0, 0, 1, 8],
    ];
}

/// Why bytes are no table that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("its .gopclntab is cut short: {0}")]
    Short(&'static str),
    #[error(
        "its .gopclntab is of Go 1.15 or older (magic 0xfffffffb): its functions are read since 1.16"
    )]
    Old,
    #[error(
        "its .gopclntab has an unknown magic, {0:#x}: written by a newer Go than Qprof knows, or \
         obfuscated (garble)"
    )]
    Magic(u32),
    #[error(
        "its .gopclntab is for instructions in units of {unit} and pointers of {pointer} bytes, not \
         for x86-64"
    )]
    Machine { unit: u8, pointer: u8 },
    #[error("its .gopclntab contradicts itself: {0}")]
    Contradiction(String),
    #[error(
        "where its Go code begins is not known: the table does not say since Go 1.26, and the \
         runtime's moduledata, which does, was not found"
    )]
    NoTextStart,
    #[error(
        "it is a Go program without .gopclntab, the table of its functions: obfuscated (garble), or \
         cut out"
    )]
    NoTable,
}

/// A header, checked against the size of what it heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: Format,
    /// How many functions there are.
    pub(super) functions: u64,
    /// The address that functions are counted from, if it is told.
    pub(super) text: Option<u64>,
    /// Offsets in the table: of the names, …
    pub(super) names: u64,
    /// … the file numbers by compilation unit, …
    pub(super) units: u64,
    /// … the file names, …
    pub(super) files: u64,
    /// … the tables of values by address, …
    pub(super) values: u64,
    /// … the list of functions, and their records.
    pub(super) records: u64,
}

impl Header {
    /// Reads a header; `size` bytes are there of the whole table.
    pub(super) fn read(bytes: &[u8], size: u64) -> Result<Self, Unreadable> {
        let (start, rest) =
            bytes.split_first_chunk::<8>().ok_or(Unreadable::Short("it has no header"))?;
        let [a, b, c, d, zero1, zero2, unit, pointer] = *start;
        let magic = u32::from_le_bytes([a, b, c, d]);
        let format = match Format::of(magic) {
            Some(format) => format,
            None if magic == 0xffff_fffb => return Err(Unreadable::Old),
            None => return Err(Unreadable::Magic(magic)),
        };
        if (zero1, zero2) != (0, 0) {
            return Err(contradiction("its header has no zeros where there must be"));
        }
        if (unit, pointer) != (1, 8) {
            return Err(Unreadable::Machine { unit, pointer });
        }
        let mut words = rest.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().ok_or(Unreadable::Short("its header is not whole"));
        let (functions, _files) = (word()?, word()?);
        let text = match format {
            Format::Go116 => Some(0),
            Format::Go118 | Format::Go120 => Some(word()?).filter(|text| *text != 0),
        };
        let this = Self {
            format,
            functions,
            text,
            names: word()?,
            units: word()?,
            files: word()?,
            values: word()?,
            records: word()?,
        };
        this.check(size)?;
        Ok(this)
    }

    /// The linker writes the parts one after another, in this order.
    fn check(&self, size: u64) -> Result<(), Unreadable> {
        let parts = [self.names, self.units, self.files, self.values, self.records];
        if self.names == 0 || !parts.is_sorted() {
            return Err(contradiction("the parts that its header names are not in their order"));
        }
        if self.records > size {
            return Err(Unreadable::Short("its list of functions lies beyond its end"));
        }
        let list =
            self.functions.checked_mul(self.entry()).and_then(|n| n.checked_add(self.word()));
        if self.functions == 0 || list.is_none_or(|list| list > size - self.records) {
            return Err(contradiction(format!(
                "there is no room for the {} functions that its header counts",
                self.functions
            )));
        }
        Ok(())
    }

    /// The size of an address in the list of functions.
    pub(super) const fn word(&self) -> u64 {
        match self.format {
            Format::Go116 => 8,
            Format::Go118 | Format::Go120 => 4,
        }
    }

    /// The size of an entry: an address and where the function's record is.
    pub(super) const fn entry(&self) -> u64 {
        2 * self.word()
    }
}

pub(super) fn contradiction(what: impl Into<String>) -> Unreadable {
    Unreadable::Contradiction(what.into())
}
