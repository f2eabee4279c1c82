//! What is known of the target, as the resource of its traces.

use std::time::Duration;

use super::Prepared;
use crate::model::WallNs;
use crate::sink::ResourceFacts;
use crate::symbols::build_id;
use crate::target::{ProcessFacts, TargetError, process};

/// The facts of a live target.
pub(super) fn of(prepared: &Prepared) -> Result<ResourceFacts, TargetError> {
    let Prepared { target, map, .. } = prepared;
    let ProcessFacts {
        pid,
        parent_pid: _,
        executable_name,
        executable_path,
        command_args,
        creation_time,
        owner,
        cgroup: _,
        container_id,
        host_name,
        host_arch,
    } = process::facts(target.pid)?;
    let executable = target.objects.first();
    Ok(ResourceFacts {
        service_name: map.system.clone(),
        pid: Some(pid.0),
        executable_name: Some(executable_name),
        executable_path: executable_path.map(|path| path.display().to_string()),
        command_line: (!command_args.is_empty()).then(|| command_args.join(" ")),
        build_id: executable
            .and_then(|object| build_id(&object.open_path))
            .map(|id| id.to_string()),
        owner,
        creation_time: Some(iso_8601(creation_time)),
        host_name,
        host_arch: Some(host_arch.to_owned()),
        container_id,
    })
}

/// `2026-11-21T03:00:00.250Z`. Civil date from days: Howard Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`.
fn iso_8601(time: WallNs) -> String {
    let since_epoch = Duration::from_nanos(time.0);
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_iso_8601() {
        let at = |seconds: u64| iso_8601(WallNs(seconds * 1_000_000_000));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_230_245), "2026-11-21T03:04:05.000Z");
        assert_eq!(iso_8601(WallNs(1_250_000_000)), "1970-01-01T00:00:01.250Z");
    }
}
