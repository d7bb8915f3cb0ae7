//! Paths for tests.

use std::path::Path;

use super::{NarOptions, encode_hashed};
use crate::nix::{PathInfo, StorePath};

/// Writes a file of so many bytes, and says what Nix would have registered of it were it a path, and what its archive is.
pub(crate) fn registered(file: &Path, bytes: usize) -> (PathInfo, Vec<u8>) {
    std::fs::write(file, (0..bytes).map(|n| (n % 251) as u8).collect::<Vec<_>>()).expect("written");
    let mut nar = Vec::new();
    let hashed = encode_hashed(file, &NarOptions::default(), |chunk| {
        nar.extend_from_slice(&chunk);
        Ok::<_, ()>(())
    });
    let (nar_hash, nar_size) = hashed.map_err(|_| ()).expect("an archive");
    let path = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-a").expect("a legal name");
    let info = PathInfo {
        id: None,
        path,
        nar_hash,
        nar_size,
        registration_time: 0,
        deriver: None,
        ultimate: true,
        sigs: Vec::new(),
        ca: None,
        references: Some(Vec::new()),
    };
    (info, nar)
}
