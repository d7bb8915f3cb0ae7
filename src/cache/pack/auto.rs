//! Packing with the effort that pays, as an archive's beginning looks.
//!
//! The level of a zstd frame is settled before its first block, and an archive is one frame, since some readers may stop
//! behind the first. So up to [`WINDOW`] bytes are held back and looked at by samples. What is packed already (images,
//! compressed manuals, jars) gets next to no effort, since it gains nothing; text gets more than the cache's
//! [pace](crate::cache::Pace) says, unless that is the least: it packs so fast that this costs no more than other content
//! does.
//!
//! An archive whose beginning is of another kind than its rest gets the effort of its beginning.

use std::io::{self, Write};

use zstd::stream::write::Encoder;

use crate::cache::pace::{CEILING, FLOOR};

/// Bytes of an archive that are looked at before it is packed; held in memory so long.
const WINDOW: usize = 1024 * 1024;

/// A sample is taken out of the middle of each so many bytes (and of what is left of them)...
const STRETCH: usize = 256 * 1024;

/// ...one part in so many of them, so that looking costs little against packing.
const SHARE: usize = 16;

/// Fewer bytes in all say nothing: a small archive takes no effort worth sparing.
const SMALLEST_SAMPLE: usize = 4096;

/// The level for what is packed already: it passes by at more than a gigabyte a second.
const LEAST: i32 = 1;

/// So many levels more for text, unless the link waits for the packers: then none.
const FOR_TEXT: i32 = 2;

/// What an archive holds for the most part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// What is packed already: no tenth could be saved.
    Packed,
    /// Text: of each 20 bytes 17 are printable ASCII or white space.
    Text,
    /// Anything else.
    Other,
}

impl Content {
    /// What that beginning of an archive looks like.
    fn of(beginning: &[u8]) -> io::Result<Self> {
        let middle = |stretch: &[u8]| {
            let len = stretch.len() / SHARE;
            let from = (stretch.len() - len) / 2;
            stretch[from..from + len].to_vec()
        };
        let sample: Vec<u8> = beginning.chunks(STRETCH).flat_map(middle).collect();
        if sample.len() < SMALLEST_SAMPLE {
            return Ok(Self::Other);
        }
        let packed = zstd::bulk::compress(&sample, LEAST)?;
        if packed.len() > sample.len() / 10 * 9 {
            return Ok(Self::Packed);
        }
        let printable = |byte: &&u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
        let text = sample.iter().filter(printable).count() >= sample.len() / 20 * 17;
        Ok(if text { Self::Text } else { Self::Other })
    }

    /// The level for it, where other content gets `level`.
    fn level(self, level: i32) -> i32 {
        match self {
            Self::Packed => LEAST,
            Self::Text => (level + (level - FLOOR).clamp(0, FOR_TEXT)).min(CEILING),
            Self::Other => level,
        }
    }
}

/// Packs what is written into it, with the effort that its beginning asks for.
pub(super) struct Auto<W: Write> {
    level: i32,
    expected_size: u64,
    stage: Stage<W>,
}

enum Stage<W: Write> {
    Looking {
        beginning: Vec<u8>,
        out: W,
    },
    Packing {
        content: Content,
        encoder: Encoder<'static, W>,
    },
    /// It has failed.
    Over,
}

impl<W: Write> Auto<W> {
    /// Will pack an archive of `expected_size` bytes (0: nobody knows), at `level` if it is of no special kind.
    pub(super) fn new(out: W, level: i32, expected_size: u64) -> Self {
        Self { level, expected_size, stage: Stage::Looking { beginning: Vec::new(), out } }
    }

