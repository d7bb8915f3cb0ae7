//! Bandwidths and windows of the policy.

use super::*;
use crate::limit::{Bandwidth, Days, Way, Window};

const MIB: u64 = 1 << 20;

#[test]
fn all_that_can_be_said() {
    let schedule = good(
        r#"version = 1
[limits]
bandwidth = "20 MiB/s"
backfill_bandwidth = "8 Mbit/s"
metered = "pause"
battery = "1 MiB/s"
[[limits.windows]]
days = ["mon", "fri"]
from = "09:00"
to = "18:00"
bandwidth = "2 MiB/s"
[[limits.windows]]
from = "22:30"
to = "24:00"
backfill_bandwidth = 0
[caches.disk]
url = "file:///srv/cache"
bandwidth = "5 MiB/s"
windows = [{ days = "sun", from = "23:00", to = "01:00", bandwidth = "0" }]
[caches.team]
url = "attic+https://cache.example.com/team"
[caches.program]
url = "command:///bin/copy"
windows = [{ from = "09:00", to = "18:00", bandwidth = 0 }]
"#,
    )
    .schedule;
    let mib = |mib: u64| Some(Bandwidth::new(mib * MIB));
    assert_eq!((schedule.bandwidth, schedule.backfill_bandwidth), (mib(20), Some(Bandwidth::new(1_000_000))));
    assert_eq!((schedule.metered, schedule.battery), (Some(Bandwidth::Nothing), mib(1)));
    let working = Window::new(Days::of([0, 4]), 9 * 60, 18 * 60).saying(mib(2), None);
    let night = Window::new(Days::ALL, 22 * 60 + 30, 24 * 60).saying(None, Some(Bandwidth::Nothing));
    assert_eq!(schedule.windows, [working, night]);
    let disk = &schedule.caches["disk"];
    assert_eq!((disk.bandwidth, disk.way), (mib(5), Way::Disk));
    let sunday = Window::new(Days::of([6]), 23 * 60, 60).saying(Some(Bandwidth::Nothing), None);
    assert_eq!(disk.windows, [sunday]);
    assert_eq!((schedule.caches["team"].way, schedule.caches["program"].way), (Way::Server, Way::Program));
    let built_in = Config::built_in(&defaults()).schedule;
    assert_eq!(built_in.caches["local"].way, Way::Disk, "no line leads to a disk");
    assert_eq!(good("version = 1").schedule, built_in);
    assert_eq!(good("version = 1\n[limits]\nmetered = \"go on\"").schedule.metered, None);
}

#[test]
fn bandwidths_that_make_no_sense() {
    bad_v1(
        r#"[limits]
bandwidth = 0
backfill_bandwidth = "0 MiB/s"
metered = "slow"
battery = 0
[caches.a]
url = "file:///a"
bandwidth = -5
[caches.b]
url = "file:///b"
bandwidth = "20 MB"
[caches.c]
url = "command:///c"
bandwidth = "1 MiB/s"
windows = [{ from = "09:00", to = "10:00", bandwidth = "1 MiB/s" }]
[caches.d]
url = "file:///d"
bandwidth = 1.5
[caches.e]
url = "file:///e"
bandwidth = 99999999999999999999999
"#,
        &[
            "3:13: `bandwidth` of 0 would let nothing through at any time: leave it out for no limit; `bandwidth = 0` in a \
             window is a pause, and so is `storewatch pause`",
            "4:22: `backfill_bandwidth` of 0 would let nothing through at any time: leave it out for no limit; \
             `bandwidth = 0` in a window is a pause, and so is `storewatch pause`",
            "5:11: `metered` can not be `slow`: write \"pause\", \"go on\" or a bandwidth such as \"1 MiB/s\"",
            "6:11: `battery` of 0: write `battery = \"pause\"`",
            "9:13: `bandwidth`: `-5` is less than nothing: write a bandwidth such as 20 MiB/s",
            "12:13: `bandwidth`: `20 MB` doesn't say in which time: write `20 MB/s` for so much a second",
            "15:13: storewatch sends nothing to a program that is given paths, so it can't limit that: leave `bandwidth` \
             out, or let it have the archive, `gives = \"nar\"`; a window with `bandwidth = 0` pauses it",
            "16:56: storewatch sends nothing to a program that is given paths, so it can't limit that: leave `bandwidth` \
             out, or let it have the archive, `gives = \"nar\"`; a window with `bandwidth = 0` pauses it",
            "19:13: `bandwidth` is a number with a fraction, expected a string: write `bandwidth = \"5 MiB/s\"`",
            "22:13: `bandwidth`: `99999999999999999999999` is more than any line carries: leave it out where there is to be \
             no limit",
        ],
    );
    good("version = 1\n[caches.a]\nurl = \"command:///a\"\ngives = \"nar\"\nbandwidth = \"1 MiB/s\"");
}

