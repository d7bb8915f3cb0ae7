//! Where paths go: the places that the contract of binary caches is tried with.

mod policy;
mod program;

pub use policy::{bucket_policy, fake_policy};
pub use program::{Program, documented, write_program};

use super::cache::Narinfo;
use super::cloud::Cloud;
use super::nginx::{Nginx, READER, WRITER};
use super::nix::base_name;
use super::s3::{Dialect, Key};
use super::{CacheDir, FakeS3, Garage, ScratchStore, Storewatch, write_secret};
use policy::{keys, signed, web_policy, write_key};
use std::path::Path;
use tempfile::TempDir;

/// Where paths go.
pub enum Backend {
    File {
        cache: CacheDir,
        _folder: TempDir,
    },
    Program(Program),
    Web(Nginx),
    Garage(Garage),
    /// That speaks as S3 does, or as Azure.
    Fake(FakeS3),
    /// And as Google, whose machines get their tokens elsewhere.
    Google {
        fake: FakeS3,
        cloud: Cloud,
    },
}

/// As whom a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Writer,
    Reader,
    /// Whom nobody knows.
    Nobody,
    /// Who says to be the writer, and doesn't know the secret.
    Impostor,
}

/// No secret of anybody's.
const WRONG: &str = "not-this-one";

impl Backend {
    pub fn file() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self::File { cache: CacheDir::at(folder.path().join("cache")), _folder: folder })
    }

    pub fn program() -> Option<Self> {
        Some(Self::Program(Program::new()))
    }

    pub fn nginx() -> Option<Self> {
        Nginx::start().map(Self::Web)
    }

    pub fn garage() -> Option<Self> {
        Garage::start().map(Self::Garage)
    }

    pub fn fake_s3() -> Option<Self> {
        Some(Self::Fake(FakeS3::start()))
    }

    pub fn fake_s3_that_only_overwrites() -> Option<Self> {
        let fake = FakeS3::start();
        fake.state().overwrites = true;
        Some(Self::Fake(fake))
    }

    pub fn fake_google() -> Option<Self> {
        let fake = FakeS3::start();
        fake.state().dialect = Dialect::Google;
        let cloud = Cloud::start(fake.key().clone());
        Some(Self::Google { fake, cloud })
    }

    pub fn fake_azure() -> Option<Self> {
        let fake = FakeS3::start();
        fake.state().dialect = Dialect::Azure;
        Some(Self::Fake(fake))
    }

    /// The fake, if it is one.
    pub fn fake(&self) -> Option<&FakeS3> {
        match self {
            Self::Fake(fake) | Self::Google { fake, .. } => Some(fake),
            _ => None,
        }
    }

    /// Its folder, if it lies in one of this host's.
    fn dir(&self) -> Option<CacheDir> {
        match self {
            Self::File { cache, .. } => Some(cache.clone()),
            Self::Program(program) => Some(program.cache()),
            Self::Web(nginx) => Some(nginx.cache()),
            _ => None,
        }
    }

    /// As [`Backend::policy_at`], for who opens the cache within the process of the test, whose environment stays as it is.
    pub fn policy_in_process(&self, storewatch: &Storewatch<'_>, port: u16) -> String {
        let Self::Google { fake, .. } = self else { return self.policy_at(storewatch, port, Who::Writer) };
        policy::of_fake(storewatch, fake, port, "")
    }

    /// The port of its server.
    pub fn port(&self) -> u16 {
        match self {
            Self::File { .. } | Self::Program(_) => unreachable!("it has no server"),
            Self::Web(nginx) => nginx.port(),
            Self::Garage(garage) => garage.port(),
            Self::Fake(fake) | Self::Google { fake, .. } => fake.port(),
        }
    }

    /// A policy with it as the cache `team`, which is signed for by that key.
    pub fn policy(&self, storewatch: &Storewatch<'_>, store: &ScratchStore, signing_key: &Path) -> String {
        match self {
            Self::File { cache, .. } => {
                format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url()) + &signed(signing_key)
            }
            Self::Program(program) => program.policy(store, signing_key),
            _ => self.policy_at(storewatch, self.port(), Who::Writer) + &signed(signing_key),
        }
    }

    /// A policy with its server at that port, perhaps behind a proxy, spoken to by what that one knows.
    pub fn policy_at(&self, storewatch: &Storewatch<'_>, port: u16, who: Who) -> String {
        self.give(storewatch, who);
        match self {
            Self::File { .. } | Self::Program(_) => unreachable!("it has no server"),
            Self::Web(_) => web_policy(storewatch, port, user(who)),
            Self::Garage(_) => policy::amazons(storewatch, port),
            Self::Fake(fake) => match fake.state().dialect {
                Dialect::Azure => policy::azures(storewatch, port, ""),
                _ => policy::amazons(storewatch, port),
            },
            Self::Google { cloud, .. } => {
                storewatch.set("GCE_METADATA_HOST", &cloud.host());
                policy::googles(port, "")
            }
        }
    }

    /// Lets what the policy names, or what hands out credentials, have what that one knows.
    pub fn give(&self, storewatch: &Storewatch<'_>, who: Who) {
        match self {
            Self::File { .. } | Self::Program(_) => unreachable!("it has no server"),
            Self::Web(_) => {
                let password = match who {
                    Who::Writer => WRITER.1,
                    Who::Reader => READER.1,
                    Who::Nobody | Who::Impostor => WRONG,
                };
                write_secret(&keys(storewatch).join("password"), password);
            }
            Self::Google { cloud, .. } => cloud.hand_out(&self.key(who).secret),
            Self::Garage(_) | Self::Fake(_) => write_key(storewatch, &self.key(who)),
        }
    }

    fn key(&self, who: Who) -> Key {
        match (self, who) {
            (Self::Garage(garage), Who::Reader) => garage.reader_key(),
            (Self::Garage(garage), Who::Writer) => garage.key().clone(),
            (Self::Fake(fake) | Self::Google { fake, .. }, Who::Reader) => fake.reader_key(),
            (Self::Fake(fake) | Self::Google { fake, .. }, Who::Writer) => fake.key().clone(),
            (_, Who::Nobody) => Key { id: "GK000000000000000000000000".to_owned(), ..self.key(Who::Writer) },
            // As long as Garage's are.
            (_, Who::Impostor) => Key { secret: "0".repeat(64), ..self.key(Who::Writer) },
            _ => unreachable!("it has no keys"),
        }
    }

    /// What must show nowhere.
    pub fn secret(&self) -> String {
        match self {
            Self::Web(_) => WRITER.1.to_owned(),
            _ => self.key(Who::Writer).secret,
        }
    }

    /// Lets who could only read write, too.
    pub fn let_the_reader_write(&self, storewatch: &Storewatch<'_>) {
        match self {
            Self::File { .. } | Self::Program(_) => unreachable!("it has no keys"),
            Self::Garage(garage) => {
                let id = std::fs::read_to_string(keys(storewatch).join("id")).unwrap();
                garage.allow_to_write(&Key { id, secret: String::new() });
            }
            Self::Fake(fake) | Self::Google { fake, .. } => {
                let readers = fake.state().readers.clone();
                readers.iter().for_each(|reader| fake.allow_to_write(reader));
            }
            Self::Web(nginx) => nginx.allow_to_write(&[READER, WRITER]),
        }
    }

    /// How its server refuses that one.
    pub fn says_of(&self, who: Who) -> &'static str {
        let is_azure = matches!(self, Self::Fake(fake) if fake.state().dialect == Dialect::Azure);
        match (self, who) {
            (Self::Web(_), _) => "401 Unauthorized",
            (_, Who::Reader) if is_azure => "AuthorizationPermissionMismatch (403)",
            (_, Who::Impostor) if is_azure => "AuthenticationFailed (403)",
            (Self::Google { .. }, Who::Impostor) => "AuthenticationRequired (401)",
            (_, Who::Reader) => "AccessDenied (403)",
            // Garage calls all of it so, and says more beside it.
            (Self::Garage(_), Who::Nobody) => "No such key",
            (Self::Garage(_), Who::Impostor) => "Invalid signature",
            (_, Who::Nobody) => "InvalidAccessKeyId (403)",
            (_, Who::Impostor) => "SignatureDoesNotMatch (403)",
            (_, Who::Writer) => unreachable!("it takes what that one brings"),
        }
    }

    /// What the address of a part has, where large archives go in parts.
    pub fn mark_of_parts(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } | Self::Program(_) | Self::Web(_) => None,
            Self::Fake(fake) if fake.state().dialect == Dialect::Azure => Some("blockid="),
            _ => Some("partNumber="),
        }
    }

    /// What Nix reads it by.
    pub fn substituter(&self) -> String {
        match self {
            Self::File { cache, .. } => cache.url(),
            Self::Program(program) => program.cache().url(),
            Self::Garage(garage) => garage.website(),
            Self::Fake(fake) | Self::Google { fake, .. } => fake.website(),
            Self::Web(nginx) => nginx.website(),
        }
    }

    /// What Nix is given of a file, if it is there.
    pub fn read(&self, file: &str) -> Option<Vec<u8>> {
        match self {
            Self::Garage(garage) => garage.read(file),
            Self::Fake(fake) | Self::Google { fake, .. } => {
                fake.state().objects.get(file).map(|content| content.to_vec())
            }
            _ => std::fs::read(self.dir()?.dir().join(file)).ok(),
        }
    }

    /// Panics where one of these paths isn't shown, or its narinfo isn't true of the archive that it names.
    #[track_caller]
    pub fn assert_true(&self, paths: &[String]) {
        assert_true(paths, |file| self.read(file));
    }

    /// How many archives it has, whole, shown by a narinfo or not, where so many paths are shown.
    pub fn archives(&self, shown: usize) -> usize {
        match self {
            // All but the narinfos and `nix-cache-info`.
            Self::Garage(garage) => (garage.contents().objects as usize).saturating_sub(shown + 1),
            Self::Fake(fake) | Self::Google { fake, .. } => {
                fake.state().objects.keys().filter(|name| name.starts_with("nar/")).count()
            }
            _ => self.dir().unwrap().archives().len(),
        }
    }

    /// What was begun and neither ended nor taken back, uploads in parts and temporary files, where that can be seen. Azure
    /// knows no abort: it drops in a week what of an upload in parts was not put together.
    pub fn unfinished(&self) -> Option<usize> {
        match self {
            Self::Garage(garage) => Some(garage.contents().unfinished as usize),
            Self::Fake(fake) if fake.state().dialect == Dialect::Azure => None,
            Self::Fake(fake) | Self::Google { fake, .. } => Some(fake.state().multiparts.len()),
            Self::File { cache, .. } => Some(cache.temporary_files().len()),
            Self::Program(_) | Self::Web(_) => None,
        }
    }

    /// Whether of two that show one path at once the first wins, so that the other takes its archive back.
    pub fn keeps_the_first(&self) -> bool {
        match self {
            Self::File { .. } | Self::Garage(_) | Self::Web(_) => false,
            Self::Fake(fake) => !fake.state().overwrites,
            _ => true,
        }
    }

    /// Whether it has no more than a narinfo and an archive for each of so many paths, and a `nix-cache-info`.
    pub fn has_just(&self, paths: usize) -> bool {
        let is_all = match self {
            Self::File { cache, .. } => cache.archives().len() == paths,
            Self::Program(program) => program.cache().archives().len() == paths,
            Self::Garage(garage) => garage.contents().objects == 2 * paths as u64 + 1,
            Self::Fake(fake) | Self::Google { fake, .. } => fake.state().objects.len() == 2 * paths + 1,
            Self::Web(nginx) => {
                let cache = nginx.cache();
                let root = std::fs::read_dir(cache.dir()).unwrap().count();
                // The narinfos, nix-cache-info and nar/.
                cache.archives().len() == paths && root == paths + 2 && nginx.arriving() == 0
            }
        };
        is_all && self.unfinished().unwrap_or(0) == 0
    }
}

/// Panics where one of these paths isn't shown by what `read` gives, or its narinfo isn't true of the archive that it names.
#[track_caller]
pub fn assert_true(paths: &[String], read: impl Fn(&str) -> Option<Vec<u8>>) {
    for path in paths {
        let narinfo = read(&format!("{}.narinfo", &base_name(path)[..32]));
        let narinfo = narinfo.unwrap_or_else(|| panic!("{path} is not shown"));
        let narinfo = Narinfo::parse(&String::from_utf8(narinfo).unwrap()).unwrap();
        let archive = read(&narinfo.url).unwrap_or_else(|| panic!("the archive of {path} is not there"));
        assert!(narinfo.is_true_of(&archive), "{narinfo:?} lies about its archive of {} bytes", archive.len());
    }
}

/// The name that a web server knows that one by.
fn user(who: Who) -> &'static str {
    match who {
        Who::Writer | Who::Impostor => WRITER.0,
        Who::Reader => READER.0,
        Who::Nobody => "nobody-here",
    }
}

/// Writes a file of so many bytes that nothing makes smaller.
pub fn write_random(file: &Path, seed: u64, len: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    std::fs::write(file, bytes.collect::<Vec<u8>>()).unwrap();
}
