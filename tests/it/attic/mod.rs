//! Attic as a cache, with a strict fake of it and, where `ATTICD` names one, with a real server.

mod credentials;
mod delivery;
mod doctor;
mod faults;
mod harness;
mod input;
mod look;
mod memory;
mod outage;
mod own;
mod secrets;
mod timeout;
mod tls;

use crate::support::{AtticServer, Running, ScratchStore, Storewatch, write_secret};
use std::path::{Path, PathBuf};

/// storewatch for a store, with one cache in its policy: `team`, on an Attic server.
struct Team<'a> {
    storewatch: Storewatch<'a>,
    token_file: PathBuf,
}

impl<'a> Team<'a> {
    /// With the file of its token named, which isn't there yet.
    fn without_token(store: &'a ScratchStore, url: &str) -> Self {
        Self::with_keys(store, url, "")
    }

    fn new(store: &'a ScratchStore, url: &str, token: &str) -> Self {
        let team = Self::without_token(store, url);
        team.replace_token(token);
        team
    }

    /// With more keys for the cache in the policy.
    fn with_keys(store: &'a ScratchStore, url: &str, keys: &str) -> Self {
        let storewatch = Storewatch::new(store);
        let token_file = storewatch.policy_path().with_file_name("token");
        storewatch.policy(&format!("version = 1\n{}{keys}", in_policy("team", url, &token_file)));
        Self { storewatch, token_file }
    }

    fn replace_token(&self, token: &str) {
        write_secret(&self.token_file, format!("{token}\n"));
    }

    /// Why the cache takes nothing now; empty where it does.
    fn waits_because(&self) -> String {
        self.storewatch.cache_status("team")["waiting_why"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the cache takes nothing, and says why in these words.
    #[track_caller]
    fn eventually_waits_because(&self, running: &mut Running, words: &str) {
        running.eventually(&format!("`status` to say {words:?}"), || self.waits_because().contains(words));
    }

    /// Waits until all these paths are in the cache and there is nothing left to do.
    #[track_caller]
    fn eventually_delivers(&self, running: &mut Running, attic: &AtticServer, paths: &[String]) {
        running.eventually("all of them in the cache", || attic.has_all("team", paths));
        running.eventually("the queue's end", || self.storewatch.jobs_left().is_empty());
        attic.assert_sound("team", paths);
    }
}

/// An Attic cache in a policy.
fn in_policy(name: &str, url: &str, token_file: &Path) -> String {
    format!("[caches.{name}]\nurl = \"{url}\"\ntoken = {{ file = \"{}\" }}\n", token_file.display())
}
