//! Whether this host's connection is metered, as NetworkManager knows it.
//!
//! Asked by `busctl`, which comes with systemd and so is where NetworkManager mostly is, also in the `PATH` of NixOS's
//! services: one question every few seconds isn't worth a D-Bus library, which would be the largest of all that is linked
//! in.

/// Whether it is.
///
/// # Errors
/// Why it can't be told.
#[cfg(target_os = "linux")]
pub(super) async fn is_metered() -> Result<bool, String> {
    const QUESTION: [&str; 7] = [
        "--system",
        "--auto-start=no",
        "get-property",
        "org.freedesktop.NetworkManager",
        "/org/freedesktop/NetworkManager",
        "org.freedesktop.NetworkManager",
        "Metered",
    ];
    let untold = |why| format!("NetworkManager doesn't tell whether the connection is metered: {why}");
    let said = super::answer::said_by("busctl", &QUESTION).await.map_err(untold)?;
    by_network_manager(&said)
}

/// Whether it is.
///
/// # Errors
/// Other systems have no program that tells it.
#[cfg(not(target_os = "linux"))]
pub(super) async fn is_metered() -> Result<bool, String> {
    Err("this system doesn't tell whether the connection is metered".to_owned())
}

/// The property is a number: `u 4`. NMMetered in NetworkManager's D-Bus reference: 0 unknown, 1 yes, 2 no, 3 and 4 the same
/// as a guess.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
fn by_network_manager(said: &str) -> Result<bool, String> {
    match said.trim() {
        "u 1" | "u 3" => Ok(true),
        "u 2" | "u 4" => Ok(false),
        "u 0" => Err("NetworkManager doesn't know whether the connection is metered".to_owned()),
        _ => Err("NetworkManager says something else than whether the connection is metered".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_count_and_what_is_unknown_is_said() {
        let says = |number| by_network_manager(&format!("u {number}\n"));
        assert_eq!([says(1), says(3), says(2), says(4)], [Ok(true), Ok(true), Ok(false), Ok(false)]);
        assert!(says(0).is_err() && says(5).is_err() && by_network_manager("").is_err());
    }
}
