//! What is in an archive, and where: the `.ls` files of binary caches, as Nix writes them with `write-nar-listing=true`
//! (`listNar` in its `src/libutil/nar-accessor.cc`), keys sorted.
//!
//! It is made of the archive's own bytes as they go by, in order. Files are passed over; in memory are the listing and one
//! word.

use std::mem;

/// Longest word that is kept, in bytes: a name, or where a symlink points. Systems have 255 and 4,096.
const LONGEST_WORD: u64 = 64 * 1024;

/// Words are padded to so many bytes.
const PADDING: u64 = 8;

/// A listing being made.
#[derive(Debug)]
pub struct Listing {
    json: Vec<u8>,
    most: usize,
    /// Bytes of the archive that have gone by.
    offset: u64,
    reading: Reading,
    expect: Expect,
    /// The directories around, and whether each has an entry already.
    levels: Vec<bool>,
    executable: bool,
}

/// Where in a word the archive stands.
#[derive(Debug)]
enum Reading {
    Length { bytes: [u8; 8], have: usize },
    Word { bytes: Vec<u8>, length: usize, padding: u64 },
    Passing { left: u64 },
}

/// Which word comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Magic,
    Open,
    Type,
    Kind,
    Regular,
    Marker,
    ContentsWord,
    Contents,
    Target,
    TargetText,
    Close,
    Entry,
    EntryOpen,
    Name,
    NameText,
    Node,
    EntryClose,
    /// The archive is over.
    Nothing,
    /// There will be no listing.
    GivenUp,
}

