//! How much of what is queued is kept from the garbage collector.

use super::{bad_v1, good};
use crate::policy::ByteSize;

#[test]
fn a_size_or_none() {
    for (written, expected) in [
        ("none", None),
        (" none ", None),
        ("10 GiB", Some(10 << 30)),
        ("500MB", Some(500_000_000)),
        ("1 B", Some(1)),
        ("8388607 TiB", Some(8_388_607 << 40)),
    ] {
        let config = good(&format!("version = 1\n[store]\npin = \"{written}\""));
        assert_eq!(config.pin, expected.map(ByteSize), "{written}");
    }
    assert_eq!(good("version = 1").pin, None, "nothing unless somebody asks for it");
}

#[test]
fn pins_that_make_no_sense() {
    for (written, why) in [
        ("\"0 GiB\"", "`pin` can not be `0 GiB`: write \"none\" where nothing is to be pinned"),
        ("\"-1 GiB\"", "`pin` can not be `-1 GiB`: write \"none\", or a whole number and a unit, such as \"10 GiB\""),
        ("\"1.5 GiB\"", "`pin` can not be `1.5 GiB`: write \"none\", or a whole number and a unit, such as \"10 GiB\""),
        ("\"all\"", "`pin` can not be `all`: write \"none\", or a whole number and a unit, such as \"10 GiB\""),
        ("\"\"", "`pin` can not be ``: write \"none\", or a whole number and a unit, such as \"10 GiB\""),
        (
            "\"10\"",
            "`pin` can not be `10`: `10` has no unit: write `10 B`, or one of KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        ),
        (
            "\"10 GiBs\"",
            "`pin` can not be `10 GiBs`: `GiBs` is no unit: use one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        ),
        ("\"8388608 TiB\"", "`pin` can not be `8388608 TiB`: no disk has so much"),
        ("\"99999999999999999999 B\"", "`pin` can not be `99999999999999999999 B`: no disk has so much"),
        ("10", "`pin` is a whole number, expected a string: write `pin = \"10 GiB\"`"),
        ("false", "`pin` is true or false, expected a string: write `pin = \"10 GiB\"`"),
    ] {
        bad_v1(&format!("[store]\npin = {written}"), &[&format!("3:7: {why}")]);
    }
}
