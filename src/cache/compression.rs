//! How archives are packed in a binary cache.

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
    /// LZMA, in the form of `xz`: smaller and many times slower than Zstandard.
    Xz {
        /// 0 (fast) to 9 (small).
        level: u32,
    },
}

impl Compression {
    /// zstd's own default level, and Nix's.
    pub const DEFAULT_ZSTD_LEVEL: i32 = 3;

    /// xz's own default level, and Nix's.
    pub const DEFAULT_XZ_LEVEL: u32 = 6;

    /// What `Compression:` says in a narinfo.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd { .. } => "zstd",
            Self::Xz { .. } => "xz",
        }
    }

    /// What a narinfo calls so, at its default level.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "zstd" => Some(Self::Zstd { level: Self::DEFAULT_ZSTD_LEVEL }),
            "xz" => Some(Self::Xz { level: Self::DEFAULT_XZ_LEVEL }),
            _ => None,
        }
    }

    /// What stands behind `.nar` in the file's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd { .. } => ".zst",
            Self::Xz { .. } => ".xz",
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: Self::DEFAULT_ZSTD_LEVEL }
    }
}
