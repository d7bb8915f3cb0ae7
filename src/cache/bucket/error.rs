//! What an object store says when it refuses, and what that means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::code::Code;
use crate::cache::Class;
use crate::cache::http::{Action, HttpError, UNTOLD_PAUSE, beside, reason, wants_encryption, within};
use crate::secret::SecretError;

/// Why an object store didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// It could not be asked.
    #[error(transparent)]
    Http(HttpError),
    /// What answers there doesn't encrypt, which an endpoint without a scheme is taken to do.
    #[error(
        "{action} at {host}: this port does not speak https, but http, it seems; give the port that does, or write \
         `endpoint={host}` into the `url` (with a temporary token only where the server is on this host, or with \
         `allow_unencrypted = true`)"
    )]
    NotEncrypted {
        /// What was asked of it.
        action: Action,
        /// Its server, by http.
        host: String,
    },
    /// It says no.
    #[error(
        "{action} at {bucket}: {}{}{}{}",
        Reason(*status, code), beside(*status, says), code.cure().unwrap_or_default(), from(keys.as_deref())
    )]
    Refused {
        /// What was asked of it.
        action: Action,
        /// The bucket, as `s3://BUCKET`.
        bucket: String,
        /// The status.
        status: u16,
        /// The store's own name for the error.
        code: Code,
        /// What it says beside that.
        says: String,
        /// Where the keys come from, if it is those that it refuses.
        keys: Option<Arc<str>>,
        /// The pause that it asks for.
        retry_after: Option<Duration>,
    },
    /// The bucket lies in another region.
    #[error("{bucket} is in the region {region}; write `region={region}` into the `url`")]
    OtherRegion {
        /// The bucket.
        bucket: String,
        /// Where it is.
        region: String,
    },
    /// There is nothing to sign requests with.
    #[error("there are no credentials for {bucket}: {problem}")]
    NoCredentials {
        /// The bucket.
        bucket: String,
        /// Where they were looked for, and what to do.
        problem: String,
    },
    /// A secret of the policy can't be had.
    #[error("its credentials can't be had")]
    Secret(#[source] SecretError),
    /// A temporary token would cross the network for everybody to read.
    #[error(
        "the temporary credentials for {bucket} have a token, which would cross the network unencrypted: write an \
         `https` endpoint, or, if everybody on the way may have it, `allow_unencrypted = true`"
    )]
    Unencrypted {
        /// The bucket.
        bucket: String,
    },
    /// Credentials would cross the network for everybody to read, on the way from what hands them out.
    #[error(
        "the credentials for {bucket} would be asked of {host}, and cross the network unencrypted: let the variable that \
         names it name an `https` address, or, if everybody on the way may have them, write `allow_unencrypted = true`"
    )]
    HandedOutInTheOpen {
        /// The bucket.
        bucket: String,
        /// Who would be asked.
        host: String,
    },
    /// Somebody keeps an object there whose name none of a cache's has, and which the library that lists can't stand.
    #[error(
        "{bucket} has an object with an odd name: {problem}; rename or delete it, or give the cache a bucket or a folder \
         of its own"
    )]
    OddName {
        /// The bucket.
        bucket: String,
        /// Which, and what is odd.
        problem: String,
    },
    /// It answers, but not as such a store does; or the library that speaks to it found something else amiss.
    #[error("{action} at {bucket}: {problem}")]
    NotUnderstood {
        /// What was asked of it.
        action: Action,
        /// The bucket.
        bucket: String,
        /// What is wrong.
        problem: String,
    },
}

impl From<HttpError> for BucketError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::NotEncrypted { action, host } => {
                Self::NotEncrypted { action, host: host.replacen("https://", "http://", 1) }
            }
            error => Self::Http(error),
        }
    }
}

