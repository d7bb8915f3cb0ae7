//! What the limits of the policy need to know of this host: its time zone, whether its connection is metered, whether it
//! runs on battery. Looked at only where the policy makes something of it.

use jiff::tz::TimeZone;

use super::Finding;
use crate::config::Config;
use crate::daemon::bandwidth::{tz, unknown_zone};
use crate::daemon::conditions;

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let schedule = &config.schedule;
    let found = conditions::look(schedule).await;
    let zone = schedule.has_windows().then(|| of_zone(&TimeZone::system()));
    let metered = found.metered.map(|found| of_condition("connection", "metered", "not metered", found));
    let battery = found.battery.map(|found| of_condition("power", "on battery", "not on battery", found));
    [zone, metered, battery].into_iter().flatten().collect()
}

fn of_zone(zone: &TimeZone) -> Finding {
    match zone.iana_name() {
        _ if zone.is_unknown() => {
            let (what, cure) = unknown_zone(tz().as_deref());
            Finding::warning("time zone", what).cured_by(cure)
        }
        Some(name) => Finding::ok("time zone", name),
        None => Finding::ok("time zone", "the one of /etc/localtime"),
    }
}

fn of_condition(about: &str, so: &str, not_so: &str, found: Result<bool, String>) -> Finding {
    match found {
        Ok(true) => Finding::ok(about, so),
        Ok(false) => Finding::ok(about, not_so),
        Err(why) => Finding::warning(about, format!("{why}; it counts as {not_so}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::health::Grade;

    #[test]
    fn what_cannot_be_told_is_a_warning() {
        let told = |found| of_condition("power", "on battery", "not on battery", found);
        assert_eq!(told(Ok(true)), Finding::ok("power", "on battery"));
        let untold = told(Err("no answer".to_owned()));
        assert_eq!((untold.grade, untold.found.as_str()), (Grade::Warning, "no answer; it counts as not on battery"));
        assert_eq!(of_zone(&TimeZone::unknown()).grade, Grade::Warning);
        assert!(unknown_zone(Some("Europe/Berlinn")).0.contains("`Europe/Berlinn`, which TZ says, is no time zone"));
        assert_eq!([None, Some("")].map(unknown_zone).map(|(_, cure)| cure.contains("timedatectl")), [true, true]);
        assert_eq!(of_zone(&TimeZone::UTC).grade, Grade::Ok);
    }
}
