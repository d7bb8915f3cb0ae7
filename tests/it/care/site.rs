//! Where the cache lies that is cared for, and how it is broken.

use crate::support::backend::{bucket_policy, fake_policy};
use crate::support::cache::Narinfo;
use crate::support::nix::base_name;
use crate::support::s3::{BUCKET, Dialect};
use crate::support::{CacheDir, FakeS3, Garage, Nix, ScratchStore, Storewatch};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use storewatch::cache::bucket::{BucketShelf, StoreKeys, StoreOptions};
use storewatch::cache::care::{Condition, Entry, Listed, Shelf};
use storewatch::cache::http::HttpOptions;
use storewatch::cache::{BucketUrl, CacheUrl};
use storewatch::secret::{Provider, Source};

/// A cache whose files a test can get at behind storewatch's back.
pub enum Site {
    File { cache: CacheDir, _folder: tempfile::TempDir },
    Garage(Garage),
    Fake(FakeS3),
}

impl Site {
    pub fn file() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self::File { cache: CacheDir::at(folder.path().join("cache")), _folder: folder })
    }

    pub fn garage() -> Option<Self> {
        Garage::start().map(Self::Garage)
    }

    pub fn fake() -> Option<Self> {
        let fake = FakeS3::start();
        fake.state().page = Some(7);
        Some(Self::Fake(fake))
    }

    pub fn google() -> Option<Self> {
        Self::speaking(Dialect::Google)
    }

    pub fn azure() -> Option<Self> {
        Self::speaking(Dialect::Azure)
    }

    fn speaking(dialect: Dialect) -> Option<Self> {
        let fake = Self::fake()?;
        if let Self::Fake(fake) = &fake {
            fake.state().dialect = dialect;
        }
        Some(fake)
    }

    /// Whether an upload that never ends can be seen there, and left by hand.
    pub fn shows_uploads(&self) -> bool {
        match self {
            Self::File { .. } => true,
            Self::Garage(_) => false,
            Self::Fake(fake) => fake.state().dialect != Dialect::Azure,
        }
    }

    /// Its lines in a policy, as `team`; its keys are written beside that.
    pub fn policy(&self, storewatch: &Storewatch<'_>) -> String {
        match self {
            Self::File { cache, .. } => format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url()),
            Self::Garage(garage) => bucket_policy(storewatch, garage.port(), garage.key()),
            Self::Fake(fake) => fake_policy(storewatch, fake, ""),
        }
    }

    /// What Nix reads it by.
    pub fn substituter(&self) -> String {
        match self {
            Self::File { cache, .. } => cache.url(),
            Self::Garage(garage) => garage.website(),
            Self::Fake(fake) => fake.website(),
        }
    }

    /// The content of a file.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        match self {
            Self::File { cache, .. } => std::fs::read(cache.dir().join(name)).ok(),
            Self::Garage(garage) => with_shelf(garage, async |shelf| Some(shelf.read(name).await.unwrap()?.content)),
            Self::Fake(fake) => fake.state().objects.get(name).map(|content| content.to_vec()),
        }
    }

    /// Writes a file, whatever was there.
    pub fn set(&self, name: &str, content: impl Into<Vec<u8>>) {
        let content = content.into();
        match self {
            Self::File { cache, .. } => {
                let file = cache.dir().join(name);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, content).unwrap();
            }
            Self::Garage(garage) => with_shelf(garage, async |shelf| {
                assert!(shelf.put(name, content.clone(), Condition::Always).await.unwrap());
            }),
            Self::Fake(fake) => {
                let mut state = fake.state();
                state.objects.insert(name.to_owned(), content.into());
                state.modified.insert(name.to_owned(), SystemTime::now());
            }
        }
    }

    pub fn remove(&self, name: &str) {
        match self {
            Self::File { cache, .. } => std::fs::remove_file(cache.dir().join(name)).unwrap(),
            Self::Garage(garage) => with_shelf(garage, async |shelf| shelf.remove(name).await.unwrap()),
            Self::Fake(fake) => assert!(fake.state().objects.remove(name).is_some(), "{name}"),
        }
    }

    /// All files, but for those that are being written.
    pub fn names(&self) -> BTreeSet<String> {
        match self {
            Self::File { cache, .. } => below(cache.dir(), cache.dir()),
            Self::Garage(garage) => with_shelf(garage, async |shelf| {
                let mut names = BTreeSet::new();
                let mut take = |page: Vec<Entry>| names.extend(page.into_iter().map(|entry| entry.name));
                shelf.list(Listed::Everything, &mut take).await.unwrap();
                names
            }),
            Self::Fake(fake) => fake.state().objects.keys().cloned().collect(),
        }
    }

    /// Makes a file older than it is. Garage knows no such thing.
    pub fn age(&self, name: &str, by: Duration) {
        let time = SystemTime::now() - by;
        match self {
            Self::File { cache, .. } => {
                File::options().write(true).open(cache.dir().join(name)).unwrap().set_modified(time).unwrap();
            }
            Self::Garage(_) => unreachable!("it takes no time from us"),
            Self::Fake(fake) => drop(fake.state().modified.insert(name.to_owned(), time)),
        }
    }

    /// Leaves an upload that has just begun and never ends, where that can be done by hand.
    pub fn leave_an_upload(&self) {
        match self {
            _ if !self.shows_uploads() => {}
            Self::File { cache, .. } => std::fs::write(cache.dir().join(".tmp/other.beef.0"), "half").unwrap(),
            Self::Garage(_) => {}
            Self::Fake(fake) => {
                let mut state = fake.state();
                state.begin("nar/never.nar.zst");
                // Of all that have begun.
                state.modified.insert(String::new(), SystemTime::now());
            }
        }
    }

    pub fn narinfo(&self, path: &str) -> Narinfo {
        Narinfo::parse(&self.text(&narinfo(path))).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.get(name).unwrap_or_else(|| panic!("{name} is missing"))).unwrap()
    }

    pub fn has(&self, path: &str) -> bool {
        self.names().contains(&narinfo(path))
    }
}