impl BucketError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Http(error) => error.hint(),
            Self::Refused { code: Code::None, status: 401 | 403, .. } => {
                Some("are the keys right, and may they read and write in that bucket?")
            }
            Self::Refused { status: 400, says, .. } if wants_encryption(says) => Some("write `https` into `endpoint`"),
            Self::Refused { status: 300..=399, .. } => Some(
                "what answers there sends those elsewhere who ask, as a page to log in does: is `endpoint` the address of the \
                 store itself?",
            ),
            // In the words of the library that asks.
            Self::NotUnderstood { problem, .. } if problem.contains("Header missing from response") => Some(
                "each object store says that: does one answer there, or does what stands in front of it leave it out?",
            ),
            // Who asks for a pause is well.
            Self::Refused { code: Code::SlowDown(_), .. } => None,
            Self::Refused { status: 500..=599, .. } => {
                Some("the server, or what stands in front of it, is at fault; its log may say more")
            }
            Self::Secret(error) => error.hint(),
            _ => None,
        }
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Http(error) => error.class(),
            Self::Refused { action, status, code, retry_after, .. } => {
                class_of(*action == Action::Upload, *status, code, *retry_after)
            }
            Self::NotEncrypted { .. }
            | Self::OtherRegion { .. }
            | Self::Unencrypted { .. }
            | Self::HandedOutInTheOpen { .. }
            | Self::OddName { .. } => Class::CacheWaits,
            Self::NoCredentials { .. } | Self::Secret(_) => Class::Credentials,
            Self::NotUnderstood { action: Action::Upload | Action::Missing, .. } => Class::Unavailable,
            Self::NotUnderstood { .. } => Class::CacheWaits,
        }
    }

    /// The pause that it asks for, if it says how long.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether both times the store has said the same, whatever it was asked.
    pub(super) fn is_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused { code, says, .. }, Self::Refused { code: before, says: said, .. }) => {
                code == before && says == said
            }
            _ => false,
        }
    }

    /// Whether it may be the answer to those who may not list a bucket, about an object that isn't there.
    pub(super) fn may_be_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 403, code: Code::AccessDenied(_) | Code::None, .. })
    }

    /// Whether the store doesn't know how to put only what isn't there.
    pub(super) fn is_not_implemented(&self) -> bool {
        matches!(self, Self::Refused { status: 501, .. } | Self::Refused { code: Code::NotImplemented(_), .. })
    }

    /// Whether a condition could not be looked at, since another put the same object at that moment: S3's
    /// `ConditionalRequestConflict`, after which it is to be asked again.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, code: Code::Passing(_), .. })
    }

    /// Whether what is listed has a name that no file of a cache has.
    pub(super) fn is_odd_name(&self) -> bool {
        matches!(self, Self::OddName { .. })
    }

    /// Whether the upload in parts isn't there any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the store certainly didn't do what it was asked: it has said so, or was never asked.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            // One that passes by itself may be the answer to the second of two, where a proxy has sent it twice: the first is
            // at work still.
            Self::Refused { code: Code::Passing(_), .. } | Self::Refused { status: 408 | 409, .. } => false,
            Self::Refused { status, .. } => (400..=499).contains(status),
            Self::NotEncrypted { .. }
            | Self::OtherRegion { .. }
            | Self::NoCredentials { .. }
            | Self::Secret(_)
            | Self::Unencrypted { .. }
            | Self::HandedOutInTheOpen { .. } => true,
            Self::Http(_) | Self::NotUnderstood { .. } | Self::OddName { .. } => false,
        }
    }
}

