use crate::nix::StoreDir;
use crate::queue::{QueueError, QueueHandle, Routes};
use std::path::PathBuf;
pub(super) struct Listing;
#[derive(Debug, thiserror::Error)]
pub(super) enum ListingError {
    #[error(transparent)]
    Queue(#[from] QueueError),
}
impl Listing {
    pub(super) async fn open(_r: PathBuf, _s: PathBuf, _d: StoreDir, _q: &QueueHandle) -> Result<Self, ListingError> {
        Ok(Self)
    }
    pub(super) async fn look(&mut self, _q: &QueueHandle, _r: &Routes) -> Result<u64, QueueError> {
        Ok(0)
    }
}
