//! What of the service's environment a program gets.

use std::ffi::OsString;

use super::{CommandOptions, Gives};

/// What a program needs to find its things, its way out, and Nix. Secrets of the policy that lie in variables have other
/// names, and systemd's folder of credentials isn't among these either.
const PASSED: [&str; 41] = [
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

/// A program's words, without the values of the variables that the policy passes on, which may be secrets.
pub(super) fn blackened(options: &CommandOptions, text: &str) -> String {
    let passed = options.pass_environment.iter().filter_map(|name| std::env::var(name).ok());
    passed
        .filter(|value| value.len() >= LEAST_SECRET)
        .fold(text.to_owned(), |text, value| text.replace(&value, "[secret]"))
}
