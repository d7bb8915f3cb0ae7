//! Cache URLs, as Nix writes them where Nix has one.

mod web;

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

pub(super) use web::is_loopback;
pub use web::parse_upstream;

/// A cache URL, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUrl {
    /// `file:///DIR?compression=zstd`: a binary cache in a directory.
    File {
        /// The directory; absolute.
        dir: PathBuf,
        /// How NARs are compressed.
        compression: Compression,
        /// `Priority` of the `nix-cache-info` that is written where there is none.
        priority: u32,
        /// `WantMassQuery` likewise.
        want_mass_query: bool,
    },
    /// `attic+https://HOST[:PORT][/PREFIX]/CACHE`: a cache of an Attic server.
    Attic {
        /// `https://HOST[:PORT]/[PREFIX/]`, always ending in `/`.
        endpoint: String,
        /// The cache's name there.
        cache: String,
    },
}

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
}

impl Compression {
    /// What `Compression:` says in a narinfo.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// What stands behind `.nar` in the file's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd { .. } => ".zst",
        }
    }
}

/// zstd's own default, and Nix's.
const DEFAULT_LEVEL: i32 = 3;

/// Nix's own default for a cache that doesn't say (`BinaryCacheStoreConfig::priority`).
const DEFAULT_PRIORITY: u32 = 50;

/// Why a URL names no cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A kind of cache that there is, but not here yet.
    #[error(
        "caches of the kind `{0}` are not supported by this version of storewatch; `file:///DIR` and \
         `attic+https://HOST/CACHE` are"
    )]
    NotYet(String),
    /// No kind of cache that is known. The URL isn't repeated, since one may hold a password.
    #[error("this is no cache URL; write `file:///DIR` or `attic+https://HOST/CACHE`")]
    Unknown,
    /// What should be the address of a server is none.
    #[error("this is no address of a server ({0}); write `https://HOST`")]
    NoAddress(url::ParseError),
    /// A user name or a password: the policy is no place for them, and a URL is shown in many places.
    #[error(
        "the URL has a user name or a password in it: take it out, and write where the token is to be had beside it: \
         `token = {{ file = \"/run/secrets/token\" }}`"
    )]
    Credentials,
    /// `?…` or `#…`: nothing is meant by them, and a token may be among them.
    #[error(
        "this URL takes no parameters: leave out what begins with `?` or `#`, and write where the token is to be had \
         beside it: `token = {{ file = \"/run/secrets/token\" }}`"
    )]
    Parameters,
    /// An Attic server has many caches.
    #[error("the URL names no cache of the server: write `attic+https://HOST/CACHE`")]
    NoCacheName,
    /// Attic would refuse it.
    #[error(
        "the last part of the URL is no name of an Attic cache: these have up to 50 letters, digits, `-`, `_` and `+`, \
         and a letter or digit in front"
    )]
    BadCacheName,
    /// Narinfos are only read from servers.
    #[error("this is no upstream cache: write `https://HOST`")]
    NoUpstream,
    /// An upstream is asked as everybody may ask it.
    #[error(
        "an upstream's address has host, port and path only: leave out user name, password, and what begins with `?` or `#`"
    )]
    NotPlain,
    /// The directory isn't absolute, or not text.
    #[error("a file:// URL must name an absolute directory: `file:///DIR`")]
    Relative,
    /// A parameter that isn't known.
    #[error("unknown parameter `{0}`; known are compression, compression-level, priority and want-mass-query")]
    UnknownParameter(String),
    /// A parameter twice.
    #[error("parameter `{0}` is given twice")]
    Twice(String),
    /// A parameter's value can't be used.
    #[error("`{parameter}={value}`: expected {expected}")]
    BadValue {
        /// Its name.
        parameter: String,
        /// What was given.
        value: String,
        /// What would have been good.
        expected: &'static str,
    },
}

