//! The names in the store directory: where the database can't be read, what might be valid is seen here first.

use std::fs;
use std::io;
use std::path::Path;

use super::StorePath;

/// Lists all names in the (real) store directory that could be store paths, in no order, one at a time.
///
/// Only the Nix daemon knows which of them are valid. `….lock`, `….chroot` and `….check` are among them: what Nix calls its
/// passing files is also what people call theirs, and a `…-Cargo.lock` must not be lost. `.links` and temporary names are not.
///
/// # Errors
/// If the directory can't be read; an item, if reading it fails midway.
pub fn list(real_store: &Path) -> io::Result<impl Iterator<Item = io::Result<StorePath>> + use<>> {
    Ok(fs::read_dir(real_store)?.filter_map(|entry| match entry {
        Ok(entry) => StorePath::from_base_name(entry.file_name().to_str()?).ok().map(Ok),
        Err(error) => Some(Err(error)),
    }))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_could_be_a_store_path_is_listed() {
        let store = tempfile::tempdir().expect("a folder");
        let hash = "0123456789abcdfghijklmnpqrsvwxyz";
        let good = [format!("{hash}-a"), format!("{hash}-Cargo.lock"), format!("{hash}-x.drv")];
        let bad = [".links", "tmp-123-0", ".tmp-link-1-2", "0123-short", &format!("{hash}-a b")];
        for name in good.iter().map(String::as_str).chain(bad) {
            fs::write(store.path().join(name), "").expect("a file");
        }
        fs::write(store.path().join(OsStr::from_bytes(b"0123456789abcdfghijklmnpqrsvwxyz-\xff")), "").expect("a file");
        let mut listed: Vec<_> = list(store.path()).expect("a store").map(|path| path.expect("a name")).collect();
        listed.sort();
        let mut expected = good.map(|name| StorePath::from_base_name(&name).expect("a store path"));
        expected.sort();
        assert_eq!(listed, expected);
        assert!(list(&store.path().join("absent")).is_err());
    }
}
