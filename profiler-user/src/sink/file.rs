//! Traces as OTLP JSON lines: one `ExportTraceServiceRequest` a line, as the collector's file
//! exporter writes and its file receiver and Jaeger's upload read.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::batch::ExportStats;
use super::encode::{Outgoing, request};

/// The file cannot be written.
#[derive(Debug, Error)]
#[error("cannot write `{path}` (choose another file with -o)", path = path.display())]
pub struct FileSinkError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Writes traces to a file or another writer.
pub struct FileSink {
    out: Box<dyn Write + Send>,
    name: String,
    batch: usize,
    waiting: Vec<Outgoing>,
    stats: ExportStats,
    /// A write failed in the middle of a line.
    torn: bool,
    closed: bool,
}

impl FileSink {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn create(path: &Path, batch: usize) -> Result<Self, FileSinkError> {
        let file =
            File::create(path).map_err(|source| FileSinkError { path: path.to_owned(), source })?;
        Ok(Self::new(Box::new(file), path.display().to_string(), batch))
    }

    /// Writes to `out`, called `name` in messages. A line has `batch` spans, or a whole trace
    /// where that is more; with `batch` 1 every trace is a line of its own, written at once.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, name: String, batch: usize) -> Self {
        let (waiting, stats) = (Vec::new(), ExportStats::default());
        Self { out, name, batch, waiting, stats, torn: false, closed: false }
    }

    /// Takes the spans of one trace.
    pub fn send(&mut self, spans: Vec<Outgoing>) {
        self.waiting.extend(spans);
        if self.waiting.len() >= self.batch {
            self.flush();
        }
    }

    /// Writes what is waiting. Call it now and then: a reader of a pipe wants traces, not batches.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let spans = std::mem::take(&mut self.waiting);
        let count = spans.len() as u64;
        match self.write(spans) {
            Ok(()) => self.stats.sent += count,
            Err(error) => {
                self.torn = true;
                self.closed = error.kind() == io::ErrorKind::BrokenPipe;
                if self.stats.failed == 0 && !self.closed {
                    tracing::warn!("cannot write {}: {error}; traces are lost there", self.name);
                }
                self.stats.failed += count;
                self.stats.last_error = Some(error.to_string());
            }
        }
    }

    /// What became of the spans so far.
    #[must_use]
    pub const fn stats(&self) -> &ExportStats {
        &self.stats
    }

    /// Whether the reader of a pipe has gone: no reason to go on, and none to complain.
    #[must_use]
    pub const fn closed(&self) -> bool {
        self.closed
    }

    /// Writes the rest.
    #[must_use]
    pub fn finish(mut self) -> ExportStats {
        self.flush();
        self.stats
    }

    fn write(&mut self, spans: Vec<Outgoing>) -> io::Result<()> {
        // A line in one piece: its reader gets whole ones. A torn one is kept from the next.
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, &request(spans))?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()?;
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
