//! What a status means, for the path that was sent or for its cache.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Action;
use super::answer::ServerSays;
use crate::cache::Class;

/// A server that asks for a pause and doesn't say how long is left alone for this time.
pub(in crate::cache) const UNTOLD_PAUSE: Duration = Duration::from_secs(5);

/// No pause is shorter or longer, whatever a server asks for. Zero would be no pause at all, and more than an hour is taken
/// for a mistake, which costs one request.
const TOLD_PAUSES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);

/// What a status means.
pub(super) fn class_of(action: Action, status: u16, says: &ServerSays, retry_after: Option<Duration>) -> Class {
    // The fault may be that of one path.
    let uploading = matches!(action, Action::Upload | Action::Put);
    let of_the_path = |class| if uploading { class } else { Class::CacheWaits };
    match status {
        // Who may put things there needn't be allowed to do more, and some call that a bad request.
        400 | 401 | 403 if matches!(action, Action::Delete | Action::MakeFolder) => Class::Permanent,
        401 => Class::Credentials,
        403 if action == Action::Put => Class::Credentials,
        // The server takes no files there as it is set up, whatever the path.
        400 if action == Action::Put && says.is_an_object_stores() => Class::CacheWaits,
        405 | 409 | 411 | 501 | 507 if action == Action::Put => Class::CacheWaits,
        // A server that knows the token says so in its own words; what stands in front of it may dislike one path.
        403 if !uploading || says.is_attics() => Class::Credentials,
        429 => Class::Throttled { after: within(retry_after.unwrap_or(UNTOLD_PAUSE)) },
        503 => match retry_after {
            Some(after) => Class::Throttled { after: within(after) },
            None => Class::Unavailable,
        },
        // It has waited too long, perhaps for what might not be sent.
        408 if uploading => Class::Transient,
        // A proxy that cuts a body makes the server call the request bad. A time-out may be the path's size.
        400 | 504 | 524 if uploading => Class::Doubtful,
        408 | 421 | 423 | 425 | 500..=599 => Class::Unavailable,
        404 | 407 => Class::CacheWaits,
        _ => of_the_path(Class::Permanent),
    }
}

/// A pause that a server asks for, as far as it is believed.
pub(in crate::cache) fn within(pause: Duration) -> Duration {
    pause.clamp(*TOLD_PAUSES.start(), *TOLD_PAUSES.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(action: Action, status: u16, answer: &str, retry_after: Option<Duration>) -> Class {
        class_of(action, status, &ServerSays::read(answer.as_bytes(), str::to_owned), retry_after)
    }

    #[test]
    fn every_status_means_something_for_the_path_or_for_the_cache() {
        use Action::{Configuration, Delete, Look, Missing, Put, Read, Upload};
        let attic = r#"{"code":403,"error":"AccessError","message":"no"}"#;
        for (action, code, answer, expected) in [
            (Upload, 401, "", Class::Credentials),
            (Missing, 401, "", Class::Credentials),
            (Upload, 403, attic, Class::Credentials),
            (Upload, 403, "<html>", Class::Permanent),
            (Missing, 403, "<html>", Class::Credentials),
            (Upload, 413, "", Class::Permanent),
            (Upload, 400, "", Class::Doubtful),
            (Missing, 400, "", Class::CacheWaits),
            (Upload, 504, "", Class::Doubtful),
            (Missing, 504, "", Class::Unavailable),
            (Upload, 500, "", Class::Unavailable),
            (Upload, 502, "", Class::Unavailable),
            (Configuration, 404, "", Class::CacheWaits),
            (Upload, 418, "", Class::Permanent),
            (Upload, 429, "", Class::Throttled { after: UNTOLD_PAUSE }),
            (Upload, 503, "", Class::Unavailable),
            (Read, 401, "", Class::Credentials),
            (Look, 403, "", Class::Credentials),
            (Look, 502, "", Class::Unavailable),
            (Put, 401, "", Class::Credentials),
            (Put, 400, "", Class::Doubtful),
            (Put, 400, "<h1>400 Bad Request</h1>\n<ul>\n<li>Code: InvalidRequest</li>", Class::CacheWaits),
            (Put, 403, "<html>", Class::Credentials),
            (Put, 404, "", Class::CacheWaits),
            (Put, 405, "", Class::CacheWaits),
            (Put, 409, "", Class::CacheWaits),
            (Put, 413, "", Class::Permanent),
            (Put, 429, "", Class::Throttled { after: UNTOLD_PAUSE }),
            (Put, 500, "", Class::Unavailable),
            (Put, 504, "", Class::Doubtful),
            (Put, 507, "", Class::CacheWaits),
            (Delete, 400, "", Class::Permanent),
            (Delete, 403, "", Class::Permanent),
        ] {
            assert_eq!(class(action, code, answer, None), expected, "{action}: {code} {answer}");
        }
        let asked = class(Upload, 503, "", Some(Duration::from_secs(7)));
        assert_eq!(asked, Class::Throttled { after: Duration::from_secs(7) });
        let day = class(Upload, 429, "", Some(Duration::from_secs(86_400)));
        assert_eq!(day, Class::Throttled { after: *TOLD_PAUSES.end() });
        let none = class(Upload, 429, "", Some(Duration::ZERO));
        assert_eq!(none, Class::Throttled { after: *TOLD_PAUSES.start() });
    }
}
