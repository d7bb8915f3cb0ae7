//! The body of an answer, as it comes: given up when nothing of it comes any more, or when it is longer than any such
//! answer may be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError as LibraryError, HttpErrorKind};
use tokio::time::{Sleep, sleep};

use super::error::{BucketError, Carried};
use crate::cache::http::{ANSWERING_BRIEFLY, Action, HttpError};

/// A body on its way here.
pub(super) struct Arriving {
    body: reqwest::Body,
    action: Action,
    host: String,
    bucket: String,
    /// Bytes that may come yet.
    left: u64,
    /// While something is waited for. It isn't the server's fault where nobody asks for more.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// The body of an answer to what was asked of a host, of so many bytes at most. `bucket` is what messages call the
    /// bucket.
    pub(super) fn new(body: reqwest::Body, action: Action, host: String, bucket: String, most: u64) -> Self {
        Self { body, action, host, bucket, left: most, waiting: None }
    }

    fn too_long(&self) -> BucketError {
        let problem = "its answer is longer than any should be".to_owned();
        BucketError::NotUnderstood { action: self.action, bucket: self.bucket.clone(), problem }
    }
}

/// An error as the library hands it on.
fn carried(error: impl Into<BucketError>) -> LibraryError {
    LibraryError::new(HttpErrorKind::Unknown, Carried(Arc::new(error.into())))
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = LibraryError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryError>>> {
        let Poll::Ready(arrived) = Pin::new(&mut self.body).poll_frame(context) else {
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(ANSWERING_BRIEFLY)));
            return waiting.as_mut().poll(context).map(|()| {
                let (action, host) = (self.action, self.host.clone());
                Some(Err(carried(HttpError::Stalled { action, host, after: ANSWERING_BRIEFLY })))
            });
        };
        self.waiting = None;
        Poll::Ready(arrived.map(|arrived| {
            let frame =
                arrived.map_err(|source| carried(HttpError::of_transport(self.action, self.host.clone(), source)))?;
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.left = self.left.checked_sub(length).ok_or_else(|| carried(self.too_long()))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::cache::bucket::error::unwrapped;

    /// A body whose frames a test hands over.
    pub(in crate::cache::bucket) struct Handed(pub(in crate::cache::bucket) mpsc::Receiver<Bytes>);

    impl Body for Handed {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn arriving(most: u64) -> (mpsc::Sender<Bytes>, Arriving) {
        let (sender, handed) = mpsc::channel(8);
        let body = reqwest::Body::wrap(Handed(handed));
        (sender, Arriving::new(body, Action::Missing, "https://h".to_owned(), "s3://b".to_owned(), most))
    }

    /// What the library's error is made of.
    fn of_library(error: LibraryError) -> Arc<BucketError> {
        let error = object_store::Error::Generic { store: "S3", source: Box::new(error) };
        unwrapped(Action::Upload, "s3://b", &error)
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_more_is_given_up_and_who_is_slow_is_not() {
        let (sender, mut body) = arriving(u64::MAX);
        for _ in 0..4 {
            // Nobody asks for more meanwhile, which is not the server's fault.
            sleep(ANSWERING_BRIEFLY * 2).await;
            let (sent, arrived) = tokio::join!(
                async {
                    sleep(ANSWERING_BRIEFLY - Duration::from_secs(1)).await;
                    sender.send(Bytes::from_static(b"x")).await
                },
                body.frame()
            );
            sent.expect("taken");
            assert!(arrived.expect("a frame").is_ok());
        }
        let began = Instant::now();
        let error = of_library(body.frame().await.expect("an end").expect_err("nothing came"));
        assert_eq!(began.elapsed().as_secs(), ANSWERING_BRIEFLY.as_secs());
        assert_eq!(error.to_string(), "ask what is missing at https://h: nothing has moved for 30 s");
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_taken() {
        let (sender, mut body) = arriving(4);
        for chunk in ["abc", "d"] {
            sender.send(chunk.into()).await.expect("taken");
            assert!(body.frame().await.expect("a frame").is_ok());
        }
        sender.send("e".into()).await.expect("taken");
        let error = of_library(body.frame().await.expect("an end").expect_err("too long"));
        assert!(error.to_string().contains("longer than any should be"), "{error}");
    }
}
