//! What is known of this kernel, from measuring or from an earlier time.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cache::{Cache, CacheError};
use super::forms::{Calibration, FormResult, Scope, Tried, Verdict, kernel_forms, measure};
use crate::attach::check_rights;
use crate::plan::Kernel;

/// What was measured of this kernel on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Every form of instruction that was tried.
    pub forms: Vec<FormResult>,
    /// Whether a link that filters by process sees all threads of it (not before kernel 6.10).
    pub pid_filter: Verdict,
    /// What hits cost; none if it was not measured.
    pub calibration: Option<Calibration>,
    /// How long it took, milliseconds.
    pub took_ms: f64,
}

impl Default for Measured {
    /// Nothing was measured.
    fn default() -> Self {
        let pid_filter = Verdict::Unknown { why: "nothing was measured".to_owned() };
        Self { forms: Vec::new(), pid_filter, calibration: None, took_ms: 0.0 }
    }
}

impl Measured {
    /// As plans want it.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        let costs = self.calibration.as_ref().and_then(Calibration::costs).unwrap_or_default();
        let link_filter = !self.pid_filter.is_against();
        Kernel { forms: kernel_forms(&self.forms), costs, link_filter }
    }

    /// Whether it was measured at leisure: what `run` has tried on its way is not all there is.
    fn is_whole(&self) -> bool {
        self.calibration.as_ref().is_some_and(|calibration| !calibration.quick)
    }

    /// Whether everything that was to be tried could be: nothing else is kept.
    fn is_certain(&self) -> bool {
        let unknown = |verdict: &Verdict| matches!(verdict, Verdict::Unknown { .. });
        !unknown(&self.pid_filter) && !self.forms.iter().any(|result| unknown(&result.verdict))
    }
}

/// What is known, and how.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Knowledge {
    /// Measured just now.
    Measured {
        /// What.
        #[serde(flatten)]
        measured: Measured,
        /// What went wrong besides, if anything did.
        problems: Vec<String>,
    },
    /// Measured since this machine was started.
    Known {
        /// What.
        #[serde(flatten)]
        measured: Measured,
    },
    /// It could not be measured.
    Failed {
        /// Why.
        why: String,
    },
}

impl Knowledge {
    /// What is known; none if nothing is.
    #[must_use]
    pub const fn measured(&self) -> Option<&Measured> {
        match self {
            Self::Measured { measured, .. } | Self::Known { measured } => Some(measured),
            Self::Failed { .. } => None,
        }
    }
}

/// What was measured since this machine was started, for plans; else what is assumed of a kernel of
/// which nothing is known. Measures nothing: for whoever attaches nothing.
#[must_use]
pub fn known_kernel() -> Kernel {
    match Cache::here().read() {
        Ok(measured) => told(&measured),
        Err(error) => {
            tell(&error);
            Kernel::default()
        }
    }
}

/// The same for whoever is about to attach: where nothing is known yet, the forms that plans may use
/// are tried first, and timed quickly. That takes a few tenths of a second, once a boot.
#[must_use]
pub fn tried_kernel() -> Kernel {
    let cache = Cache::here();
    match cache.read() {
        Ok(measured) if measured.calibration.is_some() => return told(&measured),
        Ok(_) => {}
        Err(error) => tell(&error),
    }
    // Whoever may not attach is told so elsewhere.
    if check_rights().is_err() {
        return Kernel::default();
    }
    match try_out(Scope::Used) {
        Ok((measured, problems)) => {
            for problem in problems {
                tracing::debug!("{problem}");
            }
            if measured.is_certain()
                && let Err(error) = cache.write(&measured)
            {
                tracing::debug!("what this kernel can do is not kept: {error}");
            }
            told(&measured)
        }
        Err(why) => {
            tracing::debug!("what this kernel can do is not known: {why}");
            Kernel::default()
        }
    }
}

fn tell(error: &CacheError) {
    if error.is_odd() {
        tracing::warn!("{error}; `qprof doctor` measures again");
    }
}

/// What fails is not used, and said.
fn told(measured: &Measured) -> Kernel {
    let kernel = measured.kernel();
    for failed in measured.forms.iter().filter(|form| form.kind.is_some() && !form.used) {
        if failed.verdict.is_against() {
            let (name, words) = (&failed.name, failed.verdict.words());
            tracing::warn!("this kernel mishandles a probe on `{name}` ({words}): not used");
        }
    }
    if !kernel.link_filter {
        // Known of kernels before 6.10, and done without: no reason to warn.
        let words = measured.pid_filter.words();
        tracing::debug!("this kernel's filter by process is not used: {words}");
    }
    kernel
}

/// What is known already, unless it is to be measured `again`; or else measures it and keeps it.
pub(super) fn knowledge(again: bool) -> Knowledge {
    let cache = Cache::here();
    let mut all = Vec::new();
    match cache.read() {
        Ok(measured) if !again && measured.is_whole() => return Knowledge::Known { measured },
        Err(error) if error.is_odd() => all.push(error.to_string()),
        Ok(_) | Err(_) => {}
    }
    let (measured, problems) = match try_out(Scope::Whole) {
        Ok(measured) => measured,
        Err(why) => return Knowledge::Failed { why },
    };
    all.extend(problems);
    if !measured.is_certain() || measured.calibration.is_none() {
        all.push("not everything could be tried, so nothing is kept".to_owned());
    } else if let Err(error) = cache.write(&measured) {
        all.push(format!("not kept, so it is measured every time: {error}"));
    }
    Knowledge::Measured { measured, problems: all }
}

fn try_out(scope: Scope) -> Result<(Measured, Vec<String>), String> {
    let begun = Instant::now();
    let Tried { forms, pid_filter, calibration } =
        measure(scope).map_err(|error| error.to_string())?;
    let mut problems = Vec::new();
    let calibration =
        calibration.map_err(|why| problems.push(format!("not calibrated: {why}"))).ok();
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    Ok((Measured { forms, pid_filter, calibration, took_ms }, problems))
}
