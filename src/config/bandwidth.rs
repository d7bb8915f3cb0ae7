//! Bandwidths, as people write them: bytes or bits a second.

use crate::limit::{Bandwidth, Rate};
use crate::policy::ByteSize;

/// Units of bits, and the bits of each.
const BITS: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];

/// What others leave, in one word.
pub const BACKGROUND: &str = "background";

/// With less (bytes a second) a path of some MiB would take hours, and servers give up on the first one.
const LEAST: u64 = 1_000;

/// Why a text is no bandwidth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBandwidth {
    /// Not a number and a unit.
    #[error(
        "`{0}` is no bandwidth: write a whole number and a unit a second, such as 20 MiB/s or 100 Mbit/s, or `background`"
    )]
    NoNumber(String),
    /// Less than nothing.
    #[error("`{0}` is less than nothing: write a bandwidth such as 20 MiB/s")]
    Negative(String),
    /// A bare number: bytes to some, megabits to others.
    #[error(
        "`{0}` has no unit: write `{0} MiB/s`, or one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, Mbit, Gbit a second"
    )]
    NoUnit(String),
    /// A size.
    #[error("`{0}` doesn't say in which time: write `{0}/s` for so much a second")]
    NoTime(String),
    /// Bits or bytes: eight times as much, or an eighth.
    #[error("`{written}` can mean bits and bytes: write `{bits}` or `{bytes}`")]
    BitsOrBytes {
        /// What was written.
        written: String,
        /// As bits.
        bits: String,
        /// As bytes.
        bytes: String,
    },
    /// A unit that nobody knows.
    #[error(
        "`{0}` is no unit of bandwidth: use one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, Mbit, Gbit, each with `/s`"
    )]
    BadUnit(String),
    /// More than 64 bits of bytes.
    #[error("`{0}` is more than any line carries")]
    TooLarge(String),
    /// Nothing would ever get through.
    #[error("`{0}` is too little to upload anything: write at least 1 kB/s")]
    TooLittle(String),
}

/// Takes a whole number and a unit a second: `20 MiB/s`, `100 Mbit/s`; or `background`, for what others leave. A plain `0` is
/// nothing at all.
///
/// # Errors
/// [`BadBandwidth`].
pub fn parse_bandwidth(text: &str) -> Result<Bandwidth, BadBandwidth> {
    let text = text.trim();
    if text == BACKGROUND {
        return Ok(Bandwidth::Background);
    }
    let written = || text.to_owned();
    if text.starts_with('-') {
        return Err(BadBandwidth::Negative(written()));
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = (&text[..digits_end], text[digits_end..].trim());
    if digits.is_empty() || unit.starts_with(|c: char| !c.is_ascii_alphabetic()) {
        return Err(BadBandwidth::NoNumber(written()));
    }
    let number: u64 = digits.parse().map_err(|_| BadBandwidth::TooLarge(written()))?;
    let (unit, a_second) = match unit.split_once('/') {
        Some((unit, time)) if time.trim().eq_ignore_ascii_case("s") => (unit.trim(), true),
        Some(_) => return Err(BadBandwidth::BadUnit(unit.to_owned())),
        None => (unit, false),
    };
    if unit.is_empty() {
        return if number == 0 { Ok(Bandwidth::Nothing) } else { Err(BadBandwidth::NoUnit(written())) };
    }
    let bytes = match (unit.strip_suffix('b'), bits(unit)) {
        (_, Some(factor)) => number.checked_mul(factor).map(|bits| bits / 8),
        (Some(prefix), None) if ByteSize::unit(unit).is_some() => {
            return Err(bits_or_bytes(text, digits, prefix));
        }
        _ => {
            let factor = ByteSize::unit(unit).ok_or_else(|| BadBandwidth::BadUnit(unit.to_owned()))?;
            number.checked_mul(factor)
        }
    };
    if !a_second {
        return Err(BadBandwidth::NoTime(written()));
    }
    let bytes = bytes.ok_or_else(|| BadBandwidth::TooLarge(written()))?;
    match Rate::new(bytes) {
        None if number == 0 => Ok(Bandwidth::Nothing),
        Some(rate) if bytes >= LEAST => Ok(Bandwidth::AtMost(rate)),
        _ => Err(BadBandwidth::TooLittle(written())),
    }
}

fn bits(unit: &str) -> Option<u64> {
    BITS.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

fn bits_or_bytes(written: &str, digits: &str, prefix: &str) -> BadBandwidth {
    let prefix = prefix.trim_end_matches('i');
    let upper = if prefix == "k" { prefix.to_owned() } else { prefix.to_ascii_uppercase() };
    BadBandwidth::BitsOrBytes {
        written: written.to_owned(),
        bits: format!("{digits} {upper}bit/s"),
        bytes: format!("{digits} {upper}B/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_bits_a_second() {
        for (text, bytes) in [
            ("20 MiB/s", 20 << 20),
            ("5MiB/s", 5 << 20),
            ("1 kB / s", 1000),
            (" 2 gb/S ".replace("gb", "GB").as_str(), 2_000_000_000),
            ("100 Mbit/s", 12_500_000),
            ("1 Gbit/s", 125_000_000),
            ("8 kbit/s", 1000),
            ("8000bit/s", 1000),
            ("0", 0),
            ("0 MiB/s", 0),
        ] {
            assert_eq!(parse_bandwidth(text), Ok(Bandwidth::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_what_to_write() {
        for (text, message) in [
            (
                "",
                "`` is no bandwidth: write a whole number and a unit a second, such as 20 MiB/s or 100 Mbit/s, or `background`",
            ),
            (
                "fast",
                "`fast` is no bandwidth: write a whole number and a unit a second, such as 20 MiB/s or 100 Mbit/s, or `background`",
            ),
            (
                "1.5 MiB/s",
                "`1.5 MiB/s` is no bandwidth: write a whole number and a unit a second, such as 20 MiB/s or 100 Mbit/s, or `background`",
            ),
            ("-1 MiB/s", "`-1 MiB/s` is less than nothing: write a bandwidth such as 20 MiB/s"),
            (
                "20",
                "`20` has no unit: write `20 MiB/s`, or one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, Mbit, Gbit a second",
            ),
            ("20 MB", "`20 MB` doesn't say in which time: write `20 MB/s` for so much a second"),
            ("20 Mbit", "`20 Mbit` doesn't say in which time: write `20 Mbit/s` for so much a second"),
            ("20 Mb/s", "`20 Mb/s` can mean bits and bytes: write `20 Mbit/s` or `20 MB/s`"),
            ("20 kb", "`20 kb` can mean bits and bytes: write `20 kbit/s` or `20 kB/s`"),
            (
                "20 Mbps",
                "`Mbps` is no unit of bandwidth: use one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, Mbit, Gbit, each with `/s`",
            ),
            (
                "20 MiB/h",
                "`MiB/h` is no unit of bandwidth: use one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, Mbit, Gbit, each with `/s`",
            ),
            ("99999999999 GiB/s", "`99999999999 GiB/s` is more than any line carries"),
            ("99999999999999999999 B/s", "`99999999999999999999 B/s` is more than any line carries"),
            ("20 B/s", "`20 B/s` is too little to upload anything: write at least 1 kB/s"),
            ("1 bit/s", "`1 bit/s` is too little to upload anything: write at least 1 kB/s"),
        ] {
            assert_eq!(parse_bandwidth(text).expect_err(text).to_string(), message);
        }
    }
}
