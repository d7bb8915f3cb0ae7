//! The body of a request to an object store, as it is sent: in pieces, as its tap lets them through, and noting that it moves.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError as LibraryError, HttpRequestBody};

use crate::cache::http::Movement;
use crate::limit::Tap;

/// A piece of a body, where there is no limit (bytes). That it was taken shows that something moves: on a line of 100 kbit/s each
/// takes a second or two.
const PIECE: usize = 16 * 1024;

/// A body that is sent as its tap lets it through, and notes when some of it was taken.
pub(super) struct Watched {
    body: HttpRequestBody,
    /// What is left of a larger piece.
    left: Bytes,
    tap: Tap,
    /// How much of it is next, and its turn.
    turn: Option<(usize, Turn)>,
    movement: Movement,
}

/// Waits until a piece may be sent.
type Turn = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Watched {
    pub(super) fn new(body: HttpRequestBody, tap: Tap, movement: Movement) -> Self {
        Self { body, left: Bytes::new(), tap, turn: None, movement }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = LibraryError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryError>>> {
        if self.left.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context).map_ok(Frame::into_data)) {
                Some(Ok(Ok(left))) => self.left = left,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.movement.is_whole();
                    return Poll::Ready(None);
                }
            }
        }
        let (length, mut turn): (_, Turn) = self.turn.take().unwrap_or_else(|| {
            // Where a limit says how much is a piece, it is as much as others take at a time.
            let most = Some(self.tap.piece()).filter(|piece| *piece != usize::MAX).unwrap_or(PIECE);
            let (length, tap) = (self.left.len().min(most), self.tap.clone());
            (length, Box::pin(async move { tap.take(length).await }))
        });
        if turn.as_mut().poll(context).is_pending() {
            self.movement.is_held();
            self.turn = Some((length, turn));
            return Poll::Pending;
        }
        let piece = self.left.split_to(length);
        self.movement.has_moved();
        if self.is_end_stream() {
            // Of a request that says how long it is, nobody asks for the end.
            self.movement.ends();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, behind) = (self.left.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(behind.lower() + left);
        if let Some(upper) = behind.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::cache::http::ANSWERING;
    use crate::limit::{Lane, Rate, Rates, Shaper};

    #[tokio::test]
    async fn a_body_is_sent_whole_in_pieces_that_a_slow_line_takes() {
        let payload: object_store::PutPayload = vec![7; 100_000].into();
        let body = HttpRequestBody::from(payload);
        let mut watched = Watched::new(body, Tap::of_this_task(), Movement::default());
        let mut left = 100_000;
        while left > 0 {
            assert!(!watched.is_end_stream() && watched.size_hint().exact() == Some(left as u64));
            let piece = watched.frame().await.expect("more").expect("a piece").into_data().expect("data");
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            left -= piece.len();
        }
        assert!(watched.is_end_stream() && watched.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_not_given_up_while_nothing_may_be_sent_to_it() {
        let shaper = Shaper::default();
        shaper.set(&Rates { line: Rate::new(1), ..Rates::default() });
        let payload: object_store::PutPayload = vec![7; 2000].into();
        let movement = Movement::default();
        let tap = shaper.tap("team", Lane::Fresh, true);
        let mut watched = Watched::new(HttpRequestBody::from(payload), tap, movement.clone());
        let sending = async {
            let mut sizes = Vec::new();
            while let Some(piece) = watched.frame().await {
                sizes.push(piece.expect("a piece").into_data().expect("data").len());
            }
            sizes
        };
        tokio::select! {
            biased;
            sizes = sending => assert_eq!(sizes, [1024, 976], "some twenty minutes apart"),
            after = movement.stalled(ANSWERING) => panic!("given up after {after:?}"),
        }
    }
}
