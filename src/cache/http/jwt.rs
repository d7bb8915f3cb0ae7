//! What a token says of itself: until when it holds.
//!
//! Read and not verified, for messages alone: whether a token holds is the server's to say.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Seconds since 1970 at the end of the year 9999, the last that a date can be written of.
const LAST_DATE: f64 = 253_402_300_799.0;

/// When a JSON Web Token (RFC 7519) expires; `None` where it doesn't say, or is none.
#[must_use]
pub fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    let since = Duration::try_from_secs_f64(exp).ok().filter(|_| exp <= LAST_DATE)?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Whether a token has the form of a JSON Web Token (RFC 7519): three parts, each in Base64.
pub(super) fn is_web_token(token: &str) -> bool {
    let is_base64 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte));
    token.split('.').count() == 3 && token.split('.').all(|part| !part.is_empty() && is_base64(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_token_is_told_from_anything_else() {
        assert!(is_web_token(&token("{}")));
        for other in ["", "garbage", "a.b", "a.b.c.d", "a..c", "a.b c.d"] {
            assert!(!is_web_token(other), "{other}");
        }
    }

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_says_when_it_expires() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(expiry(&token(r#"{"sub":"x","exp":1700000000,"https://jwt.attic.rs/v1":{}}"#)), at(1_700_000_000));
        assert_eq!(expiry(&token(r#"{"exp":1700000000.0}"#)), at(1_700_000_000));
        for none in [
            token(r#"{"sub":"x"}"#),
            token(r#"{"exp":"soon"}"#),
            token(r#"{"exp":-1}"#),
            token(r#"{"exp":1e300}"#),
            token("{"),
            "e30.!.c2ln".to_owned(),
            "a-wrong-token".to_owned(),
            String::new(),
        ] {
            assert_eq!(expiry(&none), None, "{none}");
        }
    }
}
