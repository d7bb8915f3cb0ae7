//! How archives are packed in a binary cache.

use super::pace;

/// How a NAR is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// Zstandard.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: i32,
    },
    /// Zstandard, with the effort that suits each archive and the link to the cache.
    Auto {
        /// The level for content of no special kind, as the cache's [`Pace`](super::Pace) has it.
        level: i32,
    },
    /// LZMA, in the form of `xz`: smaller and many times slower than Zstandard.
    Xz {
        /// 0 (fast) to 9 (small).
        level: u32,
    },
}

impl Compression {
    /// Zstandard at its own default level, which is Nix's, too.
    pub const DEFAULT_ZSTD: Self = Self::Zstd { level: 3 };

    /// Zstandard, with the effort that suits each archive, before anything is known of the link.
    pub const AUTO: Self = Self::Auto { level: pace::START };

    /// xz at its own default level, which is Nix's, too.
    pub const DEFAULT_XZ: Self = Self::Xz { level: 6 };

    /// What `Compression:` says in a narinfo.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd { .. } | Self::Auto { .. } => "zstd",
            Self::Xz { .. } => "xz",
        }
    }

    /// What a narinfo calls so, at its default level.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "zstd" => Some(Self::DEFAULT_ZSTD),
            "xz" => Some(Self::DEFAULT_XZ),
            _ => None,
        }
    }

    /// The names that people choose by, for messages.
    pub const NAMES: &str = "auto, zstd, xz or none";

    /// What people call so, at its default level.
    #[must_use]
    pub fn chosen(name: &str) -> Option<Self> {
        if name == "auto" { Some(Self::AUTO) } else { Self::named(name) }
    }

    /// The levels that it has, for messages.
    #[must_use]
    pub fn levels(self) -> &'static str {
        match self {
            Self::None => "no level with compression=none",
            Self::Auto { .. } => "no level with compression=auto, which finds it by itself",
            Self::Zstd { .. } => "a number from 1 to 19",
            Self::Xz { .. } => "a number from 0 to 9",
        }
    }

    /// The same at another level, if it has that one.
    #[must_use]
    pub fn at_level(self, level: i64) -> Option<Self> {
        match self {
            Self::None | Self::Auto { .. } => None,
            Self::Zstd { .. } => {
                i32::try_from(level).ok().filter(|level| (1..=19).contains(level)).map(|level| Self::Zstd { level })
            }
            Self::Xz { .. } => u32::try_from(level).ok().filter(|level| *level <= 9).map(|level| Self::Xz { level }),
        }
    }

    /// What stands behind `.nar` in the file's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd { .. } | Self::Auto { .. } => ".zst",
            Self::Xz { .. } => ".xz",
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::DEFAULT_ZSTD
    }
}
