//! What people can do about a server's errors: in the message itself where that is short and certain, otherwise as a hint.

use reqwest::StatusCode;

use super::{Action, HttpError};
use crate::secret::SecretError;

impl HttpError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Transport { .. } | Self::Stalled { .. } => Some(
                "is the server running, and are host and port in the `url` right? A firewall, or a proxy that HTTPS_PROXY \
                 names, may stand between",
            ),
            Self::Status { status: 500..=599, .. } => {
                Some("the server, or what stands in front of it, is at fault; its log may say more")
            }
            Self::Secret { source: SecretError::Io { .. } } => Some(
                "write the secret there, readable for its owner only, and ask as the user that the service runs as",
            ),
            Self::File { .. } | Self::Unusable { .. } => {
                Some("mend the file, or name another in the policy (or in NIX_SSL_CERT_FILE)")
            }
            _ => None,
        }
    }
}

/// A status in words.
pub(in crate::cache) fn reason(status: u16) -> String {
    let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

/// What people can do about a status.
pub(super) fn cure(action: Action, status: u16, host: &str) -> String {
    match (action, status) {
        (Action::Upload, 413) => format!(
            "; the server or a proxy in front of {host} refuses bodies of this size: raise its limit \
             (`client_max_body_size` of nginx), then `storewatch queue retry`"
        ),
        (Action::Upload, 403) => format!("; something in front of {host} refuses this path"),
        (Action::Upload, 408 | 504 | 524) => format!(
            "; a proxy in front of {host} gives up on what takes long: raise its time-out, then `storewatch queue retry`"
        ),
        (_, 401) => "; the token is missing, wrong or expired, or there is no such cache".to_owned(),
        (_, 403) => "; the token does not allow this, or is wrong or expired".to_owned(),
        (_, 407) => "; the proxy of this host wants credentials: give them in HTTPS_PROXY".to_owned(),
        (Action::Configuration, 404) => "; is it an Attic server?".to_owned(),
        _ => String::new(),
    }
}