impl Listing {
    /// Begins the listing of an archive; one that would become longer than `most` bytes is given up.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            json: br#"{"root":"#.to_vec(),
            most,
            offset: 0,
            reading: Reading::next(),
            expect: Expect::Magic,
            levels: Vec::new(),
            executable: false,
        }
    }

    /// Takes the archive's next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.expect != Expect::GivenUp {
            let taken = self.step(bytes);
            self.offset += taken as u64;
            bytes = &bytes[taken..];
            self.settle();
            if self.json.len() > self.most {
                self.give_up();
            }
        }
    }

    /// The listing, in JSON; `None` where the archive isn't over, is none, has names that are no UTF-8 and so can't stand in
    /// JSON, or where the listing would be too long.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.expect != Expect::Nothing {
            return None;
        }
        self.json.extend_from_slice(br#","version":1}"#);
        Some(self.json)
    }

    /// Takes some of these bytes, and says how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match &mut self.reading {
            Reading::Length { bytes: length, have } => {
                let taken = bytes.len().min(length.len() - *have);
                length[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                *have += taken;
                taken
            }
            Reading::Word { bytes: word, length, .. } => {
                let taken = bytes.len().min(*length - word.len());
                word.extend_from_slice(&bytes[..taken]);
                taken
            }
            Reading::Passing { left } => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| bytes.len().min(left));
                *left -= taken as u64;
                taken
            }
        }
    }

    /// Goes on as far as that needs no further bytes.
    fn settle(&mut self) {
        loop {
            match &mut self.reading {
                Reading::Length { bytes, have: 8 } => {
                    let length = u64::from_le_bytes(*bytes);
                    let padding = (PADDING - length % PADDING) % PADDING;
                    self.reading = if self.expect == Expect::Contents {
                        self.regular(length);
                        Reading::Passing { left: length.saturating_add(padding) }
                    } else if length > LONGEST_WORD {
                        return self.give_up();
                    } else {
                        // Bounded just above.
                        Reading::Word { bytes: Vec::new(), length: length as usize, padding }
                    };
                }
                Reading::Word { bytes, length, padding } if bytes.len() == *length => {
                    let (word, padding) = (mem::take(bytes), *padding);
                    self.reading = Reading::Passing { left: padding };
                    self.word(&word);
                }
                Reading::Passing { left: 0 } => {
                    self.reading = Reading::next();
                    return;
                }
                _ => return,
            }
        }
    }

    fn word(&mut self, word: &[u8]) {
        self.expect = match (self.expect, word) {
            (Expect::Magic, b"nix-archive-1") => Expect::Open,
            (Expect::Open, b"(") => Expect::Type,
            (Expect::Type, b"type") => Expect::Kind,
            (Expect::Kind, b"regular") => {
                self.executable = false;
                Expect::Regular
            }
            (Expect::Kind, b"symlink") => Expect::Target,
            (Expect::Kind, b"directory") => {
                self.json.extend_from_slice(br#"{"entries":{"#);
                self.levels.push(false);
                Expect::Entry
            }
            (Expect::Regular, b"executable") => {
                self.executable = true;
                Expect::Marker
            }
            (Expect::Marker, b"") => Expect::ContentsWord,
            (Expect::Regular | Expect::ContentsWord, b"contents") => Expect::Contents,
            (Expect::Target, b"target") => Expect::TargetText,
            (Expect::TargetText, target) => {
                self.json.extend_from_slice(br#"{"target":"#);
                let is_text = self.text(target);
                self.json.extend_from_slice(br#","type":"symlink"}"#);
                if is_text { Expect::Close } else { Expect::GivenUp }
            }
            (Expect::Close, b")") => self.after_node(),
            (Expect::Entry, b")") => {
                self.levels.pop();
                self.json.extend_from_slice(br#"},"type":"directory"}"#);
                self.after_node()
            }
            (Expect::Entry, b"entry") => Expect::EntryOpen,
            (Expect::EntryOpen, b"(") => Expect::Name,
            (Expect::Name, b"name") => Expect::NameText,
            (Expect::NameText, name) => {
                if self.levels.last_mut().is_some_and(|has_entries| mem::replace(has_entries, true)) {
                    self.json.push(b',');
                }
                let is_text = self.text(name);
                self.json.push(b':');
                if is_text { Expect::Node } else { Expect::GivenUp }
            }
            (Expect::Node, b"node") => Expect::Open,
            (Expect::EntryClose, b")") => Expect::Entry,
            _ => Expect::GivenUp,
        };
    }

    /// A file of that size begins here.
    fn regular(&mut self, size: u64) {
        let executable = if self.executable { r#""executable":true,"# } else { "" };
        let offset = self.offset;
        let file = format!(r#"{{{executable}"narOffset":{offset},"size":{size},"type":"regular"}}"#);
        self.json.extend_from_slice(file.as_bytes());
        self.expect = Expect::Close;
    }

    fn after_node(&self) -> Expect {
        if self.levels.is_empty() { Expect::Nothing } else { Expect::EntryClose }
    }

    /// Writes a string; says whether it is one.
    fn text(&mut self, bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok_and(|text| serde_json::to_writer(&mut self.json, text).is_ok())
    }

    fn give_up(&mut self) {
        self.expect = Expect::GivenUp;
        self.json = Vec::new();
    }
}

impl Reading {
    fn next() -> Self {
        Self::Length { bytes: [0; 8], have: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::nix::nar::{NarOptions, encode};

    fn archive(root: &Path) -> Vec<u8> {
        let mut nar = Vec::new();
        let encoded = encode(root, &NarOptions::default(), |chunk| {
            nar.extend_from_slice(&chunk);
            Ok::<_, ()>(())
        });
        encoded.map_err(|_| ()).expect("an archive");
        nar
    }

    fn listed(nar: &[u8], step: usize, most: usize) -> Option<String> {
        let mut listing = Listing::new(most);
        nar.chunks(step).for_each(|bytes| listing.feed(bytes));
        listing.finish().map(|json| String::from_utf8(json).expect("UTF-8"))
    }

    #[test]
    fn it_is_what_nix_writes_however_the_archive_comes() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("x");
        fs::create_dir_all(root.join("b/c")).expect("made");
        fs::write(root.join("b/f"), "hi\n").expect("written");
        fs::set_permissions(root.join("b/f"), fs::Permissions::from_mode(0o755)).expect("changed");
        symlink("b/f", root.join("l")).expect("made");
        fs::write(root.join("a \"q"), "q\n").expect("written");
        // As Nix 2.26 has written it of the same tree.
        let expected = r#"{"root":{"entries":{"a \"q":{"narOffset":232,"size":2,"type":"regular"},"b":{"entries":{"c":{"entries":{},"type":"directory"},"f":{"executable":true,"narOffset":760,"size":3,"type":"regular"}},"type":"directory"},"l":{"target":"b/f","type":"symlink"}},"type":"directory"},"version":1}"#;
        let nar = archive(&root);
        for step in [1, 7, 8, 64, nar.len()] {
            assert_eq!(listed(&nar, step, 4096).as_deref(), Some(expected), "{step}");
        }
        assert_eq!(listed(&nar, 100, expected.len() - 20), None, "too long");
        assert_eq!(listed(&nar[..nar.len() - 16], 100, 4096), None, "cut");
        assert_eq!(listed(b"something else, and long enough to be a word or two", 9, 4096), None);
    }

    #[test]
    fn a_path_may_be_a_single_file_and_where_its_bytes_are_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x");
        for size in [0, 1, 8, 5000] {
            let bytes = vec![7; size];
            fs::write(&file, &bytes).expect("written");
            let nar = archive(&file);
            let json = listed(&nar, 11, 4096).expect("a listing");
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let root = &json["root"];
            assert_eq!(root["size"], size);
            let offset = usize::try_from(root["narOffset"].as_u64().expect("a number")).expect("small");
            assert!(nar[offset..offset + size] == bytes);
        }
        fs::remove_file(&file).expect("removed");
        symlink("/a\nb", &file).expect("made");
        let link = r#"{"root":{"target":"/a\nb","type":"symlink"},"version":1}"#;
        assert_eq!(listed(&archive(&file), 3, 4096).as_deref(), Some(link));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_json_can_not_hold_have_no_listing() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(OsStr::from_bytes(b"a\xff")), "").expect("written");
        assert_eq!(listed(&archive(dir.path()), 100, 4096), None);
    }
}
