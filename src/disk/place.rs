//! A place whose file system is watched, by whoever writes there and by the monitor alike.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::aside::Ledger;
use super::{Level, Room, SetAside, Threshold, Thresholds, level};

/// What lies at a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The Nix store.
    Store,
    /// The state directory.
    State,
    /// A cache in a directory, by its name.
    Cache(String),
}

/// What is asked of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What is little, and what is next to nothing.
    pub thresholds: Thresholds,
    /// What is written there leaves at least so much free, whatever the level.
    pub reserve: Option<Threshold>,
}

/// A place and what was last seen of its file system.
#[derive(Debug)]
pub struct Place {
    what: What,
    path: PathBuf,
    state: Mutex<State>,
    ledger: Ledger,
    /// Whether somebody's look has gone without an answer for too long.
    hangs: AtomicBool,
}

#[derive(Debug)]
struct State {
    terms: Terms,
    level: Level,
    mount: Option<Mount>,
}

/// Where a file system is mounted, as far as it can be told one day that it no longer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    /// The device of the folder that it is mounted on; `None` for the root.
    beneath: Option<u64>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The file system, by its device: places on the same one have the same.
    pub device: u64,
    /// What is free.
    pub room: Room,
    /// What that means.
    pub level: Level,
}

/// Why a file system can't be seen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unseen {
    /// It was mounted there, and what is there now is what it was mounted on. To write there would fill another disk, and
    /// be gone from sight as soon as the right one is back.
    #[error("the file system at {path} is gone: it was unmounted")]
    Unmounted {
        /// The place.
        path: PathBuf,
    },
    /// It can't be asked.
    #[error("ask how much room there is in {path}")]
    Silent {
        /// The place.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// It is asked and doesn't answer: it is on a server that is away, or on a disk that is broken.
    #[error("the file system at {path} doesn't answer")]
    Hangs {
        /// The place.
        path: PathBuf,
    },
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Space.
    Space,
    /// Inodes.
    Inodes,
}

/// Why nothing more may be written to a place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoRoom {
    /// There would be too little left.
    #[error("{}", too_little(_0))]
    Short(Shortage),
    /// There would be too little left, which less than this would leave: only what is as large waits for room.
    #[error("{}; smaller ones go on", too_little(_0))]
    TooLarge(Shortage),
    /// It isn't known.
    #[error(transparent)]
    Unseen(#[from] Unseen),
}

/// What there would be too little of.
#[derive(Clone, Debug)]
pub struct Shortage {
    /// Of what.
    pub scarce: Scarce,
    /// The place.
    pub path: PathBuf,
    /// What would be left, in per cent.
    pub percent: u64,
    /// What is to be left, where that is more than what is critical, in per cent.
    pub reserve: Option<u8>,
}

fn too_little(Shortage { scarce, path, percent, reserve }: &Shortage) -> String {
    let of = if *scarce == Scarce::Inodes { "of the inodes " } else { "" };
    let path = path.display();
    match reserve {
        Some(reserve) => format!(
            "it would leave {percent} % {of}of the file system of {path} free, and the cache takes nothing below {reserve} %"
        ),
        None => format!(
            "it would leave {percent} % {of}of the file system of {path} free, and the cache takes nothing where that is \
             critical"
        ),
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::State => f.write_str("state directory"),
            Self::Cache(name) => write!(f, "cache {name}"),
        }
    }
}

impl Place {
    /// A place that nobody has looked at yet. It need not be there: then the nearest folder above it is looked at.
    #[must_use]
    pub fn new(what: What, path: PathBuf, terms: Terms) -> Self {
        let state = Mutex::new(State { terms, level: Level::Ok, mount: None });
        Self { what, path, state, ledger: Ledger::default(), hangs: AtomicBool::new(false) }
    }

