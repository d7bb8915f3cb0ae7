//! What of the service's environment a program gets.

use std::ffi::OsString;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;

use super::{CommandOptions, Gives};
use crate::secret;

/// What a program needs to find its things, its way out, and Nix. Secrets of the policy that lie in variables have other
/// names, and systemd's folder of credentials isn't among these either.
const PASSED: [&str; 42] = [
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LOCALE_ARCHIVE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "NIX_BIN_DIR",
    "NIX_CONF_DIR",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_LOCALSTATE_DIR",
    "NIX_LOG_DIR",
    "NIX_PATH",
    "NIX_REMOTE",
    "NIX_SSHOPTS",
    "NIX_SSL_CERT_FILE",
    "NIX_STATE_DIR",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// The environment of a program: what it needs of the service's, what the policy passes on by name, and what it is for.
pub(super) fn environment(options: &CommandOptions) -> Vec<(String, OsString)> {
    let passed = PASSED.into_iter().chain(options.pass_environment.iter().map(String::as_str));
    let mut variables: Vec<(String, OsString)> =
        passed.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?))).collect();
    let gives = match options.gives {
        Gives::Path => "path",
        Gives::Nar => "nar",
    };
    variables.push(("STOREWATCH_CACHE".to_owned(), options.name.clone().into()));
    variables.push(("STOREWATCH_GIVES".to_owned(), gives.into()));
    variables
}

/// No secret is shorter, in bytes: to blacken every `1` or `yes` would only make messages unreadable.
const LEAST_SECRET: usize = 6;

/// A program's words, without the values of the variables that the policy passes on, which may be secrets, and without what
/// proxies want to be shown.
pub(super) fn blackened(options: &CommandOptions, text: &str) -> String {
    let value = |name: &str| std::env::var(name).ok();
    let passed = options.pass_environment.iter().filter_map(|name| value(name));
    let passed = passed.filter(|value| value.len() >= LEAST_SECRET);
    let proxies = PASSED.into_iter().filter(|name| name.to_ascii_lowercase().ends_with("_proxy")).filter_map(value);
    let logins = proxies.filter_map(|proxy| login(&proxy).map(str::to_owned));
    let secrets: Vec<String> = passed.chain(logins.flat_map(|login| shown_to_a_proxy(&login))).collect();
    secret::blackened(text, &secrets)
}

/// What a login must not be seen as: whole with what stands behind it, however short; its password, or itself where it is but
/// one word, unless that is short; each of them decoded, as programs say it, and in Base64.
fn shown_to_a_proxy(login: &str) -> Vec<String> {
    let decoded = percent_decode_str(login).decode_utf8_lossy().into_owned();
    // As it stands in the header that the proxy gets.
    let mut shown = vec![BASE64.encode(&decoded)];
    for login in [login, decoded.as_str()] {
        let (_, secret) = login.split_once(':').unwrap_or(("", login));
        shown.push(format!("{login}@"));
        shown.extend((secret.len() >= LEAST_SECRET).then(|| secret.to_owned()));
    }
    shown
}

/// `USER:PASSWORD` in a proxy's address, as it is written there.
fn login(proxy: &str) -> Option<&str> {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(login, _)| login).filter(|login| !login.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_is_shown_is_not_said_in_any_form() {
        let said = |login: &str, text: &str| secret::blackened(text, shown_to_a_proxy(login));
        for text in
            ["407 for me:p%40ssword@proxy", "407 for p@ssword", "407 for p%40ssword", "407 for me:p@ssword@proxy"]
        {
            let told = said("me:p%40ssword", text);
            assert!(!told.contains("ssword"), "{text}: {told}");
        }
        let header = "Proxy-Authorization: Basic bWU6cEBzc3dvcmQ=";
        assert_eq!(said("me:p%40ssword", header), "Proxy-Authorization: Basic [secret]");
        assert_eq!(said("token-of-mine", "the proxy refuses token-of-mine"), "the proxy refuses [secret]");
        assert_eq!(said("me", "me too, at me@proxy"), "me too, at [secret]proxy");
    }

    #[test]
    fn each_variable_of_proxies_is_handed_on_in_both_of_its_forms() {
        for name in ["all_proxy", "http_proxy", "https_proxy", "no_proxy"] {
            assert!(PASSED.contains(&name) && PASSED.contains(&name.to_ascii_uppercase().as_str()), "{name}");
        }
    }

    #[test]
    fn what_a_proxy_is_shown_is_known() {
        for (proxy, expected) in [
            ("http://me:s3cret@proxy.example:3128/", Some("me:s3cret")),
            ("me:s3@cret@proxy.example", Some("me:s3@cret")),
            ("https://token@proxy.example", Some("token")),
            ("http://proxy.example:3128/a@b", None),
            ("localhost,.example", None),
        ] {
            assert_eq!(login(proxy), expected, "{proxy}");
        }
    }
}
