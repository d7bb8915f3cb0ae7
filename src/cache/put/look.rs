//! Looking at a cache on a web server without opening it, and trying it out, step by step, so that each trouble is found
//! where it lies.

use super::files::{Files, parse};
use super::{PutOptions, layout};
use crate::cache::binary::agree_on_store;
use crate::cache::http::{HttpError, plain, refuse_own};
use crate::cache::{CacheError, CacheInfo, Class, Trial};
use crate::nix::StoreDir;

const NOT_THERE_YET: &str = "there is no cache yet; the first upload makes it, if the server takes uploads";

/// What there is to say of the cache on a web server.
///
/// # Errors
/// [`CacheError::Http`], [`CacheError::OwnServer`].
pub async fn look(options: &PutOptions) -> Result<CacheInfo, CacheError> {
    let files = Files::new(options).await?;
    let found = files.read(layout::CACHE_INFO).await?;
    let remark = found.is_none().then_some(NOT_THERE_YET);
    let text = String::from_utf8_lossy(&found.unwrap_or_default()).into_owned();
    Ok(CacheInfo {
        substituter: Some(options.endpoint.trim_end_matches('/').to_owned()),
        store_dir: layout::store_dir_of(&text).map(plain),
        priority: layout::field_of(&text, "Priority").and_then(|priority| priority.parse().ok()),
        remark,
        ..CacheInfo::default()
    })
}

/// Greets the server, reads what the cache says of itself, and finds out whether that could be written.
pub async fn try_out(options: &PutOptions, store_dir: &StoreDir) -> Trial {
    let mut trial = Trial::default();
    if let Err(trouble) = greet(options, &mut trial).await {
        // Who doesn't answer needn't be asked more, nor this host itself.
        trial.troubles.push(trouble);
        return trial;
    }
    let files = match Files::new(options).await {
        Ok(files) => files,
        Err(error) => {
            trial.troubles.push(error);
            return trial;
        }
    };
    match files.read(layout::CACHE_INFO).await {
        Ok(Some(content)) => {
            trial.reads = Some(true);
            let (text, root) = (String::from_utf8_lossy(&content).into_owned(), files.url(""));
            let file = files.url(layout::CACHE_INFO);
            match agree_on_store(&text, store_dir, root.as_str(), file.as_str()) {
                Ok(()) => {
                    let may = files.may_put(layout::CACHE_INFO, content, layout::CACHE_INFO_TYPE).await;
                    trial.writes = allows(may.as_ref().copied());
                    trial.troubles.extend(may.err().map(CacheError::from));
                }
                Err(other) => trial.troubles.push(other),
            }
        }
        Ok(None) => {
            trial.reads = Some(true);
            trial.remark = Some(NOT_THERE_YET);
        }
        Err(error) => {
            trial.reads = allows(Err(&error));
            trial.troubles.push(error.into());
        }
    }
    trial
}

async fn greet(options: &PutOptions, trial: &mut Trial) -> Result<(), CacheError> {
    let root = parse(&options.endpoint)?;
    if !options.allow_self {
        refuse_own(&root).await?;
    }
    let url = root.join(layout::CACHE_INFO).unwrap_or(root);
    Ok(trial.greet(&options.http, url).await?)
}

/// Whether an answer shows that this is allowed, if it shows anything of the kind.
fn allows(answer: Result<(), &HttpError>) -> Option<bool> {
    match answer {
        Ok(()) => Some(true),
        // Not even asked, since there is nothing to show.
        Err(HttpError::Secret { .. }) => None,
        Err(HttpError::Status { status: 405 | 501, .. }) => Some(false),
        Err(error) => (error.class() == Class::Credentials).then_some(false),
    }
}
