//! What is little room on a disk.

use super::*;
use crate::disk::{Threshold, Thresholds};

fn thresholds(text: &str) -> Thresholds {
    good(&format!("version = 1\n[disk]\n{text}")).disk
}

#[test]
fn room_is_given_as_a_size_or_as_a_share() {
    let default = Thresholds::default();
    assert_eq!(thresholds(""), default);
    let critical = Threshold::Size(2 << 30);
    let given = thresholds("low = \"10 GiB\"\ncritical = \"2 GiB\"");
    assert_eq!(given, Thresholds { low: Threshold::Size(10 << 30), critical });
    let given = thresholds("low = \" 10% \"\ncritical = \"0 %\"");
    assert_eq!(given, Thresholds { low: Threshold::Percent(10), critical: Threshold::Percent(0) });
    let given = thresholds("low = \"50 %\"\ncritical = \"2 GiB\"");
    assert_eq!(given, Thresholds { low: Threshold::Percent(50), critical });
    assert_eq!(thresholds("critical = \"1 GB\"").low, default.low);
}

#[test]
fn room_that_makes_no_sense_is_refused() {
    for (value, why) in [
        ("-1 GiB", "`-1 GiB` is no size and no share: write for example `10 GiB` or `5 %`"),
        ("-5 %", "`-5 %` is no share: write a whole number from 0 % to 50 %, or a size"),
        ("51 %", "`51 %` is no share: write a whole number from 0 % to 50 %, or a size"),
        ("2.5 %", "`2.5 %` is no share: write a whole number from 0 % to 50 %, or a size"),
        ("99999999999 %", "`99999999999 %` is no share: write a whole number from 0 % to 50 %, or a size"),
        ("%", "` %` is no share: write a whole number from 0 % to 50 %, or a size"),
        ("10", "`10` has no unit: write `10 GiB`, or `10 %` of the disk"),
        ("", "`` is no size and no share: write for example `10 GiB` or `5 %`"),
        ("10 GiBs", "`10 GiBs` is no size and no share: write for example `10 GiB` or `5 %`"),
        ("99999999 TiB", "`99999999 TiB` is more than any disk has"),
        ("999999999999999999999 B", "`999999999999999999999 B` is more than any disk has"),
    ] {
        bad_v1(&format!("[disk]\nlow = \"{value}\""), &[&format!("3:7: `low`: {why}")]);
    }
    bad_v1("[disk]\nlow = 10", &["3:7: `low` is a whole number, expected a string: write `low = \"10 GiB\"`"]);
    bad_v1("[disk]\nlow = [\"1 %\"]", &["3:7: `low` is a list, expected a string: write `low = \"10 GiB\"`"]);
    bad_v1("[disk]\nlwo = \"1 %\"", &["3:1: unknown key `lwo` in [disk]: did you mean `low`?"]);
    bad_v1("disk = 5", &["2:8: `disk` is a whole number, expected a table: write `[disk]`"]);
}

#[test]
fn low_comes_before_critical() {
    let message = "`low` is less than `critical`: a disk is low before it is critical, so give `low` more";
    bad_v1("[disk]\nlow = \"1 GiB\"\ncritical = \"2 GiB\"", &[&format!("3:7: {message}")]);
    bad_v1("[disk]\ncritical = \"3 %\"\nlow = \"2 %\"", &[&format!("4:7: {message}")]);
    // The same is fine, and so is what can't be compared without a disk.
    thresholds("low = \"1 GiB\"");
    thresholds("critical = \"20 %\"");
    thresholds("low = \"2 GiB\"\ncritical = \"2 GiB\"");
    thresholds("low = \"1 GiB\"\ncritical = \"50 %\"");
    // One mistake at a time.
    bad_v1(
        "[disk]\nlow = \"1\"\ncritical = \"2 GiB\"",
        &["3:7: `low`: `1` has no unit: write `1 GiB`, or `1 %` of the disk"],
    );
}

#[test]
fn a_cache_in_a_directory_may_have_a_size() {
    let max_size =
        |text: &str| good(&format!("version = 1\n[caches.a]\nurl = \"file:///a\"\n{text}")).caches[0].max_size;
    assert_eq!([max_size(""), max_size("max_size = \"50 GiB\"")], [None, Some(50 << 30)]);
    for (value, why) in [
        ("0 B", "a cache of nothing keeps nothing: write for example `50 GiB`, or leave it out"),
        ("-1 GiB", "`-1 GiB` is no size: write for example `50 GiB`"),
        ("10 %", "`10 %` is no size: write for example `50 GiB`"),
        ("50", "`50` has no unit: write for example `50 GiB`"),
        ("99999999 TiB", "`99999999 TiB` is more than any disk has: write for example `50 GiB`"),
    ] {
        let text = format!("[caches.a]\nurl = \"file:///a\"\nmax_size = \"{value}\"");
        bad_v1(&text, &[&format!("4:12: `max_size`: {why}")]);
    }
    bad_v1(
        "[caches.a]\nurl = \"s3://bucket?region=x\"\nmax_size = \"1 GiB\"",
        &["4:1: `max_size` makes no sense here, since it is for directories, file://, alone; `storewatch cache prune \
           --max-size` does it: leave it out"],
    );
    bad_v1(
        "[caches.a]\nurl = \"https://cache.example.com/a\"\nmax_size = \"1 GiB\"",
        &["4:1: `max_size` makes no sense here, since it is for directories, file://, alone: leave it out"],
    );
}
