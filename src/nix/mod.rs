//! What Nix is, as far as storewatch needs to know: store paths, what the database says of them, and the archive format.
//!
//! Nothing in this room knows of policies, queues or caches.

mod build_log;
mod daemon;
mod database;
mod derivation;
mod facts;
mod hash_part;
mod indirect_root;
pub mod nar;
mod path_info;
mod patience;
mod realisation;
pub mod roots;
mod signature;
pub mod store_listing;
mod store_path;

pub use build_log::open_build_log;
pub use daemon::{Daemon, DaemonError};
pub use database::{
    Access, Batch, BatchLimits, Database, DatabaseError, Identity, KNOWN_SCHEMA, MalformedRow, RowMark, close_replaced,
};
pub use derivation::system_of;
pub use facts::{FactsError, StoreFacts};
pub use hash_part::HashPart;
pub use indirect_root::add_indirect_root;
pub use path_info::{NarHash, NarHashError, PathInfo, nix32};
pub(crate) use patience::Patience;
pub use realisation::{Derivation, Realisation, WrittenRealisation};
pub use signature::{BadPublicKey, BadSecretKey, PublicKey, SecretKey, fingerprint};
pub use store_path::{HASH_PART_LEN, StoreDir, StorePath, StorePathError};
