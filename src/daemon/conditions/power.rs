//! Whether this host runs on battery.

use std::path::Path;

/// Whether it does, by what Linux shows below this folder.
///
/// # Errors
/// Why it can't be told.
#[cfg(not(target_os = "macos"))]
pub(super) async fn is_on_battery(supplies: &Path) -> Result<bool, String> {
    let supplies = supplies.to_owned();
    let told = tokio::task::spawn_blocking(move || {
        by_supplies(&supplies).map_err(|error| {
            format!("this system doesn't tell whether it runs on battery: read {}: {error}", supplies.display())
        })
    });
    told.await.unwrap_or_else(|_| Err("the thread that looked for batteries was lost".to_owned()))
}

/// Whether it does, as `pmset` says; macOS shows nothing below a folder.
///
/// # Errors
/// Why it can't be told.
#[cfg(target_os = "macos")]
pub(super) async fn is_on_battery(_supplies: &Path) -> Result<bool, String> {
    let said = super::answer::said_by("pmset", &["-g", "batt"]).await;
    by_pmset(&said.map_err(|why| format!("this system doesn't tell whether it runs on battery: {why}"))?)
}

/// One mains that gives power, and the host doesn't run on battery; else it does if a battery is discharging that is the
/// host's own: mice and headphones show theirs here too, with the scope `Device`.
#[cfg_attr(target_os = "macos", allow(dead_code, reason = "macOS shows it otherwise"))]
fn by_supplies(supplies: &Path) -> std::io::Result<bool> {
    let mut is_discharging = false;
    for supply in std::fs::read_dir(supplies)? {
        let folder = supply?.path();
        // What is pulled out meanwhile says nothing.
        let says = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
        if says("scope") == "Device" {
            continue;
        }
        match says("type").as_str() {
            "Battery" => is_discharging |= says("status") == "Discharging",
            "Mains" | "USB" | "Wireless" if says("online") == "1" => return Ok(false),
            _ => {}
        }
    }
    Ok(is_discharging)
}

/// `Now drawing from 'Battery Power'`.
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only macOS has it"))]
fn by_pmset(said: &str) -> Result<bool, String> {
    match said.lines().next().unwrap_or_default() {
        line if line.contains("'Battery Power'") || line.contains("'UPS Power'") => Ok(true),
        line if line.contains("'AC Power'") => Ok(false),
        _ => Err("`pmset -g batt` doesn't say whether this host runs on battery".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with these supplies, each with its files.
    fn host(supplies: &[(&str, &[(&str, &str)])]) -> bool {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, files) in supplies {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).expect("made");
            for (file, text) in *files {
                std::fs::write(folder.join(file), format!("{text}\n")).expect("written");
            }
        }
        by_supplies(dir.path()).expect("told")
    }

    const UNPLUGGED: (&str, &[(&str, &str)]) = ("AC", &[("type", "Mains"), ("online", "0")]);
    const PLUGGED: (&str, &[(&str, &str)]) = ("ACAD", &[("type", "Mains"), ("online", "1")]);
    const DISCHARGING: (&str, &[(&str, &str)]) = ("BAT0", &[("type", "Battery"), ("status", "Discharging")]);
    const FULL: (&str, &[(&str, &str)]) = ("BAT1", &[("type", "Battery"), ("status", "Full")]);
    const MOUSE: (&str, &[(&str, &str)]) =
        ("hid", &[("type", "Battery"), ("status", "Discharging"), ("scope", "Device")]);

    #[test]
    fn batteries_and_mains_as_linux_shows_them() {
        assert!(!host(&[]), "a desktop");
        assert!(!host(&[PLUGGED, MOUSE]));
        assert!(!host(&[MOUSE]), "the mouse's");
        assert!(!host(&[UNPLUGGED, FULL]));
        assert!(host(&[UNPLUGGED, FULL, DISCHARGING]), "one of two");
        assert!(host(&[DISCHARGING]));
        assert!(!host(&[DISCHARGING, PLUGGED]), "that gives too little power, and somebody means it");
        let missing = by_supplies(Path::new("/nowhere/power_supply"));
        assert!(missing.is_err());
    }

    #[test]
    fn batteries_as_macos_says_it() {
        let says = |line: &str| by_pmset(&format!("{line}\n -InternalBattery-0 (id=1)\t75%; discharging;\n"));
        assert_eq!(says("Now drawing from 'Battery Power'"), Ok(true));
        assert_eq!(says("Now drawing from 'AC Power'"), Ok(false));
        assert!(by_pmset("").is_err());
    }
}
