//! Numbers for people.

use std::borrow::Cow;

/// Nanoseconds with three significant digits: `850 ns` as `0.85 µs`, `1.23 ms`, `12.3 s`.
#[must_use]
pub fn duration(nanos: u64) -> String {
    if nanos == 0 {
        return "0 µs".to_owned();
    }
    let micros = nanos as f64 / 1e3;
    // Whatever would be rounded to 1000 of a unit is 1 of the next.
    let (value, unit) = if micros < 999.5 {
        (micros, "µs")
    } else if micros < 999_500.0 {
        (micros / 1e3, "ms")
    } else {
        (micros / 1e6, "s")
    };
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else if value < 999.5 {
        format!("{value:.0} {unit}")
    } else {
        #[expect(clippy::cast_sign_loss, reason = "a duration is not negative")]
        let whole = value.round() as u64;
        format!("{} {unit}", count(whole))
    }
}

/// A number with its thousands apart: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share: `100%`, `75.7%`, `<0.1%`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent <= 0.0 {
        "0%".to_owned()
    } else if percent < 0.05 {
        "<0.1%".to_owned()
    } else if percent < 99.95 {
        format!("{percent:.1}%")
    } else {
        format!("{percent:.0}%")
    }
}

/// `1 span`, `2 spans`.
pub(super) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Text of a target or a file without what could steer the terminal it is shown on.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let cases = [
            (0, "0 µs"),
            (7, "0.01 µs"),
            (850, "0.85 µs"),
            (1_000, "1.00 µs"),
            (9_994, "9.99 µs"),
            (9_996, "10.0 µs"),
            (41_230, "41.2 µs"),
            (99_960, "100 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (2_140_000, "2.14 ms"),
            (999_600_000, "1.00 s"),
            (61_000_000_000, "61.0 s"),
            (3_600_000_000_000, "3,600 s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(duration(nanos), text, "{nanos}");
        }
        assert!(duration(u64::MAX).ends_with(" s"));
    }

    #[test]
    fn counts_and_shares() {
        let counts = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in counts {
            assert_eq!(count(number), text);
        }
        let shares =
            [(0.0, "0%"), (0.0001, "<0.1%"), (0.0194, "1.9%"), (0.9999, "100%"), (2.5, "250%")];
        for (share, text) in shares {
            assert_eq!(percent(share), text);
        }
        assert_eq!((plural(1, "span"), plural(2, "span")), ("1 span".into(), "2 spans".into()));
    }

    #[test]
    fn what_steers_a_terminal_is_not_shown() {
        assert_eq!(clean("pool\u{1b}[2Jx\n"), "pool\u{fffd}[2Jx\u{fffd}");
        assert_eq!(clean("MILVUS_FUTURE_C"), "MILVUS_FUTURE_C");
    }
}