    /// The same, among others that may lie on the same file system.
    pub(super) fn sharing(self, ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), ..self }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What lies there.
    #[must_use]
    pub fn what(&self) -> &What {
        &self.what
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is asked of it.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.lock().terms
    }

    /// Asks something else of it from now on.
    pub(super) fn set_terms(&self, terms: Terms) {
        self.lock().terms = terms;
    }

    /// Notes whether the file system gives no answer: then who wants to write there is told so at once, rather than that each
    /// comes to hang there, too.
    pub(super) fn note_hanging(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Looks how much room there is, and notes what that means. Blocks, for ever where the file system hangs.
    ///
    /// # Errors
    /// [`Unseen::Unmounted`], [`Unseen::Silent`]; then the level stays what it was.
    pub fn look(&self) -> Result<Sight, Unseen> {
        let silent = |source| Unseen::Silent { path: self.path.clone(), source: Arc::new(source) };
        // Looked at before the lock is taken, so that only who looks hangs with it.
        let (there, device) = nearest(&self.path).map_err(silent)?;
        let room = Room::of(there).map_err(silent)?;
        let known = self.lock().mount.filter(|mount| mount.device == device);
        let beneath = match known {
            Some(mount) => mount.beneath,
            None => beneath(there, device).map_err(silent)?,
        };
        let mut state = self.lock();
        if state.mount.is_some_and(|mount| mount.beneath == Some(device)) {
            return Err(Unseen::Unmounted { path: self.path.clone() });
        }
        let mount = Mount { device, beneath };
        if state.mount.replace(mount).is_some_and(|before| before.device != device) {
            // Another one is there now, of which nothing was known.
            state.level = Level::Ok;
        }
        state.level = level(&room, &state.terms.thresholds, state.level);
        Ok(Sight { device, room, level: state.level })
    }

    /// Whether so many bytes more may be written there: they must leave more than what is critical, and the reserve. Blocks
    /// as [`Place::look`] does.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn admits(&self, bytes: u64) -> Result<(), NoRoom> {
        self.admits_beside(0, bytes)
    }

    /// Whether so many bytes more may be written there beside those that others have been promised. Where these alone would
    /// leave too little, it isn't for the size of what comes last.
    fn admits_beside(&self, promised: u64, bytes: u64) -> Result<(), NoRoom> {
        let Sight { room, level: now, .. } = self.look_unless_it_hangs()?;
        let Some(shortage) = self.shortage(room.with(promised.saturating_add(bytes)), now) else { return Ok(()) };
        let is_for_all = self.shortage(room.with(promised), now).is_some();
        Err(if is_for_all { NoRoom::Short(shortage) } else { NoRoom::TooLarge(shortage) })
    }

    fn look_unless_it_hangs(&self) -> Result<Sight, Unseen> {
        if self.hangs.load(Ordering::Relaxed) {
            return Err(Unseen::Hangs { path: self.path.clone() });
        }
        self.look()
    }

    /// What there is too little of with so much room.
    fn shortage(&self, room: Room, now: Level) -> Option<Shortage> {
        let Terms { thresholds, reserve } = self.terms();
        let short = |scarce, percent, reserve| Some(Shortage { scarce, path: self.path.clone(), percent, reserve });
        let percent = room.space.percent();
        if let Some(reserve) = reserve
            && room.space.free < reserve.of(room.space.all, 100)
        {
            let Threshold::Percent(needed) = reserve else { return short(Scarce::Space, percent, None) };
            return short(Scarce::Space, percent, Some(needed));
        }
        if level(&room, &thresholds, now) < Level::Critical {
            return None;
        }
        let space_alone = Room { inodes: super::Share::default(), ..room };
        if level(&space_alone, &thresholds, now) == Level::Critical {
            short(Scarce::Space, percent, None)
        } else {
            short(Scarce::Inodes, room.inodes.percent(), None)
        }
    }

    /// Sets aside so many bytes for a file that is begun now, if they and all that is set aside already may be written to
    /// its file system. Blocks as [`Place::look`] does.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn set_aside(self: &Arc<Self>, bytes: u64) -> Result<SetAside, NoRoom> {
        let device = self.look_unless_it_hangs()?.device;
        // What can't be packed gets a little larger, and is not to be given up at its end for that.
        let bytes = bytes.saturating_add(bytes / 64);
        // Noted before what is free is looked at: who looks at the same time counts on no less than this.
        let all = self.ledger.add(device, bytes);
        let aside = SetAside::new(Arc::clone(self), device, bytes);
        self.admits_beside(all.saturating_sub(bytes), bytes)?;
        Ok(aside)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path, or the nearest folder above it that is there, and its device.
