//! `qprof replay`: a recording through the same stages, with the same result every time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::outputs::{OutSettings, Outputs, Sent, nanoseconds};
use super::pipeline::Pipeline;
use super::{Ended, EndedBy, report, run};
use crate::model::{MonoNs, Rules, ThreadNames};
use crate::recording::{Chunk, Reader, RecordingError};
use crate::stitch::{IdSource, Limits, Stitcher};
use crate::ui::RunReport;

/// The seed of ids: the same recording gives the same ids.
const SEED: u64 = 0;

/// The names of the threads. A name is read, and so recorded, after the first events of its thread:
/// they are gathered before anything is replayed.
fn thread_names(path: &Path) -> Result<ThreadNames, RecordingError> {
    let (_, chunks) = Reader::open(path)?;
    let names = chunks.map_while(Result::ok).filter_map(|chunk| match chunk {
        Chunk::Thread(tid, name) => Some((tid, Arc::from(name))),
        _ => None,
    });
    Ok(names.collect())
}

/// Sends a recording through the pipeline.
///
/// A recording that was cut short or is damaged gives what comes before the damage; that is told.
///
/// # Errors
///
/// If the file is no recording, or what is to come out has no way out.
pub fn replay(path: &Path, settings: &OutSettings) -> anyhow::Result<Ended> {
    let runtime = run::runtime()?;
    let (header, chunks) = Reader::open(path)?;
    let mut outputs = Outputs::open(settings, false, &runtime)?;
    outputs.resources.fall_back_on(&header.service);
    let limits = Limits { grace: nanoseconds(settings.grace), ..Limits::default() };
    let mut rules = Rules::default();
    let mut pipeline = Pipeline::new(Stitcher::new(rules.clone(), limits, IdSource::new(SEED)));
    let (mut clock, threads) = (header.clock, thread_names(path)?);
    let mut kernel = Vec::new();
    let mut first = None;
    let mut ended_by = EndedBy::Recording;
    for chunk in chunks {
        match chunk {
            Ok(Chunk::Event(raw)) => {
                let _of_processes = pipeline.event(&raw, None, |_| {}, |_| false);
                first = first.or((pipeline.last != MonoNs(0)).then_some(pipeline.last));
                pipeline.stitcher.tick(pipeline.last);
            }
            Ok(Chunk::Clock(_, offset)) => clock = offset,
            Ok(Chunk::Thread(..)) => {}
            Ok(Chunk::Rules(more)) => {
                pipeline.stitcher.grow(more.clone());
                rules = more;
            }
            Ok(Chunk::Kernel(counts)) => kernel = counts,
            Ok(Chunk::LastCalls) => pipeline.stitcher.refuse_new_traces(),
            Err(error @ (RecordingError::CutShort { .. } | RecordingError::Damaged { .. })) => {
                tracing::warn!("{error}");
            }
            Err(error) => return Err(error.into()),
        }
        for trace in pipeline.stitcher.take_completed() {
            if !outputs.take(trace, &rules, clock, &threads) {
                ended_by = EndedBy::NoReader;
            }
        }
        if ended_by == EndedBy::NoReader {
            break;
        }
    }
    pipeline.stitcher.finish(pipeline.last);
    for trace in pipeline.stitcher.take_completed() {
        outputs.take(trace, &rules, clock, &threads);
    }
    let stitch = pipeline.stitcher.stats().clone();
    let Sent { summary, otlp, file, summary_file, stdout_error } = outputs.close(&runtime);
    let report = RunReport {
        target: format!("{} (pid {}), recorded in {}", header.name, header.pid, path.display()),
        map: rules.map.clone(),
        attach: None,
        observed: Duration::from_nanos(pipeline.last.since(first.unwrap_or(pipeline.last))),
        summary,
        lost: stitch.lost,
        orphans: stitch.orphans,
        stitch: report::stitch_rows(&stitch, pipeline.undecodable),
        kernel,
        landings: Vec::new(),
        otlp,
        file,
        probes: Vec::new(),
        cost: None,
        threads,
    };
    report::print(&report, settings.print, settings.style, summary_file, stdout_error)?;
    Ok(Ended { by: ended_by, unsent: report::unsent(&report), code: None })
}
