//! What the environment says of a bucket's credentials, and the files that it names for them.
//!
//! The library reads these files, and sends what stands there and in the variables; where no request can carry that, it
//! panics. So a file is looked at before the library reads it, by the rules for every secret, and on a thread that may wait;
//! and what can't be sent is an error that says where it comes from. A newline at the end, as secrets in containers often
//! have, is no part of a value.

use std::ffi::OsStr;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use object_store::CredentialProvider;

use super::error::{BucketError, Carried, unwrapped};
use crate::cache::http::Action;
use crate::secret::{Provider, Source};

/// A variable of the environment that says something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// A file that holds a key: nobody else may read it.
pub(super) fn key_file(path: &Path, real_store: &Path) -> Provider {
    Provider::of_lines(source(path, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref()), real_store)
}

/// A file with the token by which a workload says who it is. Clusters write it for all that run in it.
pub(super) fn token_file(path: &Path, real_store: &Path) -> Provider {
    Provider::of_lines(Source::File { path: path.to_owned(), readable_by_others: Some(true) }, real_store)
}

/// What systemd hands over has rights of its own, also where a variable names its file.
fn source(path: &Path, credentials: Option<&OsStr>) -> Source {
    let name = path.strip_prefix(credentials.unwrap_or_default()).ok().and_then(Path::to_str);
    match name.filter(|name| credentials.is_some_and(|folder| !folder.is_empty()) && !name.contains('/')) {
        Some(name) => Source::Credential { name: name.to_owned() },
        None => Source::owners_file(path),
    }
}

/// Whether a request can carry a value in its head, and a server understand it. What isn't ASCII can be carried, and is nothing
/// that a store knows: a mark that an editor has put in front, say, or a space that is none.
pub(super) fn can_be_sent(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// What keeps a value from being sent, in words.
pub(super) const UNSENDABLE: &str =
    "has a character that can't be sent: a line's end, perhaps, or one that isn't to be seen";

/// What the library's own chain of credentials gives for a bucket.
///
/// # Errors
/// What it says; [`BucketError::NoCredentials`] where it panics, since something can't be sent.
pub(super) async fn given<C: Send + Sync>(
    chain: &dyn CredentialProvider<Credential = C>,
    bucket: &str,
) -> Result<Arc<C>, Arc<BucketError>> {
    let mut asking = chain.get_credential();
    let given = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| asking.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    });
    match given.await {
        Some(given) => given.map_err(|error| unwrapped(Action::Credentials, bucket, &error)),
        None => {
            let problem = format!(
                "a variable that says where this machine's cloud hands them out, or the file of a token that is sent \
                 there, {UNSENDABLE}; the log says more"
            );
            Err(Arc::new(BucketError::NoCredentials { bucket: bucket.to_owned(), problem }))
        }
    }
}

/// An error on its way through the library.
pub(super) fn carried(error: Arc<BucketError>) -> object_store::Error {
    object_store::Error::Generic { store: "a cloud's", source: Box::new(Carried(error)) }
}

/// Refuses a token that can't be sent.
pub(super) fn sendable(token: &str, bucket: &str) -> object_store::Result<()> {
    if can_be_sent(token) {
        return Ok(());
    }
    let problem = format!("the token {UNSENDABLE}; write it anew");
    Err(carried(Arc::new(BucketError::NoCredentials { bucket: bucket.to_owned(), problem })))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use async_trait::async_trait;

    use super::*;

    #[derive(Debug)]
    struct Panics;

    #[async_trait]
    impl CredentialProvider for Panics {
        type Credential = ();

        async fn get_credential(&self) -> object_store::Result<Arc<()>> {
            panic!("request must be valid");
        }
    }

    #[tokio::test]
    async fn what_the_library_can_not_send_is_an_error() {
        let error = given(&Panics, "s3://b").await.expect_err("no credential");
        assert!(matches!(&*error, BucketError::NoCredentials { .. }), "{error}");
    }

    #[test]
    fn what_systemd_hands_over_goes_by_its_rights() {
        let from = |path: &str, folder: Option<&str>| source(Path::new(path), folder.map(OsStr::new)).to_string();
        let folder = Some("/run/credentials/storewatch.service");
        assert_eq!(from("/run/credentials/storewatch.service/google", folder), "the credential google");
        for (path, folder) in [
            ("/run/credentials/storewatch.service/a/google", folder),
            ("/run/credentials/another.service/google", folder),
            ("/run/google", folder),
            ("/run/google", None),
            ("google", Some("")),
        ] {
            assert_eq!(from(path, folder), PathBuf::from(path).display().to_string());
        }
    }

    #[test]
    fn odd_characters_can_not_be_sent() {
        for (value, can) in [("AKIA/+= x", true), ("a\nb", false), ("\u{feff}a", false), ("a\u{a0}", false)] {
            assert_eq!(can_be_sent(value), can, "{value:?}");
        }
    }
}
