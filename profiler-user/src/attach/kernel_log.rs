//! What the kernel side logs, on its way to `tracing`.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use super::AttachError;

/// The reader of the kernel side's log.
pub(super) type KernelLog = EbpfLogger<ToTracing>;

/// Takes the log's ring out of the loaded object.
pub(super) fn open(bpf: &mut Ebpf) -> Result<KernelLog, AttachError> {
    EbpfLogger::init_with_logger(bpf, ToTracing)
        .map_err(|error| AttachError::bpf("read the kernel side's log", error))
}

/// aya-log speaks to the `log` crate; the rest of the program to `tracing`.
pub(super) struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error => tracing::error!(target: "qprof::kernel", "{}", record.args()),
            Level::Warn => tracing::warn!(target: "qprof::kernel", "{}", record.args()),
            _ => tracing::debug!(target: "qprof::kernel", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
