//! Looks at all places again and again, and says what has changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use super::pace::next_look;
use super::{Level, Place, Room, Sight, Unseen, What};

/// How long a file system may take to answer; those on this host take microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// One that can't be seen is looked at again after so long.
const WHILE_UNSEEN: Duration = Duration::from_secs(5);

/// Watches places.
pub struct Monitor {
    places: watch::Receiver<Vec<Arc<Place>>>,
    watched: Vec<Watched>,
    next_look: Instant,
}

/// What the monitor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to look.
    Due,
    /// Others are to be watched.
    Told,
}

/// A place and how it is off.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The place.
    pub place: Arc<Place>,
    /// Its level; where it can't be seen, what it was when it was seen last.
    pub level: Level,
    /// What was seen just now.
    pub seen: Result<Sight, Unseen>,
}

/// That a place is off otherwise than when it was last told of.
#[derive(Clone, Debug)]
pub struct News {
    /// How it is now.
    pub now: Standing,
    /// Its level before.
    pub before: Level,
    /// Whether it could be seen before.
    pub was_seen: bool,
}

/// How the file systems are off, for those who decide by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    store: Level,
    state: Level,
    caches: BTreeMap<String, Level>,
}

struct Watched {
    standing: Standing,
    /// What was seen when, to tell how fast it falls.
    last: Option<(Room, Instant)>,
    next: Instant,
    /// A look that hasn't come to its end.
    looking: Option<JoinHandle<Result<Sight, Unseen>>>,
}

impl Levels {
    /// How the store's file system is off.
    #[must_use]
    pub fn store(&self) -> Level {
        self.store
    }

    /// How the state directory's file system is off.
    #[must_use]
    pub fn state(&self) -> Level {
        self.state
    }

    /// Whether Nix needs the space that is kept from its garbage collector.
    #[must_use]
    pub fn store_needs_space(&self) -> bool {
        self.store == Level::Critical
    }

    /// How the file system of a cache in a directory is off.
    #[must_use]
    pub fn cache(&self, name: &str) -> Level {
        self.caches.get(name).copied().unwrap_or_default()
    }

    /// Whether what was there before may be brought into this cache: that can wait until there is room again, here and there.
    #[must_use]
    pub fn let_backfill_into(&self, cache: &str) -> bool {
        [self.store, self.state, self.cache(cache)].iter().all(|level| *level == Level::Ok)
    }
}

impl<'a> FromIterator<(&'a What, Level)> for Levels {
    fn from_iter<I: IntoIterator<Item = (&'a What, Level)>>(places: I) -> Self {
        let mut levels = Self::default();
        for (what, level) in places {
            match what {
                What::Store => levels.store = level,
                What::State => levels.state = level,
                What::Cache(name) => drop(levels.caches.insert(name.clone(), level)),
            }
        }
        levels
    }
}

impl Monitor {
    /// Will watch these places, and others as soon as it is told so. Looks for the first time at once.
    #[must_use]
    pub fn new(mut places: watch::Receiver<Vec<Arc<Place>>>) -> Self {
        places.mark_changed();
        Self { places, watched: Vec::new(), next_look: Instant::now() }
    }

    /// Waits until there is something to look at. Cancel-safe.
    pub async fn next_event(&mut self) -> Event {
        tokio::select! {
            biased;
            Ok(()) = self.places.changed() => Event::Told,
            () = sleep_until(self.next_look) => Event::Due,
        }
    }

    /// Looks, and says what has changed since it last said so.
    pub async fn apply(&mut self, event: Event) -> Vec<News> {
        if event == Event::Told {
            self.take_up();
        }
        let mut news = Vec::new();
        for watched in self.watched.iter_mut().filter(|watched| event == Event::Told || watched.next <= Instant::now())
        {
            news.extend(watched.look().await);
        }
        let soonest = self.watched.iter().map(|watched| watched.next).min();
        self.next_look = soonest.unwrap_or_else(|| Instant::now() + WHILE_UNSEEN);
        news
    }

    /// How all of them are off.
    pub fn standings(&self) -> impl Iterator<Item = &Standing> {
        self.watched.iter().map(|watched| &watched.standing)
    }

    /// How all of them are off, in short.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.standings().map(|standing| (standing.place.what(), standing.level)).collect()
    }

    fn take_up(&mut self) {
        let places = self.places.borrow_and_update().clone();
        let mut before = std::mem::take(&mut self.watched);
        let watch = |place: Arc<Place>| {
            let known = before.iter().position(|known| Arc::ptr_eq(&known.standing.place, &place));
            known.map(|known| before.swap_remove(known)).unwrap_or_else(|| Watched::new(place))
        };
        self.watched = places.into_iter().map(watch).collect();
    }
}

