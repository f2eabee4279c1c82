//! Where finished traces go: the summary, the terminal, a file, OTLP.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Runtime;

use super::resources::Resources;
use crate::analysis::{Sample, SlowOnly, Summary, fold_short};
pub use crate::config::Print;
use crate::model::{ClockOffset, Rules, ThreadNames, Trace};
use crate::sink::{
    BatchLimits, Context, ExportStats, FileSink, FileSinkError, OtlpConfig, OtlpConfigError,
    OtlpFlags, OtlpSink, OtlpStartError, Outgoing, ResourceError, encode,
};
use crate::ui::{ExportReport, RunReport, TreeStyle, write_json, write_tree};

/// How long the last traces may take to be exported after the run.
const FLUSH: Duration = Duration::from_secs(10);

/// What the user wants to come out, and where.
#[derive(Clone, Debug)]
pub struct OutSettings {
    /// OTLP, as flags and file say; the environment may add to it.
    pub otlp: OtlpFlags,
    /// A file of OTLP JSON lines.
    pub file: Option<PathBuf>,
    /// What to print.
    pub print: Print,
    /// How to print it.
    pub style: TreeStyle,
    /// Keep only traces whose root takes at least this long.
    pub slow: Option<Duration>,
    /// Keep only this share of the traces, from 0 to 1; with `slow`, of the slow ones.
    pub sample: Option<f64>,
    /// Fold spans shorter than this.
    pub min_span: Option<Duration>,
    /// `service.name`, before the environment's.
    pub service: Option<String>,
    /// `service.name`, after the environment's.
    pub service_in_file: Option<String>,
    /// How long a trace may wait for its last span.
    pub grace: Duration,
    /// A file for the final summary as JSON.
    pub summary_json: Option<PathBuf>,
}