/// What an answer means: its code first, which stands on different statuses with different stores.
fn class_of(uploading: bool, status: u16, code: &Code, retry_after: Option<Duration>) -> Class {
    let pause = || Class::Throttled { after: within(retry_after.unwrap_or(UNTOLD_PAUSE)) };
    match code {
        Code::SlowDown(_) => pause(),
        // It has waited too long for what a limit, or the line, held back here.
        Code::Passing(name) if uploading && name == "RequestTimeout" => Class::Transient,
        Code::Passing(_) => Class::Unavailable,
        Code::AccessDenied(_) | Code::SignatureDoesNotMatch(_) | Code::InvalidAccessKeyId(_) | Code::Expired(_) => {
            Class::Credentials
        }
        Code::NoSuchBucket(_)
        | Code::RequestTimeTooSkewed(_)
        | Code::OtherRegion(_)
        | Code::NoRoom(_)
        | Code::NotImplemented(_) => Class::CacheWaits,
        Code::TooLarge(_) => Class::Permanent,
        Code::Damaged(_) => Class::Doubtful,
        Code::Other(_) | Code::None => match status {
            401 | 403 => Class::Credentials,
            429 => pause(),
            503 if retry_after.is_some() => pause(),
            507 => Class::CacheWaits,
            408 if uploading => Class::Transient,
            408 | 421 | 423 | 425 | 500..=599 => Class::Unavailable,
            413 if uploading => Class::Permanent,
            // A proxy that cuts a body makes the store call the request bad.
            _ if uploading => Class::Doubtful,
            _ => Class::CacheWaits,
        },
    }
}

/// `; …`, where the keys come from.
fn from(keys: Option<&str>) -> String {
    keys.map_or_else(String::new, |keys| format!("; it was asked with {keys}"))
}

/// The status in words, with the store's own name for the error.
struct Reason<'a>(u16, &'a Code);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.name() {
            Some(name) => write!(f, "{} ({})", name, self.0),
            None => f.write_str(&reason(self.0)),
        }
    }
}

/// An error on its way through the library that speaks to the store, which wraps it in errors of its own.
#[derive(Clone, Debug)]
pub(super) struct Carried(pub(super) Arc<BucketError>);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Carried {}

