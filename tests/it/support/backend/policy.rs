//! Policies whose cache is on a server, and the files with secrets that they name.

use super::super::s3::{ACCOUNT, BUCKET, Dialect, Key};
use super::super::{FakeS3, Storewatch, write_secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::path::{Path, PathBuf};

/// The folder of the files with secrets, beside the state.
pub(super) fn keys(storewatch: &Storewatch<'_>) -> PathBuf {
    let folder = storewatch.state_dir().with_file_name("keys");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes what the policies here name: what S3 wants, and Azure's key of the same secret.
pub(super) fn write_key(storewatch: &Storewatch<'_>, key: &Key) {
    let keys = keys(storewatch);
    write_secret(&keys.join("id"), &key.id);
    write_secret(&keys.join("secret"), &key.secret);
    write_secret(&keys.join("account"), BASE64.encode(&key.secret));
}

/// The line that says what a cache is signed with.
pub(super) fn signed(signing_key: &Path) -> String {
    format!("signing_key = {{ file = \"{}\" }}\n", signing_key.display())
}

/// A policy whose cache is the bucket at that port, with the keys in files beside the state.
pub fn bucket_policy(storewatch: &Storewatch<'_>, port: u16, key: &Key) -> String {
    write_key(storewatch, key);
    amazons(storewatch, port)
}

pub(super) fn amazons(storewatch: &Storewatch<'_>, port: u16) -> String {
    let keys = keys(storewatch);
    let keys = keys.display();
    format!(
        "version = 1\n[caches.team]\nurl = \"s3://{BUCKET}?endpoint=http://127.0.0.1:{port}&region=garage\"\n\
         access_key_id = {{ file = \"{keys}/id\" }}\nsecret_access_key = {{ file = \"{keys}/secret\" }}\n"
    )
}

/// The same of Azure's. `folder` is one in the bucket, with a slash in front; empty for the bucket itself.
pub(super) fn azures(storewatch: &Storewatch<'_>, port: u16, folder: &str) -> String {
    format!(
        "version = 1\n[caches.team]\nurl = \"az://{BUCKET}{folder}?account={ACCOUNT}&endpoint=http://127.0.0.1:{port}\"\n\
         account_key = {{ file = \"{}/account\" }}\n",
        keys(storewatch).display()
    )
}

/// The same of Google's, without a key.
pub(super) fn googles(port: u16, folder: &str) -> String {
    format!("version = 1\n[caches.team]\nurl = \"gs://{BUCKET}{folder}?endpoint=http://127.0.0.1:{port}\"\n")
}

/// A policy whose cache is a folder of the bucket of a fake, in the dialect that it speaks; empty for the bucket itself.
pub fn fake_policy(storewatch: &Storewatch<'_>, fake: &FakeS3, folder: &str) -> String {
    of_fake(storewatch, fake, fake.port(), folder)
}

/// The same, with the fake at that port.
pub(super) fn of_fake(storewatch: &Storewatch<'_>, fake: &FakeS3, port: u16, folder: &str) -> String {
    let dialect = fake.state().dialect;
    let folder = if folder.is_empty() { String::new() } else { format!("/{folder}") };
    write_key(storewatch, fake.key());
    match dialect {
        Dialect::S3 => amazons(storewatch, port),
        Dialect::Azure => azures(storewatch, port, &folder),
        Dialect::Google => {
            let text = "{\n\"private_key\": \"x\", \"private_key_id\": \"y\", \"client_email\": \"z\",\n\"disable_oauth\": true\n}";
            let file = keys(storewatch).join("google");
            write_secret(&file, text);
            googles(port, &folder) + &format!("service_account_key = {{ file = \"{}\" }}\n", file.display())
        }
    }
}

/// A policy whose cache is nginx's folder at that port, with the password in a file beside the state.
pub(super) fn web_policy(storewatch: &Storewatch<'_>, port: u16, user: &str) -> String {
    let keys = keys(storewatch);
    format!(
        "version = 1\n[caches.team]\nurl = \"http://127.0.0.1:{port}/nix\"\nuser = \"{user}\"\n\
         password = {{ file = \"{}/password\" }}\n",
        keys.display()
    )
}
