//! Examines this host: everything that storewatch needs in order to work, one finding each.
//!
//! Nothing changes by it, but for small files that are written and removed again. It works beside a running service
//! and without one, as any user, with a bad policy and without Nix: what can't be examined is itself a finding.
//!
//! Invariant kept here: **nothing leaks.** Of a secret it is said where it comes from, never what it is; proxies are shown
//! without user name and password.

mod bandwidth;
mod caches;
mod disk;
mod events;
mod network;
mod nix;
mod policy;
mod secrets;
mod sizes;
mod state;
mod upstreams;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::{Config, ConfigError, NixStore, StoreOptions};
use crate::report::one_line;

/// What is examined.
pub struct Host<'a> {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The service that works with it, where it is gone.
    pub without_state: Option<String>,
    /// What it says, or what is wrong with it.
    pub config: &'a Result<Config, ConfigError>,
}

/// One thing that was examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is as it should be.
    pub grade: Grade,
    /// What was examined, in a word or two.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What a person may do, where what was found doesn't say.
    pub cure: Option<String>,
}

/// Whether a thing is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// It is.
    Ok,
    /// storewatch works, but not as well as it could, or not for long.
    Warning,
    /// storewatch can't do its work.
    Trouble,
}

/// Examines everything, and tells `step` what is next, as somebody may have to wait for it.
pub async fn examine(host: &Host<'_>, step: &dyn Fn(&str)) -> Vec<Finding> {
    let config = host.config.as_ref().ok();
    let nix = NixStore::resolve(config.map_or(&StoreOptions::default(), |config| &config.store), |name| {
        std::env::var_os(name)
    });
    let mut findings = policy::examine(host);
    match &nix {
        Ok(nix) => {
            step("Nix's database and daemon");
            findings.extend(nix::examine(nix).await);
        }
        Err(error) => findings.push(Finding::trouble("Nix store", one_line(error))),
    }
    step("events of the file system");
    findings.extend(events::examine(&host.state_dir, nix.as_ref().ok().map(NixStore::db_path).as_deref()).await);
    findings.extend(state::examine(&host.state_dir, host.without_state.as_deref()));
    match (config, &nix) {
        (Some(config), Ok(nix)) => {
            step("the secrets");
            findings.extend(secrets::examine(config, &host.state_dir, nix).await);
            findings.extend(caches::examine(config, nix, &host.state_dir, step).await);
            step("the sizes of caches");
            findings.extend(sizes::examine(config, &host.state_dir, nix).await);
            step("the upstreams");
            findings.extend(upstreams::examine(config).await);
            findings.extend(bandwidth::examine(config).await);
        }
        _ => {
            let unknown = "not examined: without a good policy it isn't known which there are";
            findings.push(Finding::warning("caches", unknown));
        }
    }
    step("the disks");
    findings.extend(disk::examine(config, &host.state_dir, nix.as_ref().ok()).await);
    findings.extend(network::examine(config));
    findings
}

impl Finding {
    fn new(grade: Grade, about: impl Into<String>, found: impl Into<String>) -> Self {
        Self { grade, about: about.into(), found: found.into(), cure: None }
    }

    fn ok(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Grade::Ok, about, found)
    }

    fn warning(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Grade::Warning, about, found)
    }

    fn trouble(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Grade::Trouble, about, found)
    }

    fn cured_by(self, cure: impl Into<Option<&'static str>>) -> Self {
        Self { cure: cure.into().map(str::to_owned), ..self }
    }
}
