//! Sizes, as people write them.

use std::fmt;

/// Units and their bytes; the binary ones first, as those are what [`ByteSize`] prints.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A number of bytes; prints as `226.0 KiB`, and parses what a person would write: `1 KiB`, `20MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Sizes from one bound to the other, both included, in bytes of the NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeRange {
    text: String,
    min: u64,
    max: u64,
}

/// Why a text is no size or no comparison of sizes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    /// No comparison stands in front; guessing one would decide wrongly one time in two.
    #[error("`{0}` does not say how to compare: write \">= {0}\", \"<= {0}\", \"> {0}\", \"< {0}\" or \"= {0}\"")]
    NoComparison(String),
    /// Not a number and a unit.
    #[error(
        "`{0}` is no size: expected a whole number and a unit, such as \">= 1 KiB\", \"< 20 MB\" or \"1 KiB..1 GiB\""
    )]
    NoNumber(String),
    /// A bare number: bytes to some, mebibytes to others.
    #[error("`{0}` has no unit: write `{0} B`, or one of KiB, MiB, GiB, TiB, kB, MB, GB, TB")]
    NoUnit(String),
    /// A unit that nobody knows.
    #[error("`{0}` is no unit: use one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB")]
    BadUnit(String),
    /// More than 64 bits of bytes.
    #[error("`{0}` is more than any path can have")]
    TooLarge(String),
    /// No number is in it.
    #[error("no size is `{0}`, so the rule would never match")]
    Empty(String),
}

impl ByteSize {
    /// Takes a whole number and a unit.
    ///
    /// # Errors
    /// [`BadSize`], but not [`BadSize::NoComparison`] or [`BadSize::Empty`].
    pub fn parse(text: &str) -> Result<Self, BadSize> {
        let text = text.trim();
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = (&text[..digits_end], text[digits_end..].trim_start());
        if digits.is_empty() || unit.starts_with(|c: char| !c.is_ascii_alphabetic()) {
            return Err(BadSize::NoNumber(text.to_owned()));
        }
        if unit.is_empty() {
            return Err(BadSize::NoUnit(text.to_owned()));
        }
        let factor = Self::unit(unit).ok_or_else(|| BadSize::BadUnit(unit.to_owned()))?;
        let too_large = || BadSize::TooLarge(text.to_owned());
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(factor).map(Self).ok_or_else(too_large)
    }

    /// The bytes of a unit, written in upper or lower case.
    #[must_use]
    pub fn unit(name: &str) -> Option<u64> {
        UNITS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, bytes)| *bytes)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS[..5].iter().rev().find(|(_, factor)| self.0 >= *factor).copied().unwrap_or(UNITS[0]);
        if factor == 1 {
            return write!(f, "{} B", self.0);
        }
        write!(f, "{:.1} {unit}", self.0 as f64 / factor as f64)
    }
}

impl SizeRange {
    /// Takes a comparison (`>= 1 KiB`, `> …`, `<= …`, `< …`, `= …`) or a range with both ends included
    /// (`1 KiB..1 GiB`).
    ///
    /// # Errors
    /// [`BadSize`].
    pub fn parse(text: &str) -> Result<Self, BadSize> {
        let trimmed = text.trim();
        let empty = || BadSize::Empty(trimmed.to_owned());
        let bytes = |text: &str| match ByteSize::parse(text) {
            // What is left over behind a comparison is nothing that anybody wrote.
            Err(BadSize::NoNumber(_)) => Err(BadSize::NoNumber(trimmed.to_owned())),
            parsed => parsed.map(|size| size.0),
        };
        let (min, max) = if let Some((low, high)) = trimmed.split_once("..") {
            (bytes(low)?, bytes(high)?)
        } else if let Some(rest) = trimmed.strip_prefix(">=") {
            (bytes(rest)?, u64::MAX)
        } else if let Some(rest) = trimmed.strip_prefix("<=") {
            (0, bytes(rest)?)
        } else if let Some(rest) = trimmed.strip_prefix('>') {
            (bytes(rest)?.checked_add(1).ok_or_else(empty)?, u64::MAX)
        } else if let Some(rest) = trimmed.strip_prefix('<') {
            (0, bytes(rest)?.checked_sub(1).ok_or_else(empty)?)
        } else if let Some(rest) = trimmed.strip_prefix('=') {
            let exact = bytes(rest)?;
            (exact, exact)
        } else {
            bytes(trimmed)?;
            return Err(BadSize::NoComparison(trimmed.to_owned()));
        };
        if min > max {
            return Err(empty());
        }
        Ok(Self { text: trimmed.to_owned(), min, max })
    }

    /// Whether a NAR of so many bytes is in it.
    #[must_use]
    pub fn contains(&self, bytes: u64) -> bool {
        (self.min..=self.max).contains(&bytes)
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_include_what_they_say() {
        let kib = 1024;
        for (text, inside, outside) in [
            (">= 1 KiB", vec![kib, kib + 1, u64::MAX], vec![0, kib - 1]),
            (">1KiB", vec![kib + 1], vec![kib]),
            ("<= 1 kib", vec![0, kib], vec![kib + 1]),
            ("< 1 KiB", vec![0, kib - 1], vec![kib]),
            ("= 1000 B", vec![1000], vec![999, 1001]),
            (" 1 kB .. 1 KiB ", vec![1000, kib], vec![999, kib + 1]),
        ] {
            let range = SizeRange::parse(text).expect(text);
            assert!(inside.iter().all(|bytes| range.contains(*bytes)), "{text}");
            assert!(!outside.iter().any(|bytes| range.contains(*bytes)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_to_write() {
        for (text, message) in [
            (
                "1 KiB",
                "`1 KiB` does not say how to compare: write \">= 1 KiB\", \"<= 1 KiB\", \"> 1 KiB\", \"< 1 KiB\" or \"= 1 KiB\"",
            ),
            (">= 100", "`100` has no unit: write `100 B`, or one of KiB, MiB, GiB, TiB, kB, MB, GB, TB"),
            (">= 1 KiBs", "`KiBs` is no unit: use one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"),
            (
                "big",
                "`big` is no size: expected a whole number and a unit, such as \">= 1 KiB\", \"< 20 MB\" or \"1 KiB..1 GiB\"",
            ),
            (
                ">> 5 KB",
                "`>> 5 KB` is no size: expected a whole number and a unit, such as \">= 1 KiB\", \"< 20 MB\" or \"1 KiB..1 GiB\"",
            ),
            (
                "> 1.5 MiB",
                "`> 1.5 MiB` is no size: expected a whole number and a unit, such as \">= 1 KiB\", \"< 20 MB\" or \"1 KiB..1 GiB\"",
            ),
            (">= 99999999 TiB", "`99999999 TiB` is more than any path can have"),
            ("< 0 B", "no size is `< 0 B`, so the rule would never match"),
            ("2 KiB..1 KiB", "no size is `2 KiB..1 KiB`, so the rule would never match"),
        ] {
            assert_eq!(SizeRange::parse(text).expect_err(text).to_string(), message);
        }
    }

    #[test]
    fn sizes_print_in_binary_units() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (3 << 50, "3072.0 TiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
