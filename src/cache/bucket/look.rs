//! Looking at a cache in a bucket without opening it, and trying it out, step by step, so that each trouble is found where
//! it lies.

use std::sync::Arc;

use object_store::multipart::MultipartStore;
use object_store::{PutMode, PutPayload, UpdateVersion};
use reqwest::Url;

use super::build::{StoreOptions, endpoint_of_environment};
use super::error::{BucketError, unwrapped};
use super::store::Store;
use crate::cache::binary::agree_on_store;
use crate::cache::http::{Action, HttpError, HttpOptions};
use crate::cache::remote::Put;
use crate::cache::trial::trial_file;
use crate::cache::{CacheError, CacheInfo, Class, Trial, layout};
use crate::nix::StoreDir;

/// A tag that no object has.
const NOBODYS_TAG: &str = "\"storewatch-asks\"";

const NOT_THERE_YET: &str = "there is no cache in it yet; the first upload makes it";

/// What there is to say of the cache in a bucket.
///
/// # Errors
/// [`CacheError::Bucket`].
pub async fn look(options: &StoreOptions) -> Result<CacheInfo, CacheError> {
    let store = Store::new(options).await?;
    let text = match store.text(layout::CACHE_INFO).await {
        Err(error) if error.may_be_missing() => None,
        read => read?,
    };
    let remark = text.is_none().then_some(NOT_THERE_YET);
    let text = text.unwrap_or_default();
    Ok(CacheInfo { substituter: Some(options.url.substituter()), remark, ..CacheInfo::of_text(&text) })
}

/// Greets the server, then asks for what needs the permission to read, and begins an upload that it takes back.
pub async fn try_out(options: &StoreOptions, store_dir: &StoreDir) -> Trial {
    let mut trial = Trial::default();
    let endpoint = match options.url.lacks_account() {
        true => endpoint_of_environment(&options.url),
        false => Ok(options.url.likely_endpoint()),
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => {
            trial.troubles.push(error.into());
            return trial;
        }
    };
    if let Err(error) = greet(options, endpoint, &mut trial).await {
        // Who doesn't answer needn't be asked more.
        trial.troubles.push(Arc::new(BucketError::from(error)).into());
        return trial;
    }
    let store = match Store::new(options).await {
        Ok(store) => store,
        Err(error) => {
            trial.troubles.push(error.into());
            return trial;
        }
    };
    let mut forbidden = None;
    match store.text(layout::CACHE_INFO).await {
        Ok(Some(text)) => {
            trial.reads = Some(true);
            let file = format!("{}/{}", store.name, layout::CACHE_INFO);
            let agreed = agree_on_store(&text, store_dir, &store.name, &file);
            trial.troubles.extend(agreed.err());
        }
        Ok(None) => {
            trial.reads = Some(true);
            trial.remark = Some(NOT_THERE_YET);
        }
        // Those who may not list are told this of what isn't there: whether they may write tells more.
        Err(error) if error.may_be_missing() && store.aborts => {
            trial.remark = Some(NOT_THERE_YET);
            forbidden = Some(error);
        }
        Err(error) => {
            trial.reads = (error.class() == Class::Credentials).then_some(false);
            trial.troubles.push(error.into());
            return trial;
        }
    }
    let written = match store.aborts {
        true => begin_and_abort(&store, &*store.multiparts).await,
        false => put_in_vain(&store).await,
    };
    trial.writes = match &written {
        Ok(()) => Some(true),
        Err(error) => (error.class() == Class::Credentials).then_some(false),
    };
    if let (Some(false), Some(forbidden)) = (trial.writes, forbidden.clone()) {
        (trial.reads, trial.remark) = (Some(false), None);
        // What is refused as a whole is told once.
        match written {
            Err(CacheError::Bucket(error)) if error.is_the_same(&forbidden) => trial.troubles.push(error.into()),
            written => {
                trial.troubles.push(forbidden.into());
                trial.troubles.extend(written.err());
            }
        }
        return trial;
    }
    if let (Some(true), Some(forbidden)) = (trial.writes, forbidden) {
        trial.reads = lets_read(&store).await.ok();
        if trial.reads == Some(false) {
            trial.remark = None;
            trial.troubles.push(forbidden.into());
        }
    }
    trial.troubles.extend(written.err());
    trial
}

/// An upload in parts that is begun and taken back: it needs the permission to write and leaves nothing.
async fn begin_and_abort(store: &Store, multiparts: &dyn MultipartStore) -> Result<(), CacheError> {
    let failed = |error: object_store::Error| CacheError::from(unwrapped(Action::Upload, &store.name, &error));
    let object = store.object(&trial_file());
    let id = multiparts.create_multipart(&object).await.map_err(failed)?;
    multiparts.abort_multipart(&object, &id).await.map_err(failed)
}

/// A file that is put on a condition that never holds, where uploads in parts can't be taken back: it needs the permission
/// to write, which is looked at first. A store that knows no such condition has it, and it is deleted.
async fn put_in_vain(store: &Store) -> Result<(), CacheError> {
    let file = trial_file();
    let nobodys = UpdateVersion { e_tag: Some(NOBODYS_TAG.to_owned()), version: None };
    let put = store.put_as(&file, PutPayload::new(), layout::NAR_TYPE, PutMode::Update(nobodys)).await;
    match put? {
        Put::Exists => Ok(()),
        Put::New => Ok(store.remove(&file).await?),
    }
}

/// Whether the key may read, where the store says of what is missing only that it may not be looked at: something is put, and
/// read back.
pub(super) async fn lets_read(store: &Store) -> Result<bool, Arc<BucketError>> {
    let file = trial_file();
    store.put(&file, PutPayload::new(), layout::NAR_TYPE).await?;
    let read = store.text(&file).await;
    // Who may not delete leaves it there: it is empty, and a prune removes it.
    let _ = store.remove(&file).await;
    match read {
        Err(error) if error.may_be_missing() => Ok(false),
        read => read.map(|_| true),
    }
}

async fn greet(options: &StoreOptions, endpoint: String, trial: &mut Trial) -> Result<(), HttpError> {
    let url = Url::parse(&endpoint).map_err(|_| HttpError::NotUnderstood {
        action: Action::Greeting,
        host: endpoint,
        problem: "its endpoint is no address".to_owned(),
    })?;
    let http = HttpOptions { direct: options.url.is_within_this_host(), ..options.http.clone() };
    trial.greet(&http, url).await
}
