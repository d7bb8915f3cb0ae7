use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::*;
use crate::cache::{CacheError, CallOff, NarStream};
use crate::limit::{Lane, Slots};
use crate::nix::PathInfo;
use crate::nix::nar::registered;

const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd { level: 3 }, Compression::Xz { level: 1 }, Compression::AUTO];

async fn begin(file: &Path, info: &PathInfo, slots: &Slots) -> NarReader {
    let stream = NarStream::new(file.to_owned(), info, Lane::Fresh, slots.clone(), CallOff::default());
    stream.start().await.expect("begun")
}

fn unpack(packed: &[u8], compression: Compression) -> Vec<u8> {
    let mut nar = Vec::new();
    match compression {
        Compression::None => nar.extend_from_slice(packed),
        Compression::Zstd { .. } | Compression::Auto { .. } => nar = zstd::decode_all(packed).expect("zstd"),
        Compression::Xz { .. } => {
            liblzma::read::XzDecoder::new(packed).read_to_end(&mut nar).expect("xz");
        }
    }
    nar
}

async fn take_all(mut packing: Packing) -> Result<(Packed, Vec<u8>), CacheError> {
    let mut sent = Vec::new();
    while let Some(chunk) = packing.next().await? {
        sent.extend_from_slice(&chunk);
    }
    Ok((packing.packed()?, sent))
}

#[tokio::test]
async fn what_is_packed_for_a_writer_and_for_a_sender_is_the_archive_and_as_long_as_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a");
    for bytes in [0, 10, 3 << 20] {
        let (info, nar) = registered(&file, bytes);
        for compression in ALL {
            let reader = begin(&file, &info, &Slots::new(1)).await;
            let size = info.nar_size;
            let written = tokio::task::spawn_blocking(move || pack(reader, compression, size, Vec::new())).await;
            let (packed, out) = written.expect("no panic").expect("packed");
            let reader = begin(&file, &info, &Slots::new(1)).await;
            // Unknown sizes are packed too.
            let (sent, parts) = take_all(Packing::start(reader, compression, 0)).await.expect("packed");
            for (packed, bytes) in [(packed, out), (sent, parts)] {
                assert_eq!(packed.file_size, bytes.len() as u64);
                assert_eq!(packed.file_hash, NarHash(Sha256::digest(&bytes).into()));
                assert_eq!((packed.nar_size, packed.compression), (info.nar_size, compression));
                assert!(unpack(&bytes, compression) == nar, "{compression:?}");
                assert_eq!(packed.took.is_some(), compression == Compression::AUTO, "only that wants to know");
            }
        }
    }
}

#[tokio::test]
async fn an_altered_archive_fails_for_who_sends_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a");
    for (bytes, compression) in [(10, ALL[1]), (3 << 20, ALL[0]), (3 << 20, ALL[2]), (10, ALL[3]), (3 << 20, ALL[3])] {
        let (info, _) = registered(&file, bytes);
        std::fs::write(&file, vec![8; bytes]).expect("written");
        let reader = begin(&file, &info, &Slots::new(1)).await;
        let failed = take_all(Packing::start(reader, compression, info.nar_size)).await.expect_err("altered");
        assert!(matches!(failed, CacheError::Nar(NarFailure::Altered { .. })), "{failed}");
    }
}

#[tokio::test]
async fn who_wants_no_more_gets_the_slot_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a");
    let (info, _) = registered(&file, 16 << 20);
    let slots = Slots::new(1);
    for taken in [0, 1] {
        let mut packing = Packing::start(begin(&file, &info, &slots).await, Compression::None, info.nar_size);
        for _ in 0..taken {
            assert!(packing.next().await.expect("a chunk").is_some());
        }
        drop(packing);
        // Comes true only when the thread has let go of the reader.
        drop(slots.acquire(Lane::Fresh, true).await);
    }
}

#[tokio::test]
async fn a_writer_that_fails_ends_the_packing() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a");
    let (info, _) = registered(&file, 3 << 20);
    for compression in ALL {
        let reader = begin(&file, &info, &Slots::new(1)).await;
        let size = info.nar_size;
        let failed = tokio::task::spawn_blocking(move || pack(reader, compression, size, Full).map(|_| ())).await;
        match failed.expect("no panic") {
            Err(PackError::Write(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            other => panic!("{compression:?}: {other:?}"),
        }
    }
}
