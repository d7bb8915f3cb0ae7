//! Fetches a secret, keeps it for a while, and notices a new one.

use std::ffi::OsString;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::{NoText, SecretError};
use super::file::{self, Readers};
use super::source::{DEFAULT_LIFETIME, Source};
use super::text::{Form, Secret};
use super::{command, keychain, netrc};

/// What is read from a file is read again after this time. A new token is to be in use within 5 s, and the events of a
/// file system don't tell of all that can lie behind a path: sops-nix swaps a link somewhere in the middle of it. One
/// read of a small file in two seconds costs nothing. No failure is remembered for longer either.
const REREAD: Duration = Duration::from_secs(2);

/// A file that takes longer to read lies on a file system that hangs. As long as a command has by default.
const READING: Duration = Duration::from_secs(10);

/// Keys [`Fingerprint`]s, anew in each process.
static FINGERPRINT_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Hands out the secret of one source. Cheap to clone; all clones share what is kept.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    source: Source,
    form: Form,
    place: Place,
    /// Locked while a secret is fetched, so that those who ask meanwhile wait for that one.
    kept: Mutex<Option<Kept>>,
    /// What is read at this moment: where that hangs, no more threads are lost with it.
    reading: Mutex<Option<JoinHandle<Result<Secret, SecretError>>>>,
}

/// What a source means depends on where this process runs and what the secret is for.
#[derive(Clone)]
pub(super) struct Place {
    /// Where the files of the Nix store are.
    pub(super) real_store: PathBuf,
    /// Whom the secret is for.
    pub(super) host: Option<String>,
    /// Whether this process is root.
    pub(super) root: bool,
    /// Looks up a variable of the environment.
    pub(super) env: Env,
}

/// Looks up a variable.
type Env = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

struct Kept {
    since: Instant,
    answer: Result<Secret, SecretError>,
}

/// Stands for a secret where only a change of it matters: two are equal when the secrets are, or when there was none
/// both times. It means nothing outside this process, and is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(Option<u64>);

impl Provider {
    /// A provider of secrets of one line: tokens, passwords, signing keys. `real_store` is the directory in which the
    /// store's files are, and `host` is whom the secret is for, which netrc files ask.
    #[must_use]
    pub fn new(source: Source, real_store: &Path, host: Option<&str>) -> Self {
        Self::at(source, Form::OneLine, real_store, host)
    }

    /// A provider of secrets of several lines: keys in PEM.
    #[must_use]
    pub fn of_lines(source: Source, real_store: &Path) -> Self {
        Self::at(source, Form::Lines, real_store, None)
    }

    /// A provider of what a netrc file has for a host, `USER:PASSWORD`; what other sources give counts as that. Who has
    /// no name there has an empty one.
    #[must_use]
    pub fn of_login(source: Source, real_store: &Path, host: Option<&str>) -> Self {
        Self::at(source, Form::Login, real_store, host)
    }

    fn at(source: Source, form: Form, real_store: &Path, host: Option<&str>) -> Self {
        let place = Place::of_this_process(real_store, host);
        Self(Arc::new(Inner { source, form, place, kept: Mutex::new(None), reading: Mutex::new(None) }))
    }

    /// Where its secrets come from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// The secret as it is now: what a file holds is at most two seconds old, a command's answer at most its lifetime.
    /// Dropped in between, it leaves no command running.
    ///
    /// # Errors
    /// [`SecretError`]; asked again later, it may be there.
    pub async fn get(&self) -> Result<Secret, SecretError> {
        self.get_at(Instant::now()).await
    }

    async fn get_at(&self, now: Instant) -> Result<Secret, SecretError> {
        let mut kept = self.0.kept.lock().await;
        if let Some(Kept { since, answer }) = &*kept
            && now.saturating_duration_since(*since) < self.0.good_for(answer)
        {
            return answer.clone();
        }
        let answer = self.0.fetch().await;
        // Counted from its end: who has waited for it must not find it outdated.
        *kept = Some(Kept { since: now.max(Instant::now()), answer: answer.clone() });
        answer
    }

    /// A server has refused this secret: unless another one is kept by now, the next who asks has it fetched anew. When
    /// many requests are refused at once, one run of a command so does for all.
    pub async fn refresh(&self, refused: &Secret) {
        let mut kept = self.0.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.answer.as_ref().is_ok_and(|kept| kept.expose() == refused.expose())) {
            *kept = None;
        }
    }

    /// Changes when the secret does, or when there is one at last. A cache whose token was refused so notices a new one
    /// without asking the server. It costs what [`Provider::get`] costs: a command runs only when its lifetime is over.
    pub async fn fingerprint(&self) -> Fingerprint {
        self.get().await.map_or(Fingerprint(None), |secret| Fingerprint::of(&secret))
    }
}

impl Fingerprint {
    /// Of that very secret.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        Self(Some(FINGERPRINT_KEY.hash_one(secret.expose())))
    }
}