/// In each interface that the fake speaks.
pub fn with_each_fake(case: impl Fn(&Site, &FakeS3, &ScratchStore)) {
    let Some(nix) = Nix::recent() else { return };
    for site in [Site::fake, Site::google, Site::azure] {
        let Some(site) = site() else { continue };
        if let Site::Fake(fake) = &site {
            case(&site, fake, &ScratchStore::new(&nix));
        }
    }
}

/// The file of a path's narinfo.
pub fn narinfo(path: &str) -> String {
    format!("{}.narinfo", &base_name(path)[..32])
}

fn below(root: &Path, folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with(".tmp") {
            names.extend(below(root, &path));
        } else if path.is_file() {
            names.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    names
}

/// Works on Garage's bucket by storewatch's own means, which `verify` and the others are not told of.
pub fn with_shelf<T>(garage: &Garage, work: impl AsyncFnOnce(&dyn Shelf) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let provider = |name: &str, secret: &str| {
        let file: PathBuf = folder.path().join(name);
        crate::support::write_secret(&file, secret);
        Some(Provider::new(Source::file(file), Path::new("/nix/store"), None))
    };
    let url = format!("s3://{BUCKET}?endpoint=http://127.0.0.1:{}&region=garage", garage.port());
    let bucket: BucketUrl = match CacheUrl::parse(&url) {
        Ok(CacheUrl::Bucket { bucket, .. }) => bucket,
        other => panic!("{other:?}"),
    };
    let options = StoreOptions {
        url: bucket,
        http: HttpOptions { direct: true, ..HttpOptions::default() },
        keys: StoreKeys {
            access_key_id: provider("id", &garage.key().id),
            secret_access_key: provider("secret", &garage.key().secret),
            ..StoreKeys::default()
        },
        real_store: PathBuf::from("/nix/store"),
        allow_unencrypted: false,
    };
    runtime.block_on(async {
        let shelf = BucketShelf::open_unchecked(&options).await.unwrap();
        work(&shelf).await
    })
}