#[test]
fn windows_that_make_no_sense() {
    bad_v1(
        r#"[caches.a]
url = "file:///a"
windows = [
{ from = "09:00", to = "10:00", backfill_bandwidth = 0 },
{ from = "09:00", to = "10:00" },
]
[limits]
windows = [
{ from = "9:00", to = "24:01", bandwidth = 0 },
{ from = "24:00", bandwidth = 0 },
{ from = "09:00", to = "09:00", bandwidth = 0 },
{ days = [], from = "09:00", to = "10:00", bandwidth = 0 },
{ days = ["mno", "day"], from = "09:00", to = "10:00", bandwidth = 0 },
{ from = "09:00", to = "10:60" },
{ from = "09:00", too = "10:00", bandwidth = "20" },
]
"#,
        &[
            "5:54: `backfill_bandwidth` belongs to the windows of [limits]: leave it out of those of a cache",
            "6:1: this window says nothing: write `bandwidth`, 0 for a pause",
            "10:10: `from` can not be `9:00`: write hour and minute with two digits each, 00:00 to 23:59",
            "10:23: `to` can not be `24:01`: write hour and minute with two digits each, 00:00 to 24:00, which is the end \
             of the day",
            "11:1: window 2 has no `to`: write `to = \"18:00\"`",
            "11:10: `from` can not be `24:00`: write hour and minute with two digits each, 00:00 to 23:59",
            "12:1: this window ends as it begins: for a whole day write from = \"00:00\", to = \"24:00\"",
            "13:10: `days` is an empty list: name at least one, or leave it out",
            "14:11: `days` can not be `mno`: did you mean `mon`?",
            "14:18: `days` can not be `day`: write one of `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`",
            "15:1: this window says nothing: write `bandwidth` or `backfill_bandwidth`, 0 for a pause",
            "15:24: `to` can not be `10:60`: write hour and minute with two digits each, 00:00 to 24:00, which is the end \
             of the day",
            "16:1: window 7 has no `to`: write `to = \"18:00\"`",
            "16:19: unknown key `too` in window 7: did you mean `to`?",
            "16:46: `bandwidth`: `20` has no unit: write `20 MiB/s`, or one of B, kB, KiB, MB, MiB, GB, GiB, bit, kbit, \
             Mbit, Gbit a second",
        ],
    );
}

#[test]
fn windows_that_are_open_at_once_are_a_warning_that_says_which_counts() {
    let config = good(
        r#"version = 1
[limits]
windows = [
{ days = ["mon"], from = "22:00", to = "06:00", bandwidth = 0 },
{ from = "05:00", to = "23:00", backfill_bandwidth = 0 },
{ from = "05:00", to = "06:00", bandwidth = "1 MiB/s" },
{ from = "06:00", to = "07:00", bandwidth = "1 MiB/s", backfill_bandwidth = 0 },
]
[caches.a]
url = "file:///a"
windows = [{ from = "05:00", to = "06:00", bandwidth = "1 MiB/s" }]
"#,
    );
    let warnings: Vec<_> = config.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        warnings,
        [
            "policy.toml:6:1: the windows 05:00 to 06:00 (this one) and mon 22:00 to 06:00 (in line 4) are open at the same \
             time, on tue 05:00 for one: there mon 22:00 to 06:00 counts, since it stands first",
            "policy.toml:7:1: the windows 06:00 to 07:00 (this one) and 05:00 to 23:00 (in line 5) are open at the same \
             time, on mon 06:00 for one: there 05:00 to 23:00 counts, since it stands first",
        ]
    );
}

#[test]
fn the_background_is_for_caches_on_servers() {
    let schedule = good(
        r#"version = 1
[limits]
bandwidth = "20 MiB/s"
backfill_bandwidth = "background"
windows = [{ from = "09:00", to = "18:00", bandwidth = "background" }]
battery = "background"
[caches.team]
url = "attic+https://cache.example.com/team"
bandwidth = "background"
"#,
    )
    .schedule;
    let background = Some(Bandwidth::Background);
    assert_eq!((schedule.backfill_bandwidth, schedule.battery), (background, background));
    assert_eq!((schedule.windows[0].bandwidth, schedule.caches["team"].bandwidth), (background, background));
    bad_v1(
        r#"[caches.disk]
url = "file:///srv/cache"
bandwidth = "background"
[caches.program]
url = "command:///bin/copy"
gives = "nar"
windows = [{ from = "09:00", to = "18:00", bandwidth = "background" }]
"#,
        &[
            "4:13: `background` is for caches on servers, to which the line can be measured: write how much a second",
            "8:56: `background` is for caches on servers, to which the line can be measured: write how much a second",
        ],
    );
}