///
/// # Errors
/// What the system says of the first that can't be looked at.
pub fn nearest(path: &Path) -> io::Result<(&Path, u64)> {
    for candidate in path.ancestors() {
        match fs::metadata(candidate) {
            Ok(found) => return Ok((candidate, found.dev())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// The device of the folder that the file system of `path` is mounted on.
fn beneath(path: &Path, device: u64) -> io::Result<Option<u64>> {
    // Symlinks aside: the folder above a link isn't the one above what it leads to.
    let path = path.canonicalize()?;
    for above in path.ancestors().skip(1) {
        match fs::metadata(above) {
            Ok(above) if above.dev() == device => {}
            Ok(above) => return Ok(Some(above.dev())),
            // Where it can't be known, it can't be told either that it is gone.
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(critical: u8) -> Terms {
        let thresholds = Thresholds { low: Threshold::Percent(50), critical: Threshold::Percent(critical) };
        Terms { thresholds, reserve: None }
    }

    #[test]
    fn what_isnt_there_yet_will_lie_where_the_folder_above_it_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place::new(What::State, dir.path().join("a/b"), terms(0));
        let seen = place.look().expect("seen");
        assert_eq!(seen.device, fs::metadata(dir.path()).expect("there").dev());
        assert!(seen.room.space.all > 0);
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        Place::new(What::State, file.join("below"), terms(0)).look().expect("the file is seen instead");
    }

    #[test]
    fn no_more_is_admitted_than_leaves_enough() {
        let dir = tempfile::tempdir().expect("a folder");
        let all = Room::of(dir.path()).expect("asked").space.all;
        let place = Place::new(What::Cache("team".to_owned()), dir.path().to_owned(), terms(0));
        place.admits(0).expect("a threshold of nothing");
        place.admits(all * 2).expect("whatever its size, should it shrink when it is packed");
        place.set_terms(Terms { reserve: Some(Threshold::Percent(10)), ..terms(0) });
        let refused = place.admits(all).expect_err("too large").to_string();
        assert!(refused.contains("leave 0 % of the file system of"), "{refused}");
        assert!(refused.contains("and the cache takes nothing below 10 %"), "{refused}");
        place.set_terms(terms(1));
        let refused = place.admits(all).expect_err("too large");
        assert!(matches!(refused, NoRoom::TooLarge(_)), "less than that goes on: {refused}");
        assert!(refused.to_string().ends_with("takes nothing where that is critical; smaller ones go on"), "{refused}");
        let promised = all;
        assert!(matches!(place.admits_beside(promised, 1), Err(NoRoom::Short(_))), "a byte is not what is too large");
        place.set_terms(terms(100));
        assert!(matches!(place.admits(0), Err(NoRoom::Short(_))), "nothing goes on");
    }

    #[test]
    fn what_it_was_mounted_on_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place::new(What::Cache("team".to_owned()), dir.path().to_owned(), terms(0));
        let device = place.look().expect("seen").device;
        // As if another file system had been mounted on the one that is seen from now on.
        place.lock().mount = Some(Mount { device: device + 1, beneath: Some(device) });
        let gone = place.look().expect_err("gone").to_string();
        assert!(gone.ends_with("is gone: it was unmounted"), "{gone}");
        assert!(matches!(place.admits(0), Err(NoRoom::Unseen(Unseen::Unmounted { .. }))));
        // And as if a third one were mounted now.
        place.lock().mount = Some(Mount { device: device + 1, beneath: Some(device + 2) });
        place.lock().level = Level::Critical;
        assert_eq!(
            place.look().expect("seen").level,
            level(&place.look().expect("seen").room, &terms(0).thresholds, Level::Ok)
        );
    }

    #[test]
    fn where_a_look_hangs_nobody_else_is_let_look() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Arc::new(Place::new(What::Cache("team".to_owned()), dir.path().to_owned(), terms(0)));
        place.note_hanging(true);
        assert!(matches!(place.admits(0), Err(NoRoom::Unseen(Unseen::Hangs { .. }))));
        assert!(matches!(place.set_aside(1), Err(NoRoom::Unseen(Unseen::Hangs { .. }))));
        place.look().expect("who watches it looks all the same");
        place.note_hanging(false);
        place.admits(0).expect("it answers again");
    }
}
