//! Writing a recording.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::format::{
    CLOCK, END, EVENT, Header, KERNEL, LAST_CALLS, MAGIC, RULES, RecordingError, THREAD, VERSION,
};
use crate::model::{ClockOffset, MonoNs, Rules, Tid};

/// A recording being written. Without [`Self::finish`] it is one that was cut short.
#[derive(Debug)]
pub struct Writer {
    out: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    /// Creates the file, or empties it, and writes the header.
    ///
    /// # Errors
    ///
    /// If it cannot be created or written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, RecordingError> {
        let error = |source| RecordingError::Write { path: path.to_owned(), source };
        let json = serde_json::to_vec(header).map_err(|e| error(e.into()))?;
        let mut out = BufWriter::with_capacity(1 << 16, File::create(path).map_err(error)?);
        let length = u32::try_from(json.len()).map_err(|e| error(io::Error::other(e)))?;
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend(length.to_le_bytes());
        head.extend(json);
        out.write_all(&head).map_err(error)?;
        Ok(Self { out, path: path.to_owned() })
    }

    /// Keeps an event, as the kernel wrote it.
    ///
    /// # Errors
    ///
    /// If it cannot be written; so for all that follow.
    pub fn event(&mut self, raw: &[u8]) -> Result<(), RecordingError> {
        self.chunk(EVENT, &[raw])
    }

    /// Keeps a measurement of the clock.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn clock(&mut self, now: MonoNs, offset: ClockOffset) -> Result<(), RecordingError> {
        self.chunk(CLOCK, &[&now.0.to_le_bytes(), &offset.0.to_le_bytes()])
    }

    /// Keeps a thread's name.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn thread(&mut self, tid: Tid, name: &str) -> Result<(), RecordingError> {
        self.chunk(THREAD, &[&tid.0.to_le_bytes(), name.as_bytes()])
    }

    /// Keeps what the kernel side has counted.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn kernel(&mut self, counts: &[(String, u64)]) -> Result<(), RecordingError> {
        let json = serde_json::to_vec(counts).map_err(|error| self.error(error.into()))?;
        self.chunk(KERNEL, &[&json])
    }

    /// Keeps the rules, which more has been added to.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn rules(&mut self, rules: &Rules) -> Result<(), RecordingError> {
        let json = serde_json::to_vec(rules).map_err(|error| self.error(error.into()))?;
        self.chunk(RULES, &[&json])
    }

    /// Says that no new query is taken from here on.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn last_calls(&mut self) -> Result<(), RecordingError> {
        self.chunk(LAST_CALLS, &[])
    }

    /// Says that this is all, and writes it out.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), RecordingError> {
        self.chunk(END, &[])?;
        self.out.flush().map_err(|error| self.error(error))
    }

    fn chunk(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), RecordingError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length)
            .map_err(|error| self.error(io::Error::other(error)))?
            .to_le_bytes();
        let head: [&[u8]; 2] = [&[kind], &length];
        for part in head.iter().chain(parts) {
            self.out.write_all(part).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    fn error(&self, source: io::Error) -> RecordingError {
        RecordingError::Write { path: self.path.clone(), source }
    }
}
