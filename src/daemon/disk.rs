//! The file systems that are watched, and what becomes of what is seen: noted in the queue, told in the log, and handed to
//! who decides by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, watch as watching};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::caches;
use crate::config::{Config, NixStore};
use crate::disk::{Event, Level, Levels, Monitor, News, Place, Places, Room, Sight, Standing, Terms, Thresholds, What};
use crate::policy::ByteSize;
use crate::queue::{DiskView, QueueHandle, now};
use crate::report::one_line;

/// The file systems of the store, of the state directory, and of each cache in a directory.
pub(super) fn places(
    config: Option<&Config>,
    thresholds: &Thresholds,
    state_dir: &Path,
    nix: Option<&NixStore>,
) -> Vec<(What, PathBuf, Terms)> {
    let terms = Terms { thresholds: *thresholds, reserve: None };
    let store = nix.map(|nix| (What::Store, nix.real.clone(), terms));
    let state = (What::State, state_dir.to_owned(), terms);
    let caches = config.into_iter().flat_map(|config| &config.caches);
    let caches = caches.filter_map(|cache| caches::place(cache, thresholds));
    store.into_iter().chain([state]).chain(caches).collect()
}

fn places_of(config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<(What, PathBuf, Terms)> {
    places(Some(config), &config.disk, state_dir, Some(nix))
}

/// The monitor at work.
pub(super) struct Watching {
    /// What is watched, which the caches look at, too.
    pub(super) places: Places,
    /// How they are off.
    pub(super) levels: watching::Receiver<Levels>,
    /// Ends only by a defect.
    pub(super) monitor: JoinHandle<()>,
    watched: watching::Sender<Vec<Arc<Place>>>,
}

impl Watching {
    /// Begins to watch. When this returns, everything has been looked at once. `bell` is rung when something has changed.
    pub(super) async fn start(
        queue: QueueHandle,
        config: &Config,
        state_dir: &Path,
        nix: &NixStore,
        bell: Arc<Notify>,
    ) -> Self {
        let places = Places::default();
        let (watched, receiver) = watching::channel(places.watch(places_of(config, state_dir, nix)));
        let mut monitor = Monitor::new(receiver);
        let (tell_levels, levels) = watching::channel(Levels::default());
        look(&mut monitor, Event::Told, &queue, &tell_levels, &bell).await;
        let monitor = tokio::spawn(async move {
            loop {
                let event = monitor.next_event().await;
                look(&mut monitor, event, &queue, &tell_levels, &bell).await;
            }
        });
        Self { places, levels, monitor, watched }
    }

    /// Watches what this configuration names from now on.
    pub(super) fn serve(&self, config: &Config, state_dir: &Path, nix: &NixStore) {
        self.watched.send_replace(self.places.watch(places_of(config, state_dir, nix)));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

async fn look(
    monitor: &mut Monitor,
    event: Event,
    queue: &QueueHandle,
    levels: &watching::Sender<Levels>,
    bell: &Notify,
) {
    let news = monitor.apply(event).await;
    if news.is_empty() && event != Event::Told {
        return;
    }
    let disks: Vec<DiskView> = monitor.standings().map(view).collect();
    // In this order, so that whoever has read the log finds it in the queue. That a full disk doesn't take the note is no
    // reason not to act by what was seen.
    if let Err(error) = queue.call_once(move |queue| queue.note_disks(&disks)).await {
        debug!("{}", one_line(&error));
    }
    let seen = monitor.levels();
    let have_changed = levels.send_if_modified(|before| std::mem::replace(before, seen.clone()) != seen);
    together(&news).iter().for_each(|group| tell(group));
    // Not when others are watched and all is as it was: the policy is just changing, and what is claimed now is claimed by
    // the old one.
    if have_changed {
        bell.notify_one();
    }
}

fn view(Standing { place, level, seen }: &Standing) -> DiskView {
    DiskView {
        place: place.what().to_string(),
        path: place.path().display().to_string(),
        level: level.name().to_owned(),
        since: now(),
        found: seen.as_ref().map_or_else(|_| "not known".to_owned(), |sight| in_words(&sight.room)),
        unseen: seen.as_ref().err().map(|unseen| one_line(unseen)),
    }
}

/// What has happened to one file system is told once, whatever lies on it.
fn together(news: &[News]) -> Vec<Vec<&News>> {
    let mut groups: Vec<Vec<&News>> = Vec::new();
    let what = |news: &News| Some((news.now.seen.as_ref().ok()?.device, news.before, news.now.level, news.was_seen));
    for one in news {
        match groups.iter_mut().find(|group| what(one).is_some() && what(group[0]) == what(one)) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

fn tell(group: &[&News]) {
    let names: Vec<String> = group.iter().map(|news| news.now.place.what().to_string()).collect();
    let (names, News { now, before, was_seen }) = (names.join(", "), group[0]);
    match &now.seen {
        Err(unseen) => {
            let what_now = match now.place.what() {
                What::Cache(_) => "nothing is put there until it can be seen again".to_owned(),
                What::Store | What::State => format!("it is taken to be as it was seen last, {}", now.level),
            };
            warn!("the disk of {names} can't be seen: {}; {what_now}", one_line(unseen));
        }
        Ok(Sight { room, level, .. }) => {
            let room = in_words(room);
            if !was_seen {
                info!("the disk of {names} can be seen again");
            }
            match level.cmp(before) {
                std::cmp::Ordering::Greater => {
                    let whats: Vec<&What> = group.iter().map(|news| news.now.place.what()).collect();
                    warn!("the disk of {names} is {level}: {room}; {}", consequences(*level, &whats));
                }
                std::cmp::Ordering::Less if *level == Level::Ok => info!("the disk of {names} has room again: {room}"),
                std::cmp::Ordering::Less => info!("the disk of {names} is no longer {before}, only {level}: {room}"),
                std::cmp::Ordering::Equal => {}
            }
        }
    }
}

/// What follows from it.
fn consequences(level: Level, whats: &[&What]) -> String {
    let mut follows = vec!["backfill waits"];
    if whats.contains(&&What::Store) {
        follows.push("what Nix would collect goes first");
    }
    if level == Level::Critical {
        if whats.contains(&&What::Store) {
            follows.push("nothing queued is kept from Nix's garbage collector");
        }
        if whats.iter().any(|what| matches!(what, What::Cache(_))) {
            follows.push("nothing is put into a cache there");
        }
    }
    follows.join(", ")
}

/// What is free, for people: `1.2 GiB of 20.0 GiB and 40 % of the inodes are free`.
pub(super) fn in_words(room: &Room) -> String {
    let Room { space, inodes } = room;
    let space = format!("{} of {}", ByteSize(space.free), ByteSize(space.all));
    // Some file systems have no fixed number of inodes, and say 0.
    match inodes.all {
        0 => format!("{space} are free"),
        _ => format!("{space} and {} % of the inodes are free", inodes.percent()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Share, Unseen};

    fn news(what: What, device: Option<u64>, before: Level, level: Level) -> News {
        let place = Arc::new(Place::new(what, "/a".into(), Terms::default()));
        let seen = device
            .map(|device| Sight { device, room: Room::default(), level })
            .ok_or_else(|| Unseen::Unmounted { path: "/a".into() });
        News { now: Standing { place, level, seen }, before, was_seen: true }
    }

    #[test]
    fn what_lies_on_one_disk_is_told_together() {
        let cache = |name: &str| What::Cache(name.to_owned());
        let all = [
            news(What::Store, Some(1), Level::Ok, Level::Low),
            news(What::State, Some(2), Level::Ok, Level::Low),
            news(cache("a"), Some(1), Level::Ok, Level::Low),
            news(cache("b"), None, Level::Ok, Level::Ok),
            news(cache("c"), None, Level::Ok, Level::Ok),
            news(cache("d"), Some(1), Level::Low, Level::Critical),
        ];
        let sizes: Vec<usize> = together(&all).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1, 1]);
    }

    #[test]
    fn what_follows_is_said() {
        let cache = What::Cache("a".to_owned());
        assert_eq!(consequences(Level::Low, &[&What::State, &cache]), "backfill waits");
        let all = consequences(Level::Critical, &[&What::Store, &cache]);
        let expected = "backfill waits, what Nix would collect goes first, nothing queued is kept from Nix's garbage \
                        collector, nothing is put into a cache there";
        assert_eq!(all, expected);
    }

    #[test]
    fn inodes_are_named_where_they_are_counted() {
        let space = Share { free: 3 << 29, all: 20 << 30 };
        assert_eq!(in_words(&Room { space, inodes: Share::default() }), "1.5 GiB of 20.0 GiB are free");
        let inodes = Share { free: 4, all: 10 };
        assert_eq!(in_words(&Room { space, inodes }), "1.5 GiB of 20.0 GiB and 40 % of the inodes are free");
    }
}
