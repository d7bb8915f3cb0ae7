//! What can go wrong with a cache, and what that means for a job.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::{BucketError, InVain};
use super::command::CommandError;
use super::http::HttpError;
use super::{Hindrance, UrlError};
use crate::disk::{NoRoom, Shortage, Unseen};
use crate::nix::{FactsError, NarHash};
use crate::policy::ByteSize;
use crate::report::one_line;
use crate::secret::SecretError;

/// Why an archive could not be read to its end, or is not what Nix registered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NarFailure {
    /// The path's content was changed after Nix had registered it. Uploading it would spread the damage.
    #[error(
        "its content has changed since Nix registered it: {found_size} bytes with hash {found} instead of \
         {registered_size} with {registered}; `nix-store --verify-path` confirms it, `nix-store --repair-path` mends \
         it, then `storewatch queue retry` uploads it"
    )]
    Altered {
        /// What Nix has registered.
        registered: NarHash,
        /// What is there.
        found: NarHash,
        /// Bytes that Nix has registered.
        registered_size: u64,
        /// Bytes that are there.
        found_size: u64,
    },
    /// The files can't be read for now.
    #[error("read its files")]
    Unreadable {
        /// Whether the path itself isn't there at all.
        vanished: bool,
        /// What went wrong.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// No archive can hold what is there, or this user may not read it: trying again changes nothing.
    #[error("pack its files")]
    Unpackable {
        /// What went wrong.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The upload was called off.
    #[error("the upload was called off")]
    Cancelled,
    /// The thread that read it was lost: by a defect, or because the system gives none.
    #[error("the thread that read its files was lost")]
    LostThread,
    /// Other caches took the same archive faster, and went on without this one.
    #[error("it took its archive too slowly to share it with other caches")]
    Behind,
}

/// Why a cache didn't take a path, or can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The archive is at fault, not the cache.
    #[error(transparent)]
    Nar(#[from] NarFailure),
    /// It must not be shown after all.
    #[error(transparent)]
    Hindered(#[from] Hindrance),
    /// The cache is made for another store directory: nobody could use what is put there.
    #[error("{cache} is a cache for the store {theirs}, this host's store is {ours}")]
    OtherStore {
        /// The cache.
        cache: String,
        /// Its `StoreDir`.
        theirs: String,
        /// This host's.
        ours: String,
    },
    /// Nix could not be asked.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// Its server could not be asked, or refused.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Its object store could not be asked, or refused.
    #[error(transparent)]
    Bucket(#[from] Arc<BucketError>),
    /// The same, by who cares for the cache and has asked for an object as often as it is worth it.
    #[error(transparent)]
    InVain(#[from] InVain),
    /// The program that is the cache didn't take it.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The server is there and the cache isn't.
    #[error("{server} has no cache `{cache}`; `attic cache create {cache}` makes one")]
    NoSuchCache {
        /// The server's address.
        server: String,
        /// The cache's name.
        cache: String,
    },
    /// What is in the cache came from this host, or will come back to it.
    #[error(
        "{host} is this host itself ({address}), which does not upload to its own cache; `allow_self = true` lets it"
    )]
    OwnServer {
        /// The host in the cache's URL.
        host: String,
        /// Its address, which is one of this host's.
        address: IpAddr,
    },
    /// The token would cross the network for everybody to read.
    #[error(
        "its server names {api} for its API, which is not encrypted; set `api-endpoint` in the server's configuration to \
         an https address (or let the token go there unencrypted by `allow_unencrypted = true`)"
    )]
    Unencrypted {
        /// The API's address.
        api: String,
    },
    /// A cache in a directory leaves its file system room to breathe, and isn't made on another one in its place.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Its file system is out of sight, as whoever works the queue off says: what is in its place isn't the cache.
    #[error("{why}")]
    OutOfSight {
        /// What was said.
        why: String,
    },
    /// It would drop everything else and be dropped itself.
    #[error(
        "its archive, packed, is larger than {}, and would be dropped as soon as the cache had more than its `max_size`",
        ByteSize(*largest)
    )]
    LargerThanCache {
        /// Bytes that an archive may have, packed.
        largest: u64,
    },
    /// There is nothing to be cared for.
    #[error("there is no binary cache in {cache}: nothing was uploaded yet, or the `url` is another's")]
    NoCacheThere {
        /// The directory, or the bucket.
        cache: String,
    },
    /// By a clock that is far ahead, all that a cache shows is old.
    #[error(
        "by this host's clock, which says {now}, nothing was written into {cache} within the time that is to be kept, nor \
         within a month, but for the last hour: all that it shows would go"
    )]
    RestsTooLong {
        /// The cache.
        cache: String,
        /// What time it is by this host.
        now: String,
    },
    /// The cache's files are not within our reach.
    #[error("this can't be done for such a cache: {why}")]
    NotOurs {
        /// Whose they are, and what to do instead.
        why: &'static str,
    },
    /// The URL names no cache that can be opened.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The signing key can't be had from where it should be.
    #[error("take the signing key")]
    Secret(#[from] SecretError),
    /// The signing key is none.
    #[error("{from} holds no signing key: {problem}; `nix-store --generate-binary-cache-key` writes one")]
    Key {
        /// The file, or what else it should come from.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What was to do it broke off, by a defect of storewatch's, which the log has. Keeps whoever reads it from looking for the
    /// fault at the cache.
    #[error("what was to {action} broke off, by a defect of storewatch: its log has more")]
    LostThread {
        /// What it was to do.
        action: &'static str,
    },
    /// The cache's file system gives no answer, as one does whose server is away.
    #[error("its directory has not answered for {} s; is the server of that file system away?", after.as_secs())]
    Hangs {
        /// For how long.
        after: Duration,
    },
    /// Its server takes what is said to it, and doesn't answer.
    #[error("it has not answered all that it was asked within {} s", after.as_secs())]
    Silent {
        /// For how long it was waited for.
        after: Duration,
    },
    /// The file system said no.
    #[error("{action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something of the cache is not in its format.
    #[error("{file}: {problem}")]
    Malformed {
        /// The file, or its address.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a failure means for the job, or for the cache as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try this path again later: the cause lies on this host, not with the cache.
    Transient,
    /// There is room for smaller ones: this path waits for its own, and holds up no other.
    NoRoomYet,
    /// The cache did not serve a request, which it may the next time. Several in a row, and it is out of reach.
    Unavailable,
    /// It may be this path's fault or one on the way: worth a few tries, not many.
    Doubtful,
    /// The cache asks for a pause.
    Throttled {
        /// How long.
        after: Duration,
    },
    /// Trying this path again is of no use.
    Permanent,
    /// The cache takes nothing at all for now: its jobs wait together.
    CacheWaits,
    /// It takes nothing before it is given other credentials.
    Credentials,
    /// Another path's question, which this one's went out with, was not answered: that one tells why. This one is tried again
    /// later, lest all that asked together ask again at once.
    ToldByAnother,
    /// A reference has to come first.
    ReferenceFirst,
    /// The policy wants it there no more.
    NotWanted,
    /// The path has been garbage-collected, if Nix agrees.
    Vanished,
    /// Nothing went wrong: the upload was called off.
    Cancelled,
}

impl CacheError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Hindered(Hindrance::Unasked(error)) => error.hint(),
            Self::Http(error) => error.hint(),
            Self::Secret(error) => error.hint(),
            Self::Bucket(error) => error.hint(),
            Self::InVain(error) => error.hint(),
            Self::Command(error) => error.hint(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Some(
                    "the user that the service runs as must be able to read and write there; ask as that user, or as root",
                ),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("make room on that file system"),
                io::ErrorKind::NotADirectory => {
                    Some("a file is where a folder should be: write another directory into the `url`")
                }
                io::ErrorKind::ReadOnlyFilesystem => Some("mount that file system for writing"),
                _ => None,
            },
            Self::NoRoom(
                NoRoom::Short(Shortage { reserve: Some(_), .. }) | NoRoom::TooLarge(Shortage { reserve: Some(_), .. }),
            ) => Some("make room, or name a cache of your own in the policy"),
            Self::NoRoom(NoRoom::Short(_) | NoRoom::TooLarge(_)) => Some("make room, or let `[disk] critical` be less"),
            Self::LargerThanCache { .. } => {
                Some("let `max_size` be more, or let a rule skip paths of that size (`size = \"> …\"`)")
            }
            Self::NoRoom(NoRoom::Unseen(Unseen::Unmounted { .. })) => {
                Some("mount it; should the cache be meant to lie on what is there now, start storewatch anew")
            }
            Self::OutOfSight { .. } => Some(
                "mount it, or bring back the server that it is on; should the cache be meant to lie on what is there now, \
                 start storewatch anew",
            ),
            Self::Silent { .. } => Some(
                "see whether its server, or what stands before it, hangs or has too much to do; the service goes on asking",
            ),
            Self::OtherStore { .. } => Some("name a cache that is for this host's store"),
            Self::Malformed { file, .. } if file.starts_with("http://") || file.starts_with("https://") => Some(
                "a cache is made where the server answers 404: let it do so for what isn't there, should it show a page \
                 instead, or write another folder into the `url`; if there is such a file, remove it where nothing else is \
                 in that folder",
            ),
            Self::RestsTooLong { .. } => Some(
                "set the clock if it is wrong; if it is right, and nothing was uploaded for so long, `--max-size` without \
                 `--keep` goes by no ages",
            ),
            Self::Malformed { .. } => Some("remove the file if nothing else is in that directory, or name another one"),
            _ => None,
        }
    }

    /// Whether its file system has no room left, for bytes or for files, or its user may have no more of it.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the cache takes nothing from this host since this host is its own server, as is meant to be.
    #[must_use]
    pub fn is_own_server(&self) -> bool {
        matches!(self, Self::OwnServer { .. })
    }

    /// Whether the server refuses the path for its size.
    #[must_use]
    pub fn is_about_size(&self) -> bool {
        matches!(self, Self::Http(HttpError::Status { status: 413, .. }))
    }

    /// What went wrong, in one line, with what a person may do about it.
    #[must_use]
    pub fn with_cure(&self) -> String {
        let what = one_line(self);
        self.hint().map_or(what.clone(), |cure| format!("{what}; {cure}"))
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Nar(NarFailure::Altered { .. } | NarFailure::Unpackable { .. }) => Class::Permanent,
            Self::Nar(NarFailure::Unreadable { vanished: true, .. }) => Class::Vanished,
            Self::Nar(NarFailure::Unreadable { vanished: false, .. }) => Class::Transient,
            Self::Nar(NarFailure::Cancelled | NarFailure::Behind) => Class::Cancelled,
            Self::Hindered(Hindrance::ReferenceMissing(_)) => Class::ReferenceFirst,
            Self::Hindered(Hindrance::NotWanted(_)) => Class::NotWanted,
            Self::Hindered(Hindrance::Unasked(error)) => error.class(),
            Self::Hindered(Hindrance::Unknown) => Class::ToldByAnother,
            Self::Http(error) => error.class(),
            Self::Bucket(error) => error.class(),
            Self::InVain(error) => error.class(),
            Self::Command(error) => error.class(),
            Self::Secret(_) => Class::Credentials,
            Self::NoRoom(NoRoom::TooLarge(_)) => Class::NoRoomYet,
            Self::LargerThanCache { .. } => Class::Permanent,
            Self::Nar(NarFailure::LostThread) | Self::LostThread { .. } | Self::Facts(_) => Class::Transient,
            Self::Hangs { .. } | Self::Silent { .. } => Class::Unavailable,
            // Too large for the file system's files, not for its free space.
            Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => Class::Permanent,
            // What one path can't write, none can: a full disk, a lost mount, missing permission.
            Self::Io { .. }
            | Self::NoRoom(NoRoom::Short(_) | NoRoom::Unseen(_))
            | Self::OtherStore { .. }
            | Self::NoSuchCache { .. }
            | Self::OwnServer { .. }
            | Self::Unencrypted { .. }
            | Self::Malformed { .. }
            | Self::NotOurs { .. }
            | Self::NoCacheThere { .. }
            | Self::RestsTooLong { .. }
            | Self::OutOfSight { .. }
            | Self::Url(_)
            | Self::Key { .. } => Class::CacheWaits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_may_be_no_file_nobody_is_told_to_remove_it() {
        let hint = |file: &str| CacheError::Malformed { file: file.to_owned(), problem: String::new() }.hint();
        assert!(hint("http://h/all/nix-cache-info").is_some_and(|hint| hint.contains("answers 404")));
        assert!(hint("/srv/nix-cache-info").is_some_and(|hint| hint.starts_with("remove the file")));
    }

    #[test]
    fn what_a_cache_says_at_the_last_moment_means_what_it_means_before() {
        let unasked = |error| CacheError::from(Hindrance::Unasked(Arc::new(error)));
        let full = || CacheError::Io {
            action: "look for",
            path: PathBuf::from("/c"),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!((unasked(full()).class(), unasked(full()).hint()), (Class::CacheWaits, full().hint()));
        assert_eq!(unasked(CacheError::Hangs { after: Duration::ZERO }).class(), Class::Unavailable);
        // One who was told is enough, but all of them wait.
        assert_eq!(CacheError::from(Hindrance::Unknown).class(), Class::ToldByAnother);
    }
}