impl Place {
    fn of_this_process(real_store: &Path, host: Option<&str>) -> Self {
        Self {
            real_store: real_store.to_owned(),
            host: host.map(str::to_owned),
            root: rustix::process::geteuid().is_root(),
            env: Arc::new(|name| std::env::var_os(name)),
        }
    }
}

impl Inner {
    fn good_for(&self, answer: &Result<Secret, SecretError>) -> Duration {
        let lifetime = match &self.source {
            Source::Command { lifetime, .. } => *lifetime,
            Source::Keychain { .. } => DEFAULT_LIFETIME,
            Source::File { .. } | Source::Env { .. } | Source::Credential { .. } | Source::Netrc { .. } => REREAD,
        };
        if answer.is_ok() { lifetime } else { lifetime.min(REREAD) }
    }

    async fn fetch(&self) -> Result<Secret, SecretError> {
        let bytes = match &self.source {
            Source::Command { argv, timeout, .. } => command::output(argv, *timeout).await?,
            Source::Keychain { service, account } => keychain::password(service, account.as_deref()).await?,
            Source::File { .. } | Source::Env { .. } | Source::Credential { .. } | Source::Netrc { .. } => {
                return self.read_in_time().await;
            }
        };
        Secret::new(&bytes, self.form, &self.source)
    }

    /// Reads what lies on this host, perhaps on a disk that is slow to answer, or doesn't.
    async fn read_in_time(&self) -> Result<Secret, SecretError> {
        let mut reading = self.reading.lock().await;
        // Who began it didn't wait for it: by now it may be outdated.
        reading.take_if(|reading| reading.is_finished());
        let under_way = reading.get_or_insert_with(|| {
            let (source, form, place) = (self.source.clone(), self.form, self.place.clone());
            spawn_blocking(move || read(&source, form, &place))
        });
        let Ok(read) = timeout(READING, under_way).await else {
            return Err(SecretError::Hangs { from: self.source.to_string(), after: READING });
        };
        *reading = None;
        read.unwrap_or_else(|_| Err(SecretError::LostThread { from: self.source.to_string() }))
    }
}

/// Reads a secret of one line that simply lies on this host, for those who ask once and can't wait. `None` where a
/// command would have to be run for it.
#[must_use]
pub fn read_here(source: &Source, real_store: &Path) -> Option<Result<Secret, SecretError>> {
    match source {
        Source::Command { .. } | Source::Keychain { .. } => None,
        Source::File { .. } | Source::Env { .. } | Source::Credential { .. } | Source::Netrc { .. } => {
            Some(read(source, Form::OneLine, &Place::of_this_process(real_store, None)))
        }
    }
}

/// Reads what lies on this host.
fn read(source: &Source, form: Form, place: &Place) -> Result<Secret, SecretError> {
    let readers = |by_others| match by_others {
        Some(true) => Readers::Anybody,
        Some(false) => Readers::Owner { unless_meant: true },
        None => Readers::Owner { unless_meant: false },
    };
    match source {
        Source::File { path, readable_by_others } => {
            Secret::new(&file::contents(path, &place.real_store, readers(*readable_by_others))?, form, source)
        }
        Source::Env { name } => {
            let value = (place.env)(name).ok_or_else(|| SecretError::NoVariable { name: name.clone() })?;
            Secret::new(&Zeroizing::new(value.into_encoded_bytes()), form, source)
        }
        Source::Credential { name } => {
            if name.is_empty() || name.contains('/') || matches!(name.as_str(), "." | "..") {
                return Err(SecretError::BadCredentialName { name: name.clone() });
            }
            let folder = (place.env)("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
            let folder = folder.ok_or_else(|| SecretError::NoCredentials { name: name.clone() })?;
            let read = file::contents(&Path::new(&folder).join(name), &place.real_store, Readers::Credential);
            let bytes = read.map_err(|error| match error {
                SecretError::Missing { .. } => SecretError::NoCredential { name: name.clone() },
                error => error,
            })?;
            Secret::new(&bytes, form, source)
        }
        Source::Netrc { path, readable_by_others } => {
            let host = place.host.as_deref().ok_or(SecretError::NoHost)?;
            let path = path.clone().map_or_else(|| netrc::default_path(place), Ok)?;
            let bytes = file::contents(&path, &place.real_store, readers(Some(*readable_by_others)))?;
            let no_text = |_| SecretError::NoText { from: path.display().to_string(), problem: NoText::NotUtf8 };
            let found = netrc::entry(std::str::from_utf8(&bytes).map_err(no_text)?, &path, host)?;
            let text = match form {
                Form::Login => Zeroizing::new(format!("{}:{}", *found.login, *found.password)),
                Form::OneLine | Form::Lines => found.password,
            };
            Secret::new(text.as_bytes(), form, &format!("{} for {host}", path.display()))
        }
        Source::Command { .. } | Source::Keychain { .. } => unreachable!("a command is not read but run"),
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({})", self.0.source)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests;
