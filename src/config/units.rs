//! Durations and sizes, as people write them.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A hundred years. What is longer could not be added to a clock's reading everywhere.
const DURATION_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// `"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`, with decimals if need be; a number alone is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as \"250ms\", \"30s\", \"5m\", \"1h\" or \"7d\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit = if unit.is_empty() { "s" } else { unit };
    let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let duration = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(*factor).map(Duration::from_millis),
        Err(_) => number.parse().ok().and_then(|n: f64| Duration::try_from_secs_f64(n * *factor as f64 / 1_000.0).ok()),
    };
    duration
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| format!("{text:?} is longer than {}", show_duration(DURATION_MAX)))
}

/// `"16 KiB"`, `"1 MB"`, with decimals if need be; a number alone is bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size such as \"512 B\", \"16 KiB\", \"1 MiB\" or \"1 MB\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, factor) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(*factor),
        // A float that is too large becomes the largest integer, and is refused below.
        Err(_) => number.parse().ok().map(|n: f64| (n * *factor as f64).round() as u64),
    };
    bytes
        .filter(|bytes| *bytes < 1 << 53)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("{text:?} is larger than any size here can be"))
}

/// In the largest unit that needs no decimals.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, factor) = DURATIONS
        .iter()
        .rev()
        .find(|(_, factor)| millis > 0 && millis.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&("s", 1_000));
    format!("{}{unit}", millis / u128::from(*factor))
}

/// In the largest binary unit that needs no decimals.
pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}", bytes / factor),
        None => format!("{bytes} B"),
    }
}

/// The number in front, without its underscores, and the unit behind it.
fn split(text: &str) -> Option<(String, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    Some((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("30 s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("1.5s", 1_500),
            ("0.25", 250),
            ("30", 30_000),
            ("0s", 0),
            (" 1_000ms ", 1_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "30x", "-1s", "1.s", ".5s", "1.2.3s", "1h30m", "30S", "1e3s", "inf", "NaN", "٣s"] {
            assert!(parse_duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
        for text in ["36501d", "99999999999999999999d", "18446744073709551615d", &"9".repeat(400)] {
            assert!(parse_duration(text).unwrap_err().contains("longer than 36500d"), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("1 MiB", 1_048_576),
            ("16 KiB", 16_384),
            ("16kib", 16_384),
            ("1 MB", 1_000_000),
            ("1.5 KiB", 1_536),
            ("512", 512),
            ("512 B", 512),
            ("1_000", 1_000),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1 M", "1 XB", "-1", "1 Mi B", "1e3"] {
            assert!(parse_size(text).unwrap_err().contains("is not a size"), "{text}");
        }
        for text in ["99999999999 GiB", "99999999999999999999 B", "99999999999999999999.5 GiB"] {
            assert!(parse_size(text).unwrap_err().contains("larger than"), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for millis in [0, 1, 999, 1_000, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_000, 1 << 10, 3 << 20, 1 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(usize::try_from(bytes).unwrap()));
        }
    }
}
