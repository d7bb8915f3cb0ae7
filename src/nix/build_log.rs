//! The logs of builds, as Nix keeps them (`getBuildLogExact` in its `src/libstore/local-fs-store.cc`).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;

use super::StorePath;

/// Folder of the logs within Nix's folder of logs.
const DRVS: &str = "drvs";

/// The log of a derivation's build, unpacked; `None` where there is none. `log_dir` is Nix's folder of logs.
///
/// # Errors
/// Where it is there and can't be opened.
pub fn open_build_log(log_dir: &Path, derivation: &StorePath) -> io::Result<Option<Box<dyn Read + Send>>> {
    let name = derivation.base_name();
    let (first, rest) = name.split_at(2);
    let folder = log_dir.join(DRVS);
    // Older ones lie side by side.
    for file in [folder.join(first).join(rest), folder.join(name)] {
        match File::open(&file) {
            Ok(log) => return Ok(Some(Box::new(log))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut packed = file.into_os_string();
        packed.push(".bz2");
        match File::open(packed) {
            Ok(log) => return Ok(Some(Box::new(MultiBzDecoder::new(log)))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use bzip2::Compression;
    use bzip2::write::BzEncoder;

    use super::*;

    #[test]
    fn a_log_is_found_wherever_nix_has_put_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = "0123456789abcdfghijklmnpqrsvwxyz-a.drv";
        let derivation = StorePath::from_base_name(name).expect("a legal name");
        let read = || {
            let mut text = String::new();
            let log = open_build_log(dir.path(), &derivation).expect("opened");
            log.map(|mut log| log.read_to_string(&mut text).expect("a log"));
            text
        };
        assert!(open_build_log(dir.path(), &derivation).expect("looked for").is_none());
        fs::create_dir_all(dir.path().join("drvs/01")).expect("made");
        let mut packed = BzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"packed\n").expect("packed");
        let packed = packed.finish().expect("packed");
        // The last one counts, so that each hides the one before it.
        for (file, content, expected) in [
            (format!("drvs/{name}.bz2"), packed.as_slice(), "packed\n"),
            (format!("drvs/{name}"), b"old", "old"),
            (format!("drvs/01/{}.bz2", &name[2..]), packed.as_slice(), "packed\n"),
            (format!("drvs/01/{}", &name[2..]), b"plain", "plain"),
        ] {
            fs::write(dir.path().join(&file), content).expect("written");
            assert_eq!(read(), expected, "{file}");
        }
    }
}
