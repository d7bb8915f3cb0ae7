//! Many small things, some of them at the same time.

use std::future::Future;

use tokio::task::JoinSet;

use crate::cache::CacheError;

/// Requests to a store that are under way at the same time: a distant one answers each in some 20 ms.
pub(super) const REQUESTS: usize = 32;

/// Does `work` for each of `items`, `limit` at a time, and hands on what comes of them in no order. After the
/// first failure no more is begun, and what is under way is waited for, so that all that was done is handed on.
pub(super) async fn at_once<I, W, F, T>(
    items: I,
    limit: usize,
    work: W,
    mut take: impl FnMut(T),
) -> Result<(), CacheError>
where
    I: IntoIterator,
    W: Fn(I::Item) -> F,
    F: Future<Output = Result<T, CacheError>> + Send + 'static,
    T: Send + 'static,
{
    let (mut under_way, mut items, mut failed) = (JoinSet::new(), items.into_iter(), None);
    loop {
        while failed.is_none()
            && under_way.len() < limit
            && let Some(item) = items.next()
        {
            under_way.spawn(work(item));
        }
        match under_way.join_next().await {
            Some(Ok(Ok(done))) => take(done),
            Some(Ok(Err(error))) => drop(failed.get_or_insert(error)),
            Some(Err(_)) => drop(failed.get_or_insert(CacheError::LostThread { action: "care for the cache" })),
            None => return failed.map_or(Ok(()), Err),
        }
    }
}
