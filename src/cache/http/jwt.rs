//! What a token says of itself: until when it holds, and what it allows.
//!
//! Read and not verified, for messages alone: whether a token holds is the server's to say.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::policy::Globs;

/// Seconds since 1970 at the end of the year 9999, the last that a date can be written of.
const LAST_DATE: f64 = 253_402_300_799.0;

/// When a JSON Web Token (RFC 7519) expires; `None` where it doesn't say, or is none.
#[must_use]
pub fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let Claims { exp } = claims(token)?;
    let since = Duration::try_from_secs_f64(exp).ok().filter(|_| exp <= LAST_DATE)?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Whether a token lets its bearer push to that cache of an Attic server's: it names caches, by patterns in which `*` stands
/// for anything, each with what is allowed there (Attic's `token/src/lib.rs`). `None` where it says nothing of that kind.
#[must_use]
pub fn lets_push(token: &str, cache: &str) -> Option<bool> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(rename = "https://jwt.attic.rs/v1")]
        attic: Caches,
    }
    #[derive(Deserialize)]
    struct Caches {
        caches: BTreeMap<String, Allowed>,
    }
    #[derive(Deserialize)]
    struct Allowed {
        #[serde(default)]
        w: Value,
    }
    let Claims { attic: Caches { caches } } = claims(token)?;
    let names = |pattern: &str| Globs::new([pattern]).is_ok_and(|glob| glob.matches(cache));
    let is_given = |allowed: &Allowed| allowed.w == 1 || allowed.w == true;
    Some(caches.iter().any(|(pattern, allowed)| names(pattern) && is_given(allowed)))
}

fn claims<T: DeserializeOwned>(token: &str) -> Option<T> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    serde_json::from_slice(&payload).ok()
}

/// Whether somebody has copied the whole header instead of the token.
#[must_use]
pub fn is_prefixed(token: &str) -> bool {
    token.get(..7).is_some_and(|begins| begins.eq_ignore_ascii_case("bearer "))
}

/// Whether a token has the form of a JSON Web Token (RFC 7519): three parts, each in Base64.
#[must_use]
pub fn is_web_token(token: &str) -> bool {
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
    fn a_token_says_where_it_lets_push() {
        let attic = |caches: &str| token(&format!(r#"{{"https://jwt.attic.rs/v1":{{"caches":{caches}}}}}"#));
        for (caches, expected) in [
            (r#"{"team":{"r":1,"w":1}}"#, true),
            (r#"{"team":{"r":1}}"#, false),
            (r#"{"team":{"w":0}}"#, false),
            (r#"{"other":{"w":1}}"#, false),
            (r#"{"te*":{"w":1},"team":{"r":1}}"#, true),
            (r#"{"*":{"w":true}}"#, true),
            ("{}", false),
        ] {
            assert_eq!(lets_push(&attic(caches), "team"), Some(expected), "{caches}");
        }
        for untold in [token("{}"), token(r#"{"https://jwt.attic.rs/v1":1}"#), "a-token".to_owned()] {
            assert_eq!(lets_push(&untold, "team"), None, "{untold}");
        }
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
