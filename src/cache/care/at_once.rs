//! Many small things, some of them at the same time.

use std::future::Future;

use tokio::task::JoinSet;

use crate::cache::CacheError;

/// Requests to a store that are under way at the same time: a distant one answers each in some 20 ms.
pub(super) const REQUESTS: usize = 32;

/// Does `work` for each of `items`, `limit` at a time, and hands on what comes of them in no order. The first failure
/// ends it.
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
    let (mut under_way, mut items) = (JoinSet::new(), items.into_iter());
    loop {
        while under_way.len() < limit
            && let Some(item) = items.next()
        {
            under_way.spawn(work(item));
        }
        match under_way.join_next().await {
            Some(Ok(done)) => take(done?),
            Some(Err(_)) => return Err(CacheError::LostThread { action: "care for the cache" }),
            None => return Ok(()),
        }
    }
}