impl CacheUrl {
    /// Understands a cache URL.
    ///
    /// # Errors
    /// [`UrlError`], saying what to write instead.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = url.split_once("://") else { return Err(UrlError::Unknown) };
        match scheme {
            "file" => Self::parse_file(rest),
            "attic+https" | "attic+http" => web::parse_attic(&url["attic+".len()..]),
            "s3" | "gs" | "az" | "https" | "http" | "command" => Err(UrlError::NotYet(scheme.to_owned())),
            _ => Err(UrlError::Unknown),
        }
    }

    /// The URL in the one form in which caches are told apart, where `as_written` means this: the same cache is one cache,
    /// whether or not there is a slash at its end, or the server's name has capital letters.
    #[must_use]
    pub fn normal(&self, as_written: &str) -> String {
        match self {
            Self::Attic { endpoint, cache } => format!("attic+{endpoint}{cache}"),
            Self::File { .. } => {
                let (place, parameters) = match as_written.split_once('?') {
                    Some((place, parameters)) => (place, format!("?{parameters}")),
                    None => (as_written, String::new()),
                };
                let trimmed = place.trim_end_matches('/');
                // Nothing but slashes is the root.
                let place = if trimmed == "file:" { "file:///" } else { trimmed };
                format!("{place}{}", if parameters == "?" { "" } else { &parameters })
            }
        }
    }

    /// What kind of cache it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Attic { .. } => "attic",
        }
    }

    /// The host that is spoken to, if there is one; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        match self {
            Self::File { .. } => None,
            Self::Attic { endpoint, .. } => web::host(endpoint),
        }
    }

    /// Whether its server is reached within this host, and so past every proxy.
    #[must_use]
    pub fn is_within_this_host(&self) -> bool {
        match self {
            Self::File { .. } => true,
            Self::Attic { endpoint, .. } => endpoint.parse().is_ok_and(|address| is_loopback(&address)),
        }
    }

    /// Whether what is sent there crosses a network unencrypted, so that a token could be read on the way.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Attic { endpoint, .. } => web::is_readable_on_the_way(endpoint),
        }
    }

    fn parse_file(rest: &str) -> Result<Self, UrlError> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // As Nix does: `%20` is a space, and `%3F` a question mark that begins no parameters.
        let path = percent_decode_str(path).decode_utf8().map_err(|_| UrlError::Relative)?;
        if !path.starts_with('/') {
            return Err(UrlError::Relative);
        }
        let (mut kind, mut level, mut priority, mut want_mass_query) = (None, None, None, None);
        for (parameter, value) in query.split('&').filter(|part| !part.is_empty()).map(split_parameter) {
            let bad =
                |expected| UrlError::BadValue { parameter: parameter.to_owned(), value: value.to_owned(), expected };
            let twice = match parameter {
                "compression" => match value {
                    "zstd" | "none" => kind.replace(value).is_some(),
                    _ => return Err(bad("zstd or none")),
                },
                "compression-level" => {
                    let number = value.parse::<i32>().ok().filter(|level| (1..=19).contains(level));
                    level.replace(number.ok_or_else(|| bad("a number from 1 to 19"))?).is_some()
                }
                "priority" => priority.replace(value.parse().map_err(|_| bad("a number, 0 or more"))?).is_some(),
                "want-mass-query" => {
                    let flag = match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(bad("true or false")),
                    };
                    want_mass_query.replace(flag).is_some()
                }
                _ => return Err(UrlError::UnknownParameter(parameter.to_owned())),
            };
            if twice {
                return Err(UrlError::Twice(parameter.to_owned()));
            }
        }
        let compression = match (kind, level) {
            (Some("none"), Some(level)) => {
                return Err(UrlError::BadValue {
                    parameter: "compression-level".to_owned(),
                    value: level.to_string(),
                    expected: "no level with compression=none",
                });
            }
            (Some("none"), None) => Compression::None,
            (_, level) => Compression::Zstd { level: level.unwrap_or(DEFAULT_LEVEL) },
        };
        Ok(Self::File {
            dir: PathBuf::from(path.as_ref()),
            compression,
            priority: priority.unwrap_or(DEFAULT_PRIORITY),
            want_mass_query: want_mass_query.unwrap_or(true),
        })
    }
}

fn split_parameter(part: &str) -> (&str, &str) {
    part.split_once('=').unwrap_or((part, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_know_from_nix_is_understood() {
        let Ok(CacheUrl::File { dir, compression, priority, want_mass_query }) =
            CacheUrl::parse("file:///srv/cache?compression=zstd&compression-level=7&priority=30&want-mass-query=false")
        else {
            panic!("a good URL was refused")
        };
        assert_eq!(dir, PathBuf::from("/srv/cache"));
        assert_eq!((compression, priority, want_mass_query), (Compression::Zstd { level: 7 }, 30, false));
    }

    #[test]
    fn one_cache_has_one_url() {
        for (written, normal) in [
            ("attic+https://h/team", "attic+https://h/team"),
            ("attic+https://h/team/", "attic+https://h/team"),
            ("attic+https://H:443//team", "attic+https://h/team"),
            ("attic+https://h:8443/attic/team//", "attic+https://h:8443/attic/team"),
            ("file:///srv/cache", "file:///srv/cache"),
            ("file:///srv/cache/", "file:///srv/cache"),
            ("file:///srv/cache/?", "file:///srv/cache"),
            ("file:///srv/a%20b/?compression=none", "file:///srv/a%20b?compression=none"),
            ("file:///", "file:///"),
        ] {
            let understood = CacheUrl::parse(written).expect("a good URL");
            assert_eq!(understood.normal(written), normal);
            assert_eq!(CacheUrl::parse(normal).expect("a good URL").normal(normal), normal);
        }
    }

    #[test]
    fn directories_may_have_any_name() {
        let Ok(CacheUrl::File { dir, .. }) = CacheUrl::parse("file:///srv/a%20b%3Fc") else { panic!("a good URL") };
        assert_eq!(dir, PathBuf::from("/srv/a b?c"));
    }

    #[test]
    fn bad_urls_say_what_to_write() {
        let message = |url| CacheUrl::parse(url).expect_err("a bad URL").to_string();
        assert_eq!(message("/srv/cache"), "this is no cache URL; write `file:///DIR` or `attic+https://HOST/CACHE`");
        assert_eq!(message("file://srv"), "a file:// URL must name an absolute directory: `file:///DIR`");
        assert!(!message("ftp://me:s3cret@host/").contains("s3cret"));
        assert_eq!(message("file:///c?compression=xz"), "`compression=xz`: expected zstd or none");
        assert_eq!(message("file:///c?priority=1&priority=2"), "parameter `priority` is given twice");
        assert_eq!(
            message("file:///c?secret-key=/k"),
            "unknown parameter `secret-key`; known are compression, compression-level, priority and want-mass-query"
        );
        assert!(message("s3://bucket").contains("not supported by this version"));
    }
}
