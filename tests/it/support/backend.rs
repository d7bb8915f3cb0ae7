//! Where paths go: the places that the contract of binary caches is tried with.

use super::nginx::{Nginx, READER, WRITER};
use super::s3::{BUCKET, Dialect, Key};
use super::{CacheDir, FakeS3, Garage, ScratchStore, Storewatch, write_secret};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where paths go.
pub enum Backend {
    File {
        cache: CacheDir,
        _folder: TempDir,
    },
    Garage(Garage),
    Fake(FakeS3),
    Web(Nginx),
    /// `nix copy` into a directory, by the script in the manual.
    Program {
        cache: CacheDir,
        folder: TempDir,
    },
}

/// As whom a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Writer,
    Reader,
    Nobody,
}

impl Backend {
    pub fn file() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self::File { cache: CacheDir::at(folder.path().join("cache")), _folder: folder })
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

    pub fn nginx() -> Option<Self> {
        Nginx::start().map(Self::Web)
    }

    pub fn program() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self::Program { cache: CacheDir::at(folder.path().join("cache")), folder })
    }

    /// The port of its server.
    pub fn port(&self) -> u16 {
        match self {
            Self::File { .. } | Self::Program { .. } => unreachable!("it has no server"),
            Self::Garage(garage) => garage.port(),
            Self::Fake(fake) => fake.port(),
            Self::Web(nginx) => nginx.port(),
        }
    }

    /// A policy with it as the cache `team`, which is signed for by that key.
    pub fn policy(&self, storewatch: &Storewatch<'_>, store: &ScratchStore, signing_key: &Path) -> String {
        let signed = format!("signing_key = {{ file = \"{}\" }}\n", signing_key.display());
        match self {
            Self::File { cache, .. } => format!("version = 1\n[caches.team]\nurl = \"{}\"\n{signed}", cache.url()),
            Self::Program { cache, folder } => {
                let program = program(folder.path(), store);
                let to = format!("{}?compression=zstd&secret-key={}", cache.url(), signing_key.display());
                format!(
                    "version = 1\n[caches.team]\nurl = \"command://{}\"\nargs = [\"--to\", \"{to}\"]\n",
                    program.display()
                )
            }
            Self::Garage(_) | Self::Fake(_) | Self::Web(_) => {
                self.policy_at(storewatch, self.port(), Who::Writer) + &signed
            }
        }
    }

    /// A policy with its server at that port, perhaps behind a proxy, spoken to by what that one knows.
    pub fn policy_at(&self, storewatch: &Storewatch<'_>, port: u16, who: Who) -> String {
        match self {
            Self::File { .. } | Self::Program { .. } => unreachable!("it has no server"),
            Self::Garage(_) | Self::Fake(_) => bucket_policy(storewatch, port, &self.key(who)),
            Self::Web(_) => {
                self.give(storewatch, who);
                web_policy(storewatch, port, if who == Who::Reader { READER } else { WRITER }.0)
            }
        }
    }

    /// Writes what that one knows into the files that the policy names.
    pub fn give(&self, storewatch: &Storewatch<'_>, who: Who) {
        match self {
            Self::File { .. } | Self::Program { .. } => unreachable!("it has no server"),
            Self::Garage(_) | Self::Fake(_) => write_key(storewatch, &self.key(who)),
            Self::Web(_) => {
                let password = match who {
                    Who::Writer => WRITER.1,
                    Who::Reader => READER.1,
                    Who::Nobody => "not-this-one",
                };
                write_secret(&keys(storewatch).join("password"), password);
            }
        }
    }

    fn key(&self, who: Who) -> Key {
        match (self, who) {
            (Self::Garage(garage), Who::Reader) => garage.reader_key(),
            (Self::Fake(fake), Who::Reader) => fake.reader_key(),
            (Self::Garage(garage), Who::Writer) => garage.key().clone(),
            (Self::Fake(fake), Who::Writer) => fake.key().clone(),
            (_, Who::Nobody) => Key { id: "GK000000000000000000000000".to_owned(), ..self.key(Who::Writer) },
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
        let id = || std::fs::read_to_string(keys(storewatch).join("id")).unwrap();
        match self {
            Self::File { .. } | Self::Program { .. } => unreachable!("it has no keys"),
            Self::Garage(garage) => garage.allow_to_write(&Key { id: id(), secret: String::new() }),
            Self::Fake(fake) => fake.allow_to_write(&Key { id: id(), secret: String::new() }),
            Self::Web(nginx) => nginx.allow_to_write(&[READER, WRITER]),
        }
    }

    /// How its server says that who may read may not write.
    pub fn says_of_readers(&self) -> &'static str {
        if matches!(self, Self::Web(_)) { "401 Unauthorized" } else { "AccessDenied" }
    }

    /// What Nix reads it by.
    pub fn substituter(&self) -> String {
        match self {
            Self::File { cache, .. } | Self::Program { cache, .. } => cache.url(),
            Self::Garage(garage) => garage.website(),
            Self::Fake(fake) => fake.website(),
            Self::Web(nginx) => nginx.website(),
        }
    }

    /// How many archives its server has, whole, shown by a narinfo or not.
    pub fn archives(&self) -> usize {
        match self {
            Self::File { .. } | Self::Program { .. } => unreachable!("it has no server"),
            // All but `nix-cache-info`, as long as there is no narinfo.
            Self::Garage(garage) => garage.contents().objects.saturating_sub(1) as usize,
            Self::Fake(fake) => fake.state().objects.keys().filter(|name| name.starts_with("nar/")).count(),
            Self::Web(nginx) => nginx.cache().archives().len(),
        }
    }

    /// Whether it has no more than a narinfo and an archive for each of so many paths, and a `nix-cache-info`.
    pub fn has_just(&self, paths: usize) -> bool {
        match self {
            Self::File { cache, .. } | Self::Program { cache, .. } => {
                cache.archives().len() == paths && cache.temporary_files().is_empty()
            }
            Self::Garage(garage) => {
                let contents = garage.contents();
                contents.objects == 2 * paths as u64 + 1 && contents.unfinished == 0
            }
            Self::Fake(fake) => {
                let state = fake.state();
                state.objects.len() == 2 * paths + 1 && state.multiparts.is_empty()
            }
            Self::Web(nginx) => {
                let cache = nginx.cache();
                let root = std::fs::read_dir(cache.dir()).unwrap().count();
                // The narinfos, nix-cache-info and nar/.
                cache.archives().len() == paths && root == paths + 2 && nginx.arriving() == 0
            }
        }
    }
}