impl Watched {
    /// Taken to be well before the first look, so that only what isn't is told of.
    fn new(place: Arc<Place>) -> Self {
        let seen = Ok(Sight { device: 0, room: Room::default(), level: Level::Ok });
        Self { standing: Standing { place, level: Level::Ok, seen }, last: None, next: Instant::now(), looking: None }
    }

    async fn look(&mut self) -> Option<News> {
        let place = Arc::clone(&self.standing.place);
        let looking = self.looking.get_or_insert_with(|| {
            let place = Arc::clone(&place);
            spawn_blocking(move || place.look())
        });
        let seen = match timeout(PATIENCE, looking).await {
            Ok(looked) => {
                self.looking = None;
                let silent = |error: tokio::task::JoinError| Arc::new(std::io::Error::other(error));
                looked.unwrap_or_else(|error| {
                    Err(Unseen::Silent { path: place.path().to_owned(), source: silent(error) })
                })
            }
            // It is waited for, so that no second thread comes to hang there.
            Err(_) => Err(Unseen::Hangs { path: place.path().to_owned() }),
        };
        place.note_hanging(matches!(seen, Err(Unseen::Hangs { .. })));
        let now = Instant::now();
        self.next = now
            + match &seen {
                Ok(sight) => {
                    let before = self.last.replace((sight.room, now));
                    let before = before.map(|(room, at)| (room, now - at));
                    next_look(&sight.room, before, &place.terms().thresholds, sight.level)
                }
                Err(_) => WHILE_UNSEEN,
            };
        let level = seen.as_ref().map_or(self.standing.level, |sight| sight.level);
        let before = std::mem::replace(&mut self.standing, Standing { place, level, seen });
        let was_seen = before.seen.is_ok();
        let is_news = before.level != level || was_seen != self.standing.seen.is_ok();
        is_news.then(|| News { now: self.standing.clone(), before: before.level, was_seen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Terms, Threshold, Thresholds};

    fn place(what: What, path: &std::path::Path, low: u8) -> Arc<Place> {
        let thresholds = Thresholds { low: Threshold::Percent(low), critical: Threshold::Percent(0) };
        Arc::new(Place::new(what, path.to_owned(), Terms { thresholds, reserve: None }))
    }

    #[tokio::test]
    async fn what_has_changed_is_told_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let used = 100 - Room::of(dir.path()).expect("asked").space.percent();
        // Whatever is free here, it is less than all.
        let (tell, places) = watch::channel(vec![place(What::State, dir.path(), 0)]);
        let mut monitor = Monitor::new(places);
        assert_eq!(monitor.next_event().await, Event::Told);
        assert!(monitor.apply(Event::Told).await.is_empty(), "all is well, and nothing to be told");
        assert_eq!(monitor.levels(), Levels::default());
        tell.send_replace(vec![place(What::Store, dir.path(), 100)]);
        assert_eq!(monitor.next_event().await, Event::Told);
        let news = monitor.apply(Event::Told).await;
        let levels: Vec<_> = news.iter().map(|news| (news.now.place.what(), news.before, news.now.level)).collect();
        let expected = [(&What::Store, Level::Ok, Level::Low)];
        assert!(levels == expected || used == 0, "{levels:?}");
        assert!(monitor.apply(Event::Due).await.is_empty());
        assert!(!monitor.levels().let_backfill_into("any") || used == 0);
    }

    #[tokio::test]
    async fn one_that_cant_be_seen_keeps_its_level_and_is_told_once() {
        let dir = tempfile::tempdir().expect("a folder");
        // Below a file of this name nothing can be looked for.
        let name = "a".repeat(300);
        let (_tell, places) = watch::channel(vec![place(What::Cache("team".to_owned()), &dir.path().join(name), 0)]);
        let mut monitor = Monitor::new(places);
        let news = monitor.apply(Event::Told).await;
        let [News { now, before: Level::Ok, was_seen: true }] = news.as_slice() else { panic!("{news:?}") };
        assert!(matches!(now.seen, Err(Unseen::Silent { .. })) && now.level == Level::Ok, "{now:?}");
        assert!(monitor.apply(Event::Told).await.is_empty());
    }

    #[test]
    fn backfill_waits_for_room_here_and_there() {
        let levels = |places: &[(What, Level)]| places.iter().map(|(what, level)| (what, *level)).collect::<Levels>();
        let team = || What::Cache("team".to_owned());
        assert!(levels(&[(What::Store, Level::Ok), (team(), Level::Ok)]).let_backfill_into("team"));
        assert!(!levels(&[(What::Store, Level::Low)]).let_backfill_into("team"));
        assert!(!levels(&[(What::State, Level::Critical)]).let_backfill_into("team"));
        let full = levels(&[(team(), Level::Low)]);
        assert!(!full.let_backfill_into("team") && full.let_backfill_into("other"));
        assert!(!levels(&[(What::Store, Level::Low)]).store_needs_space());
        assert!(levels(&[(What::Store, Level::Critical)]).store_needs_space());
    }
}