/// Takes the error out of what the library has wrapped it in.
pub(super) fn unwrapped(action: Action, bucket: &str, error: &object_store::Error) -> Arc<BucketError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Carried(carried)) = error.downcast_ref::<Carried>() {
            return Arc::clone(carried);
        }
        if let Some(odd) = error.downcast_ref::<object_store::path::Error>() {
            let problem = crate::cache::http::plain(&odd.to_string());
            return Arc::new(BucketError::OddName { bucket: bucket.to_owned(), problem });
        }
        cause = error.source();
    }
    // Its own words: something that it couldn't read, or a key that can't be used. They may name an address.
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let problem = match innermost.downcast_ref::<serde_json::Error>() {
        // Those of this library repeat what they don't understand, which may be a key.
        Some(error) => format!("JSON is not as it should be (line {}, column {})", error.line(), error.column()),
        None => crate::cache::http::plain(&innermost.to_string()),
    };
    Arc::new(BucketError::NotUnderstood { action, bucket: bucket.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(action: Action, status: u16, name: &str) -> BucketError {
        BucketError::Refused {
            action,
            bucket: "s3://b".to_owned(),
            status,
            code: Code::parse(name),
            says: "Please reduce your rate".to_owned(),
            keys: None,
            retry_after: None,
        }
    }

    #[test]
    fn codes_decide_on_whatever_status_they_stand() {
        let pause = Class::Throttled { after: UNTOLD_PAUSE };
        for status in [400, 403, 500, 503] {
            for (name, class) in [
                ("SlowDown", pause),
                ("RequestTimeout", Class::Transient),
                ("InternalError", Class::Unavailable),
                ("NoSuchBucket", Class::CacheWaits),
                ("AccessDenied", Class::Credentials),
                ("SignatureDoesNotMatch", Class::Credentials),
                ("InvalidAccessKeyId", Class::Credentials),
                ("RequestTimeTooSkewed", Class::CacheWaits),
                ("EntityTooLarge", Class::Permanent),
                ("BadDigest", Class::Doubtful),
            ] {
                assert_eq!(refused(Action::Upload, status, name).class(), class, "{name} on {status}");
            }
        }
        for (action, status, class) in [
            (Action::Upload, 401, Class::Credentials),
            (Action::Missing, 403, Class::Credentials),
            (Action::Upload, 408, Class::Transient),
            (Action::Missing, 408, Class::Unavailable),
            (Action::Upload, 429, pause),
            (Action::Upload, 503, Class::Unavailable),
            (Action::Upload, 413, Class::Permanent),
            (Action::Upload, 400, Class::Doubtful),
            (Action::Missing, 400, Class::CacheWaits),
            (Action::Configuration, 404, Class::CacheWaits),
            (Action::Missing, 502, Class::Unavailable),
        ] {
            assert_eq!(refused(action, status, "").class(), class, "{action:?} {status}");
            assert_eq!(refused(action, status, "Whatever").class(), class, "{action:?} {status}");
        }
    }

    #[test]
    fn what_is_no_key_is_not_repeated() {
        // A key that is encoded twice, as by Terraform's `jsonencode`.
        let error = serde_json::from_str::<Vec<u8>>(r#""{\"private_key\": \"s3cret\"}""#).expect_err("no key");
        assert!(error.to_string().contains("s3cret"), "{error}");
        let error = object_store::Error::Generic { store: "GCS", source: Box::new(error) };
        let error = unwrapped(Action::Configuration, "gs://b", &error).to_string();
        assert!(!error.contains("s3cret") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn what_never_left_this_host_was_certainly_not_done() {
        let none = BucketError::NoCredentials { bucket: "s3://b".to_owned(), problem: String::new() };
        assert!(none.is_certain() && refused(Action::Upload, 403, "AccessDenied").is_certain());
        for (status, name) in [(500, "InternalError"), (409, "ConditionalRequestConflict"), (400, "RequestTimeout")] {
            assert!(!refused(Action::Upload, status, name).is_certain(), "{name}");
        }
    }

    #[test]
    fn messages_say_what_to_do() {
        let host = "https://127.0.0.1:3900".to_owned();
        let plain = BucketError::from(HttpError::NotEncrypted { action: Action::Greeting, host });
        assert_eq!(plain.class(), Class::CacheWaits);
        let plain = plain.to_string();
        assert!(plain.contains("or write `endpoint=http://127.0.0.1:3900` into the `url`"), "{plain}");
        assert_eq!(
            refused(Action::Upload, 403, "AccessDenied").to_string(),
            "upload at s3://b: AccessDenied (403): Please reduce your rate; the key must be allowed to read, write and \
             delete objects in that bucket"
        );
        assert_eq!(
            refused(Action::Missing, 502, "").to_string(),
            "ask what is missing at s3://b: 502 Bad Gateway: Please reduce your rate"
        );
        let says = "Forbidden: Invalid signature".to_owned();
        let wrong = BucketError::Refused {
            action: Action::Upload,
            bucket: "s3://b".to_owned(),
            status: 403,
            code: Code::parse("AccessDenied").told_apart(&says),
            says,
            keys: Some("`secret_access_key` from /run/s3".into()),
            retry_after: None,
        };
        assert_eq!(
            wrong.to_string(),
            "upload at s3://b: AccessDenied (403): Invalid signature; the secret key does not belong to the \
             key's id, or `region` is wrong; it was asked with `secret_access_key` from /run/s3"
        );
        let nobodys = Code::parse("AccessDenied").told_apart("Forbidden: No such key: GK0");
        assert!(matches!(nobodys, Code::InvalidAccessKeyId(_)), "{nobodys:?}");
        let read_only = Code::parse("AccessDenied").told_apart("Forbidden: Operation is not allowed for this key.");
        assert!(matches!(read_only, Code::AccessDenied(_)), "{read_only:?}");
        let skewed = Code::parse("InvalidRequest").told_apart("Date is too old");
        assert!(matches!(skewed, Code::RequestTimeTooSkewed(_)), "{skewed:?}");
        for name in ["NoSuchBucket", "SignatureDoesNotMatch", "InvalidAccessKeyId", "RequestTimeTooSkewed"] {
            assert!(Code::parse(name).cure().is_some(), "{name}");
        }
    }
}
