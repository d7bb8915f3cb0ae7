//! Object stores: a strict fake of S3 with conditional PUT, and Garage, a real one without.

mod api;
mod cluster;
mod entry;
mod fake;
mod garage;
mod signature;
mod state;

pub use cluster::Cluster;
pub use fake::FakeS3;
pub use garage::Garage;
pub use state::{Dialect, Op, Trouble};

/// The bucket that the tests use.
pub const BUCKET: &str = "nix-cache";

/// The account that Azure's has.
pub const ACCOUNT: &str = "nixaccount";

/// A key for a bucket.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

/// So many random bytes, in hexadecimal.
pub fn hex(bytes: usize) -> String {
    let mut drawn = vec![0; bytes];
    getrandom::fill(&mut drawn).unwrap();
    drawn.iter().map(|byte| format!("{byte:02x}")).collect()
}