    /// Begins to pack, if it hasn't yet.
    fn begin(&mut self) -> io::Result<(&mut Encoder<'static, W>, Content)> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = match stage {
            Stage::Looking { beginning, out } => {
                let content = Content::of(&beginning)?;
                let mut encoder = super::zstd_encoder(out, content.level(self.level), self.expected_size)?;
                encoder.write_all(&beginning)?;
                Stage::Packing { content, encoder }
            }
            stage => stage,
        };
        match &mut self.stage {
            Stage::Packing { content, encoder } => Ok((encoder, *content)),
            Stage::Looking { .. } | Stage::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Packs the rest; says what the content was taken for, and hands the writer back.
    pub(super) fn finish(mut self) -> io::Result<(Content, W)> {
        let (_, content) = self.begin()?;
        match self.stage {
            Stage::Packing { encoder, .. } => Ok((content, encoder.finish()?)),
            Stage::Looking { .. } | Stage::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<W: Write> Write for Auto<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Stage::Looking { beginning, .. } = &mut self.stage
            && beginning.len() + bytes.len() <= WINDOW
        {
            beginning.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.begin()?.0.write(bytes)
    }

    /// Nothing: what is looked at waits for more. [`Auto::finish`] packs it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that don't compress, always the same.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(next).collect()
    }

    /// Something like a program: bytes of few values, most of them not printable.
    fn program(len: usize) -> Vec<u8> {
        noise(len).into_iter().map(|byte| byte & 0x8f).collect()
    }

    fn text(len: usize) -> Vec<u8> {
        noise(len).into_iter().map(|byte| b"etaoin shrdlu\n\tE"[usize::from(byte & 15)]).collect()
    }

    #[test]
    fn kinds_of_content_are_told_apart() {
        for len in [SMALLEST_SAMPLE * SHARE, 300_000, WINDOW] {
            assert_eq!(Content::of(&noise(len)).expect("looked at"), Content::Packed, "{len}");
            assert_eq!(Content::of(&text(len)).expect("looked at"), Content::Text, "{len}");
            assert_eq!(Content::of(&program(len)).expect("looked at"), Content::Other, "{len}");
        }
        assert_eq!(
            Content::of(&noise(SMALLEST_SAMPLE * SHARE - SHARE)).expect("looked at"),
            Content::Other,
            "too small"
        );
        // Images between some text are packed content all the same.
        let (noise, text) = (noise(WINDOW), text(3_000));
        let mixed: Vec<u8> = noise.chunks(62_000).flat_map(|image| [image, &text].concat()).collect();
        assert_eq!(Content::of(&mixed).expect("looked at"), Content::Packed);
    }

    #[test]
    fn effort_goes_where_it_pays_and_no_further_than_the_ceiling() {
        for level in FLOOR..=CEILING {
            let [packed, text, other] =
                [Content::Packed, Content::Text, Content::Other].map(|content| content.level(level));
            assert!(packed <= other && other <= text && text <= CEILING, "{packed} {other} {text}");
            assert_eq!(text == other, [FLOOR, CEILING].contains(&level), "{text} for {other}");
            assert_eq!(other, level);
        }
    }

    fn packed_at(content: &[u8], level: i32) -> Vec<u8> {
        let mut auto = Auto::new(Vec::new(), level, content.len() as u64);
        content.chunks(100_000).for_each(|chunk| auto.write_all(chunk).expect("packed"));
        auto.finish().expect("packed").1
    }

    #[test]
    fn no_level_takes_much_memory() {
        let content = program(8 * WINDOW);
        let memory = |level| {
            let mut encoder = zstd::zstd_safe::CCtx::create();
            encoder.set_parameter(zstd::zstd_safe::CParameter::CompressionLevel(level)).expect("a level");
            let mut packed = vec![0; content.len()];
            let mut out = zstd::zstd_safe::OutBuffer::around(packed.as_mut_slice());
            let mut input = zstd::zstd_safe::InBuffer::around(&content);
            encoder.compress_stream(&mut out, &mut input).expect("packed");
            encoder.sizeof()
        };
        assert!(memory(CEILING) <= 6 << 20, "{}", memory(CEILING));
    }

    #[test]
    fn what_is_packed_is_one_frame_at_the_level_of_its_kind() {
        for len in [0, 1, 5_000, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW] {
            for content in [noise(len), text(len), program(len)] {
                let packed = packed_at(&content, 3);
                let kind = Content::of(&content[..len.min(WINDOW / 100_000 * 100_000)]).expect("looked at");
                let mut encoder =
                    super::super::zstd_encoder(Vec::new(), kind.level(3), len as u64).expect("an encoder");
                encoder.write_all(&content).expect("packed");
                assert!(packed == encoder.finish().expect("packed"), "{kind:?} of {len} bytes");
                assert!(zstd::decode_all(packed.as_slice()).expect("zstd") == content);
                let frame = zstd::zstd_safe::find_frame_compressed_size(&packed).expect("a frame");
                assert_eq!(frame, packed.len(), "one frame");
            }
        }
        let text = include_bytes!("../../../docs/policy.md");
        assert!(packed_at(text, CEILING).len() < packed_at(text, FLOOR).len(), "effort shows");
    }
}
