//! Trying a cache on an Attic server out, step by step, so that each trouble is found where it lies.

use reqwest::Url;

use super::{AtticCache, AtticOptions, join, parse_endpoint};
use crate::cache::http::{HttpError, refuse_own};
use crate::cache::{Cache, CacheError, Class, Trial};
use crate::nix::StorePath;

/// A store path that nobody has: to ask for it needs the permission to push, and nothing else comes of it.
const MADE_UP: &str = "00000000000000000000000000000000-storewatch-asks";

/// Greets the server, then asks what needs the permission to read, and what needs the one to push.
pub async fn try_out(options: AtticOptions) -> Trial {
    let mut trial = Trial::default();
    if let Err(own) = refuse_own_server(&options).await {
        // What stands there is asked nothing, as an upload would ask nothing.
        trial.troubles.push(own);
        return trial;
    }
    if let Err(error) = greet(&options, &mut trial).await {
        // Who doesn't answer needn't be asked more.
        trial.troubles.push(error.into());
        return trial;
    }
    match AtticCache::open(options).await {
        Ok(cache) => {
            trial.reads = Some(cache.is_told());
            trial.public_key = cache.info().public_key;
            let made_up: Vec<StorePath> = StorePath::from_base_name(MADE_UP).into_iter().collect();
            let asked = cache.missing(&made_up).await;
            trial.writes = may(&asked);
            trial.troubles.extend(asked.err());
        }
        Err(error) => {
            let refused = Err::<(), _>(error);
            (trial.reads, trial.writes) = (may(&refused), may(&refused));
            trial.troubles.extend(refused.err());
        }
    }
    trial
}

async fn refuse_own_server(options: &AtticOptions) -> Result<(), CacheError> {
    if options.allow_self {
        return Ok(());
    }
    refuse_own(&parse_endpoint(&options.endpoint, &options.endpoint)?).await
}

async fn greet(options: &AtticOptions, trial: &mut Trial) -> Result<(), HttpError> {
    trial.greet(&options.http, what_anybody_asks_for(options)?).await
}

/// What Nix asks a cache for first. Whether it is given to us doesn't matter here.
fn what_anybody_asks_for(options: &AtticOptions) -> Result<Url, HttpError> {
    let endpoint = parse_endpoint(&options.endpoint, &options.endpoint)?;
    join(&endpoint, &format!("{}/nix-cache-info", options.cache))
}

/// Whether an answer shows that this is allowed, if it shows anything of the kind.
fn may<T>(answer: &Result<T, CacheError>) -> Option<bool> {
    match answer {
        Ok(_) => Some(true),
        // Not even asked, since there is nothing to show.
        Err(CacheError::Http(HttpError::Secret { .. })) => None,
        Err(error) => (error.class() == Class::Credentials).then_some(false),
    }
}