/// The script `nix-copy` of the manual, with this store's Nix in its `PATH`.
fn program(folder: &Path, store: &ScratchStore) -> PathBuf {
    let script = documented("nix-copy", folder);
    let nix = store.command("nix");
    let bin = Path::new(nix.get_program()).parent().unwrap().to_owned();
    let program = folder.join("program");
    let text = format!("#!/bin/sh\nPATH={}:$PATH exec {} \"$@\"\n", bin.display(), script.display());
    write_program(&program, &text);
    program
}

/// Writes the script that `docs/commands.md` calls so, as its reader does.
pub fn documented(name: &str, folder: &Path) -> PathBuf {
    let manual = include_str!("../../../docs/commands.md");
    let script = manual
        .split("```sh\n")
        .skip(1)
        .filter_map(|behind| behind.split("```").next())
        .find(|script| script.contains(&format!("# {name}: ")));
    let file = folder.join(name);
    write_program(&file, script.unwrap_or_else(|| panic!("no script {name} in the manual")));
    file
}

/// Writes a file that can be run.
pub fn write_program(file: &Path, script: &str) {
    std::fs::write(file, script).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The folder of the files with secrets, beside the state.
fn keys(storewatch: &Storewatch<'_>) -> PathBuf {
    let folder = storewatch.state_dir().with_file_name("keys");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn write_key(storewatch: &Storewatch<'_>, key: &Key) {
    write_secret(&keys(storewatch).join("id"), &key.id);
    write_secret(&keys(storewatch).join("secret"), &key.secret);
}

/// A policy whose cache is the bucket at that port, with the keys in files beside the state.
pub fn bucket_policy(storewatch: &Storewatch<'_>, port: u16, key: &Key) -> String {
    write_key(storewatch, key);
    let keys = keys(storewatch);
    let keys = keys.display();
    format!(
        "version = 1\n[caches.team]\nurl = \"s3://{BUCKET}?endpoint=http://127.0.0.1:{port}&region=garage\"\n\
         access_key_id = {{ file = \"{keys}/id\" }}\nsecret_access_key = {{ file = \"{keys}/secret\" }}\n"
    )
}

/// A policy whose cache is a folder of the bucket of a fake, in the dialect that it speaks; empty for the bucket itself.
pub fn fake_policy(storewatch: &Storewatch<'_>, fake: &FakeS3, folder: &str) -> String {
    let dialect = fake.state().dialect;
    let key = keys(storewatch).join("account");
    let slash = if folder.is_empty() { "" } else { "/" };
    let (url, name, text) = match dialect {
        Dialect::S3 => return bucket_policy(storewatch, fake.port(), fake.key()),
        Dialect::Azure => ("az://BUCKET?account=nixaccount&", "account_key", "c2VjcmV0"),
        Dialect::Google => {
            let text = "{\n\"private_key\": \"x\", \"private_key_id\": \"y\", \"client_email\": \"z\",\n\"disable_oauth\": true\n}";
            ("gs://BUCKET?", "service_account_key", text)
        }
    };
    write_secret(&key, text);
    let url = url.replace("BUCKET", &format!("{BUCKET}{slash}{folder}"));
    format!(
        "version = 1\n[caches.team]\nurl = \"{url}endpoint=http://127.0.0.1:{}\"\n{name} = {{ file = \"{}\" }}\n",
        fake.port(),
        key.display()
    )
}

/// A policy whose cache is nginx's folder at that port, with the password in a file beside the state.
fn web_policy(storewatch: &Storewatch<'_>, port: u16, user: &str) -> String {
    let keys = keys(storewatch);
    format!(
        "version = 1\n[caches.team]\nurl = \"http://127.0.0.1:{port}/nix\"\nuser = \"{user}\"\n\
         password = {{ file = \"{}/password\" }}\n",
        keys.display()
    )
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