/// Why there is no way out for traces.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The export is configured wrongly.
    #[error(transparent)]
    Config(#[from] OtlpConfigError),
    /// The export cannot start.
    #[error(transparent)]
    Start(#[from] OtlpStartError),
    /// The resource attributes in the environment cannot be read.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// The output file cannot be written.
    #[error(transparent)]
    File(#[from] FileSinkError),
    /// Our own stdout cannot be written.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// The summary's file cannot be written.
    #[error("cannot write the summary to `{}` (choose another file with --summary-json)", path.display())]
    SummaryFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The ways out of one run.
pub(super) struct Outputs {
    pub(super) resources: Resources,
    print: Print,
    style: TreeStyle,
    sample: Sample,
    slow: Option<SlowOnly>,
    min_span: u64,
    otlp: Option<(String, OtlpSink)>,
    file: Option<(String, FileSink)>,
    json: Option<FileSink>,
    summary: Summary,
    summary_file: Option<SummaryFile>,
    /// Why stdout could not be written, if that is worth a word.
    stdout_error: Option<io::Error>,
}

/// Where the summary goes as JSON: opened before anything is attached.
pub(super) struct SummaryFile {
    path: PathBuf,
    file: File,
}

impl SummaryFile {
    fn create(path: &Path) -> Result<Self, OutputError> {
        let path = path.to_owned();
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(OutputError::SummaryFile { path, source }),
        }
    }

    pub(super) fn write(self, report: &RunReport) -> Result<(), OutputError> {
        let Self { path, file } = self;
        write_json(file, report).map_err(|source| OutputError::SummaryFile { path, source })
    }
}

/// What went where.
pub(super) struct Sent {
    pub(super) summary: Summary,
    /// None where nothing was to be exported.
    pub(super) otlp: Option<ExportReport>,
    pub(super) file: Option<ExportReport>,
    pub(super) summary_file: Option<SummaryFile>,
    pub(super) stdout_error: Option<io::Error>,
}

impl Outputs {
    /// Opens every way out, so that what cannot work is told before anything is attached.
    pub(super) fn open(
        settings: &OutSettings,
        live: bool,
        runtime: &Runtime,
    ) -> Result<Self, OutputError> {
        let env = |name: &str| std::env::var(name).ok();
        let mut resources = Resources::new(settings.service.clone(), live)?;
        if let Some(service) = &settings.service_in_file {
            resources.insist_on(service);
        }
        let config = OtlpConfig::resolve(&settings.otlp, env)?;
        if config.is_none() && settings.otlp.file.is_some() {
            tracing::warn!(
                "[otlp] of the configuration is switched off by the environment \
                 (OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER): nothing is exported"
            );
        }
        let otlp = match config {
            Some(config) => {
                config.notes.iter().for_each(|note| tracing::warn!("{note}"));
                let to = config.endpoint.clone();
                Some((to, OtlpSink::start(config, runtime.handle())?))
            }
            None => None,
        };
        let batch = BatchLimits::default().batch;
        let file = match &settings.file {
            Some(path) => {
                let file = FileSink::create(path, batch)?;
                Some((path.display().to_string(), file))
            }
            None => None,
        };
        let json = (settings.print == Print::Json)
            .then(|| FileSink::new(Box::new(io::stdout()), "stdout".to_owned(), 1));
        Ok(Self {
            resources,
            print: settings.print,
            style: settings.style,
            sample: Sample::new(settings.sample.unwrap_or(1.0)),
            slow: settings.slow.map(|slow| SlowOnly::new(nanoseconds(slow))),
            min_span: settings.min_span.map_or(0, nanoseconds),
            otlp,
            file,
            json,
            summary: Summary::default(),
            summary_file: settings.summary_json.as_deref().map(SummaryFile::create).transpose()?,
            stdout_error: None,
        })
    }

    /// Counts a trace and, if it is to be kept, sends it everywhere. False when nobody listens any
    /// more: the reader of our stdout has gone.
    pub(super) fn take(
        &mut self,
        trace: Trace,
        rules: &Rules,
        clock: ClockOffset,
        threads: &ThreadNames,
    ) -> bool {
        self.summary.add(&trace);
        if !self.sample.keeps(trace.id) {
            return true;
        }
        if self.slow.as_mut().is_some_and(|slow| !slow.keep(&trace)) {
            return true;
        }
        let trace = fold_short(trace, self.min_span);
        if self.otlp.is_some() || self.file.is_some() || self.json.is_some() {
            let context = Context { rules, clock, threads };
            let mut spans: Vec<Outgoing> = encode(&trace, &context)
                .map(|(pid, span)| Outgoing { resource: self.resources.of(pid), span })
                .collect();
            // Copied for all but the last that wants them.
            let mut copy = |is_last: bool| {
                if is_last { std::mem::take(&mut spans) } else { spans.clone() }
            };
            if let Some((_, otlp)) = &self.otlp {
                otlp.send(copy(self.file.is_none() && self.json.is_none()));
            }
            if let Some((_, file)) = &mut self.file {
                file.send(copy(self.json.is_none()));
            }
            if let Some(json) = &mut self.json {
                json.send(spans);
                return !json.closed();
            }
        }
        if self.print == Print::Tree {
            let mut text = String::new();
            if write_tree(&mut text, &trace, threads, self.style).is_err() {
                tracing::error!("a trace could not be written as text");
            }
            text.push('\n');
            return match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => true,
                Err(error) => {
                    self.stdout_error = worth_a_word(error);
                    false
                }
            };
        }
        true
    }

    pub(super) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Spans that could not be exported so far.
    pub(super) fn export_failures(&self) -> u64 {
        let stats = self.otlp.as_ref().map(|(_, otlp)| otlp.stats()).unwrap_or_default();
        stats.failed + stats.dropped
    }

    /// Writes what waits for its file, so that a reader of it is only a moment behind.
    pub(super) fn flush(&mut self) {
        if let Some((_, file)) = &mut self.file {
            file.flush();
        }
    }

    /// Sends the rest, within a bounded time.
    pub(super) fn close(self, runtime: &Runtime) -> Sent {
        let otlp = self.otlp.map(|(to, otlp)| {
            let stats = runtime.block_on(otlp.shutdown(FLUSH));
            ExportReport { to, stats }
        });
        let mut stdout_error = self.stdout_error;
        if let Some(json) = self.json {
            let closed = json.closed();
            let ExportStats { failed, last_error, .. } = json.finish();
            if failed > 0 && !closed {
                stdout_error = last_error.map(io::Error::other);
            }
        }
        let file = self.file.map(|(to, file)| ExportReport { to, stats: file.finish() });
        Sent { summary: self.summary, otlp, file, summary_file: self.summary_file, stdout_error }
    }
}

/// An error of writing to stdout, unless its reader has merely gone: `qprof … | head`.
pub(super) fn worth_a_word(error: io::Error) -> Option<io::Error> {
    Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// A duration in the unit of events; more than 584 years are as good as 584.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
