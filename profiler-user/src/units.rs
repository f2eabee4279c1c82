//! Durations, sizes and shares as people type them: `5ms`, `100us`, `30s`, `8MiB`, `0.1`.

use std::time::Duration;

/// Parses a duration with its unit: `ns`, `us` (or `µs`), `ms`, `s`, `m`, `h`.
///
/// # Errors
/// A number or a unit that is not one, or a duration beyond a century.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds_per_unit = match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => return Err(format!("`{text}` has no unit: write {text}ms or {text}s")),
        _ => return Err(format!("`{unit}` is not a unit of time: use ns, us, ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|error| format!("`{number}`: {error}: write for example 5ms"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .ok()
        .filter(|duration| duration.as_secs() < 100 * 366 * 86_400)
        .ok_or_else(|| format!("`{text}` is not a duration that can be waited for"))
}

/// Parses a size in bytes with its unit: none or `B`, `KiB`/`K`, `MiB`/`M`, `GiB`/`G`.
///
/// # Errors
/// A number or a unit that is not one, or more than 4 GiB.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    let (number, unit) = split(text);
    let bytes_per_unit: u64 = match unit {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is not a unit of size: use KiB, MiB or GiB")),
    };
    let number: u64 =
        number.parse().map_err(|error| format!("`{number}`: {error}: write for example 8MiB"))?;
    number
        .checked_mul(bytes_per_unit)
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or_else(|| format!("`{text}` is too large: at most 4095MiB"))
}

/// Parses a number of things, at least one.
///
/// # Errors
/// A number that is not one.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    let number =
        text.parse().map_err(|error| format!("`{text}`: {error}: write for example 256"))?;
    if number == 0 { Err("at least 1 is needed".to_owned()) } else { Ok(number) }
}

/// Parses a number a second: `1200`, `1e6`, `500k`, `2M`.
///
/// # Errors
/// Anything that is no number, or below 0, or beyond what any machine does.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let units = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9)];
    let unit = units.iter().find_map(|(unit, times)| Some((text.strip_suffix(unit)?, *times)));
    let (number, times) = unit.unwrap_or((text, 1.0));
    let rate = number.parse::<f64>().ok().map(|number| number * times);
    rate.filter(|rate| (0.0..=1e12).contains(rate)).ok_or_else(|| {
        format!("`{text}` is no number of calls a second: write for example 1200, 500k or 1e6")
    })
}

/// Parses a share of a whole: a number from 0 to 1.
///
/// # Errors
/// Anything else.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is no share: write a number from 0 to 1, such as 0.1"))
}

/// What the probes of a run may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Whatever they cost.
    Off,
    /// This share of the CPU time the target may use; 1 is all of it.
    Share(f64),
}

impl Budget {
    /// Unless something else is said: 2 %.
    pub const DEFAULT: Self = Self::Share(0.02);

    /// The share; none if it is unlimited.
    #[must_use]
    pub const fn share(self) -> Option<f64> {
        match self {
            Self::Off => None,
            Self::Share(share) => Some(share),
        }
    }
}

/// Parses a budget: a share in percent, or `off`.
///
/// # Errors
/// Anything else, and shares that are not above 0 and at most 100 %.
pub(crate) fn budget(text: &str) -> Result<Budget, String> {
    if text.trim() == "off" {
        return Ok(Budget::Off);
    }
    let percent = text.trim().strip_suffix('%').map(str::trim).ok_or_else(|| {
        format!("`{text}` is no budget: write a share of the target's CPU time such as 2%, or off")
    })?;
    percent
        .parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .map(|percent: f64| Budget::Share(percent / 100.0))
        .ok_or_else(|| format!("`{text}` is no budget: it is above 0% and at most 100%, or off"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_number() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert!(duration("5").is_err_and(|e| e.contains("no unit")));
        assert!(duration("5parsec").is_err_and(|e| e.contains("parsec")));
        assert!(duration("ms").is_err());
        assert!(duration("-1s").is_err());
        assert!(duration("99999999999h").is_err());
    }

    #[test]
    fn budgets_are_percent_or_off() {
        assert_eq!(budget("2%"), Ok(Budget::DEFAULT));
        assert_eq!(budget("0.5 %"), Ok(Budget::Share(0.005)));
        assert_eq!(budget("off"), Ok(Budget::Off));
        assert_eq!((Budget::Off.share(), Budget::DEFAULT.share()), (None, Some(0.02)));
        for wrong in ["2", "0%", "-1%", "101%", "NaN%", "%", "", "none"] {
            assert!(budget(wrong).is_err_and(|error| error.contains(wrong)), "{wrong}");
        }
    }

    #[test]
    fn shares_are_from_0_to_1() {
        assert_eq!(share("0.1"), Ok(0.1));
        assert_eq!(share("1"), Ok(1.0));
        for wrong in ["1.1", "-0.1", "10%", "NaN", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_plain_numbers_or_short_for_them() {
        for (text, expected) in [("1200", 1200.0), ("1e6", 1e6), ("500k", 5e5), ("1.5M", 1.5e6)] {
            assert!(rate(text).is_ok_and(|rate| (rate - expected).abs() < 1e-6), "{text}");
        }
        for wrong in ["", "k", "-1", "NaN", "inf", "1e40", "fast", "1kk", "10%"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_whole_bytes() {
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("8MB").is_err());
        assert!(size("5000GiB").is_err());
    }
}
