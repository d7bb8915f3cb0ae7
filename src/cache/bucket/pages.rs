//! Going from page to page of a list, as long as that leads anywhere: a store that is broken may hand out the same page again
//! and again, or empty ones, and whoever follows it then neither ends nor fails.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::error::BucketError;
use crate::cache::http::Action;

/// So many empty pages may follow each other: stores have them where much was deleted, or where they look no further at once.
const EMPTY: u32 = 200;

/// The pages of a list that were asked for.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// By what they were asked for, in 64 bits each.
    seen: HashSet<u64>,
    /// How many of the last showed nothing.
    empty: u32,
}

impl Pages {
    /// Takes note of what the next page is asked for by, and of whether the one before it showed something.
    ///
    /// # Errors
    /// [`BucketError::NotUnderstood`] where that doesn't come to an end.
    pub(super) fn next(
        &mut self,
        action: Action,
        bucket: &str,
        token: &impl Hash,
        is_empty: bool,
    ) -> Result<(), Arc<BucketError>> {
        self.empty = if is_empty { self.empty + 1 } else { 0 };
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let problem = if !self.seen.insert(hasher.finish()) {
            "a list of what is in it leads in a circle, from a page to one that was there before".to_owned()
        } else if self.empty > EMPTY {
            format!("a list of what is in it goes on and on: {EMPTY} pages in a row are empty")
        } else {
            return Ok(());
        };
        Err(Arc::new(BucketError::NotUnderstood { action, bucket: bucket.to_owned(), problem }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use object_store::ListResult;
    use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};

    use super::*;

    /// A bucket whose lists have no end: there is always another page, and nothing on it.
    #[derive(Default)]
    pub(in crate::cache::bucket) struct Endless(AtomicUsize);

    #[async_trait]
    impl PaginatedListStore for Endless {
        async fn list_paginated(
            &self,
            _: Option<&str>,
            _: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            let page = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(page < 10_000, "it is followed for ever");
            let (objects, common_prefixes, extensions) = Default::default();
            let result = ListResult { objects, common_prefixes, extensions };
            Ok(PaginatedListResult { result, page_token: Some(page.to_string()) })
        }
    }

    #[test]
    fn a_list_that_does_not_end_is_given_up() {
        let mut circle = Pages::default();
        let mut next = |token: &str| circle.next(Action::Missing, "s3://b", &token, false);
        assert!(next("a").is_ok() && next("b").is_ok());
        let error = next("a").expect_err("it was there");
        assert!(error.to_string().contains("circle"), "{error}");
        let mut empty = Pages::default();
        let mut next = |token: u32, is_empty| empty.next(Action::Missing, "s3://b", &token, is_empty).is_ok();
        assert!((0..EMPTY).all(|token| next(token, true)) && next(EMPTY, false));
        assert!((0..EMPTY).all(|token| next(1_000 + token, true)), "what is in between counts");
        assert!(!next(2_000, true));
    }
}
