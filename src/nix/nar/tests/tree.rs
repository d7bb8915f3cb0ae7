//! Trees, and a reader of NARs that shares nothing with the encoder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

/// A tree, as it is on disk and as it comes out of a NAR.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    File { executable: bool, content: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(Vec<(Vec<u8>, Node)>),
}

impl Node {
    pub(super) fn write(&self, at: &Path) {
        match self {
            Self::File { executable, content } => {
                fs::write(at, content).expect("written");
                // Only the owner's bit counts.
                let mode = if *executable { 0o700 } else { 0o655 };
                fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("permissions");
            }
            Self::Symlink(target) => symlink(OsStr::from_bytes(target), at).expect("linked"),
            Self::Directory(entries) => {
                fs::create_dir(at).expect("made");
                for (name, node) in entries {
                    node.write(&at.join(OsStr::from_bytes(name)));
                }
            }
        }
    }
}

/// A reader of NARs as slow and as strict as it gets.
pub(super) fn decode(nar: &[u8]) -> Node {
    let mut rest = nar;
    expect(&mut rest, "nix-archive-1");
    let node = decode_node(&mut rest);
    assert!(rest.is_empty(), "bytes behind the NAR");
    node
}

fn word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (len, behind) = rest.split_first_chunk::<8>().expect("a length");
    let len = u64::from_le_bytes(*len) as usize;
    let (word, behind) = behind.split_at(len);
    let (zeros, behind) = behind.split_at(len.next_multiple_of(8) - len);
    assert!(zeros.iter().all(|byte| *byte == 0));
    *rest = behind;
    word
}

fn expect(rest: &mut &[u8], expected: &str) {
    assert_eq!(word(rest), expected.as_bytes());
}

fn decode_node(rest: &mut &[u8]) -> Node {
    expect(rest, "(");
    expect(rest, "type");
    match word(rest) {
        b"regular" => {
            let mut tag = word(rest);
            let executable = tag == b"executable";
            if executable {
                expect(rest, "");
                tag = word(rest);
            }
            assert_eq!(tag, b"contents");
            let content = word(rest).to_vec();
            expect(rest, ")");
            Node::File { executable, content }
        }
        b"symlink" => {
            expect(rest, "target");
            let target = word(rest).to_vec();
            expect(rest, ")");
            Node::Symlink(target)
        }
        b"directory" => {
            let mut entries: Vec<(Vec<u8>, Node)> = Vec::new();
            loop {
                match word(rest) {
                    b")" => return Node::Directory(entries),
                    tag => assert_eq!(tag, b"entry"),
                }
                expect(rest, "(");
                expect(rest, "name");
                let name = word(rest).to_vec();
                assert!(entries.last().is_none_or(|(before, _)| *before < name), "names in order");
                expect(rest, "node");
                entries.push((name, decode_node(rest)));
                expect(rest, ")");
            }
        }
        other => panic!("a node of type {other:?}"),
    }
}

/// Any small tree.
pub(super) fn nodes() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(executable, content)| Node::File { executable, content }),
        prop::collection::vec(1..=255u8, 1..20).prop_map(Node::Symlink),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop::collection::btree_map(names(), inner, 0..8)
            .prop_map(|entries| Node::Directory(entries.into_iter().collect()))
    })
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=255u8, 1..12)
        .prop_filter("a name", |name| !name.contains(&b'/') && name != b"." && name != b"..")
}
