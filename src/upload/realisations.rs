//! Realisations of a path that is in a cache already: they are beside it, and what goes wrong with them keeps no path back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::cache::{Cache, Class};
use crate::nix::PathInfo;
use crate::policy::CacheName;
use crate::report::one_line;

/// So often they are tried to be added, where it isn't they that the cache refuses.
const TRIES: u32 = 3;

/// A cache that takes nothing, or has no room, is tried so often: that may have been for a moment.
const TRIES_WHILE_IT_WAITS: u32 = 2;

/// Between two tries: what is over by then was a hiccup.
const PAUSE: Duration = Duration::from_secs(1);

/// A longer pause that a cache asks for isn't kept: whose realisations they are holds a place meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Adds what Nix has noted of the path by now. What can't be added is told, and can be added by hand: the path is there, and
/// neither it nor its cache is to suffer for them.
pub(super) async fn add(cache: &Arc<dyn Cache>, name: &CacheName, info: &PathInfo) {
    for tried in 1.. {
        let Err(error) = Arc::clone(cache).add_realisations(info.clone()).await else { return };
        let Some(pause) = pause(&error.class(), tried) else {
            let (path, why) = (&info.path, one_line(&error));
            warn!(%path, cache = %name, "it is there, but not its realisations; `storewatch push` adds them: {why}");
            return;
        };
        sleep(pause).await;
    }
}

/// How long to wait before the next try, if there is to be one after that many.
fn pause(class: &Class, tried: u32) -> Option<Duration> {
    let (tries, pause) = match class {
        Class::Transient | Class::Unavailable => (TRIES, PAUSE),
        Class::Throttled { after } => (TRIES, (*after).min(LONGEST_PAUSE)),
        Class::CacheWaits | Class::NoRoomYet => (TRIES_WHILE_IT_WAITS, PAUSE),
        _ => return None,
    };
    (tried < tries).then_some(pause)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::cache::{BoxFuture, CacheError, NarFailure, Push, Pushed};
    use crate::nix::{NarHash, StorePath};

    /// Takes no realisations.
    struct Refusing {
        asked: AtomicU32,
        refusal: fn() -> CacheError,
    }

    impl Cache for Refusing {
        fn missing<'a>(&'a self, _: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
            unreachable!("nobody asks")
        }

        fn answers_hold(&self) -> Duration {
            Duration::ZERO
        }

        fn push(self: Arc<Self>, _: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
            unreachable!("nothing is pushed here")
        }

        fn add_realisations(self: Arc<Self>, _: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Err((self.refusal)()) })
        }
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_within_bounds() {
        let throttled = |seconds| Class::Throttled { after: Duration::from_secs(seconds) };
        assert_eq!(pause(&throttled(7), 1), Some(Duration::from_secs(7)));
        assert_eq!(pause(&throttled(3_600), 1), Some(LONGEST_PAUSE));
        assert_eq!(pause(&throttled(7), TRIES), None);
        assert_eq!([1, 2].map(|tried| pause(&Class::CacheWaits, tried)), [Some(PAUSE), None], "it is tried once more");
        assert_eq!(pause(&Class::Credentials, 1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_what_is_refused_is_not() {
        let info = PathInfo {
            id: None,
            path: StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-x").expect("a path"),
            nar_hash: NarHash::from_hex(&format!("sha256:{}", "0".repeat(64))).expect("a hash"),
            nar_size: 0,
            registration_time: 0,
            deriver: None,
            ultimate: true,
            sigs: Vec::new(),
            ca: None,
            references: None,
        };
        let name = CacheName::new("team").expect("a name");
        let lost: fn() -> CacheError = || CacheError::LostThread { action: "write" };
        let unpackable: fn() -> CacheError = || NarFailure::Unpackable { source: Arc::new(std::fmt::Error) }.into();
        for (refusal, tries) in [(lost, TRIES), (unpackable, 1)] {
            let refusing = Arc::new(Refusing { asked: AtomicU32::new(0), refusal });
            let cache: Arc<dyn Cache> = refusing.clone();
            add(&cache, &name, &info).await;
            assert_eq!(refusing.asked.load(Ordering::Relaxed), tries, "{}", refusal());
        }
    }
}
