//! Lengths of time, as people write them.

use std::time::Duration;

/// Units and their seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60), ('w', 7 * 24 * 60 * 60)];

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no length of time; write for example 10s, 90m, 12h, 7d or 4w")]
pub struct BadDuration(pub String);

/// Takes a whole number and a unit: `10s`, `90m`, `12h`, `7d`, `4w`.
///
/// # Errors
/// [`BadDuration`].
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration(text.to_owned());
    let trimmed = text.trim();
    let unit = trimmed.chars().last().ok_or_else(bad)?;
    let (_, seconds) = UNITS.iter().find(|(known, _)| *known == unit).ok_or_else(bad)?;
    let digits =
        trimmed.strip_suffix(unit).map(str::trim_end).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    number.checked_mul(*seconds).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit() {
        for (text, seconds) in
            [("10s", 10), ("90m", 5400), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200), (" 0 s ", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "+1s",
            "1.5h",
            "10 minutes",
            "1ms",
            "ä",
            "99999999999999999999s",
            "9999999999999999w",
        ] {
            assert_eq!(parse_duration(text), Err(BadDuration(text.to_owned())), "{text}");
        }
    }
}
