//! What is little room on a disk, as a size or as a share of it, and how much a cache may take of one.

use toml::Spanned;

use crate::config::problems::Problems;
use crate::config::raw::RawDisk;
use crate::disk::{Threshold, Thresholds};
use crate::policy::{BadSize, ByteSize};

/// A larger share (per cent) would mean that a disk which is half empty is full.
const MOST_PERCENT: u8 = 50;

pub(super) fn thresholds(raw: &RawDisk, problems: &mut Problems<'_>) -> Thresholds {
    let default = Thresholds::default();
    let mut given = |key, text: &Option<Spanned<String>>| text.as_ref().and_then(|text| threshold(key, text, problems));
    let (low, critical) = (given("low", &raw.low), given("critical", &raw.critical));
    // Where one is left out, what it is depends on the disk, and `low` counts for no less than `critical` anyway.
    if let (Some(text), Some(low), Some(critical)) = (&raw.low, low, critical)
        && is_above(critical, low)
    {
        problems
            .add(text.span(), "`low` is less than `critical`: a disk is low before it is critical, so give `low` more");
    }
    Thresholds { low: low.unwrap_or(default.low), critical: critical.unwrap_or(default.critical) }
}

/// How much a cache in a directory may have, in bytes.
pub(super) fn max_size(text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<u64> {
    let example = "write for example `50 GiB`";
    let understood = match ByteSize::parse(text.get_ref()) {
        Ok(ByteSize(0)) => Err(format!("a cache of nothing keeps nothing: {example}, or leave it out")),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(BadSize::TooLarge(size)) => Err(format!("`{size}` is more than any disk has: {example}")),
        Err(BadSize::NoUnit(size)) => Err(format!("`{size}` has no unit: {example}")),
        Err(_) => Err(format!("`{}` is no size: {example}", text.get_ref())),
    };
    understood.map_err(|why| problems.add(text.span(), format!("`max_size`: {why}"))).ok()
}

fn threshold(key: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<Threshold> {
    let understood = match text.get_ref().trim().strip_suffix('%') {
        Some(number) => percent(number.trim_end()),
        None => size(text.get_ref()),
    };
    understood.map_err(|why| problems.add(text.span(), format!("`{key}`: {why}"))).ok()
}

fn percent(number: &str) -> Result<Threshold, String> {
    match number.parse::<u8>() {
        Ok(percent) if percent <= MOST_PERCENT => Ok(Threshold::Percent(percent)),
        _ => Err(format!("`{number} %` is no share: write a whole number from 0 % to {MOST_PERCENT} %, or a size")),
    }
}

fn size(text: &str) -> Result<Threshold, String> {
    let text = text.trim();
    ByteSize::parse(text).map(|size| Threshold::Size(size.0)).map_err(|error| match error {
        BadSize::TooLarge(_) => format!("`{text}` is more than any disk has"),
        BadSize::NoUnit(_) => format!("`{text}` has no unit: write `{text} GiB`, or `{text} %` of the disk"),
        _ => format!("`{text}` is no size and no share: write for example `10 GiB` or `5 %`"),
    })
}

/// Whether one threshold is above the other on every disk. A size and a share can't be compared without one.
fn is_above(one: Threshold, other: Threshold) -> bool {
    match (one, other) {
        (Threshold::Size(one), Threshold::Size(other)) => one > other,
        (Threshold::Percent(one), Threshold::Percent(other)) => one > other,
        _ => false,
    }
}
