//! Cache URLs, as Nix writes them where Nix has one.

mod bucket;
mod error;
mod parameters;
mod web;

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use self::parameters::Parameters;
use super::Layout;
pub use bucket::{Addressing, BucketUrl, Service};
pub use error::UrlError;
pub(super) use web::is_loopback;
pub use web::parse_upstream;

/// A cache URL, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUrl {
    /// `file:///DIR?compression=zstd`: a binary cache in a directory.
    File {
        /// The directory; absolute.
        dir: PathBuf,
        /// What its parameters say.
        layout: Layout,
    },
    /// `s3://BUCKET[/FOLDER]`, `gs://…`, `az://…`: a binary cache in a bucket of an object store.
    Bucket {
        /// Which bucket, and how its store is spoken to.
        bucket: BucketUrl,
        /// What its parameters say.
        layout: Layout,
    },
    /// `https://HOST[:PORT][/FOLDER]`: a binary cache on a web server that takes what is put there.
    Http {
        /// `https://HOST[:PORT]/[FOLDER/]`, always ending in `/`.
        endpoint: String,
        /// What its parameters say.
        layout: Layout,
    },
    /// `attic+https://HOST[:PORT][/PREFIX]/CACHE`: a cache of an Attic server.
    Attic {
        /// `https://HOST[:PORT]/[PREFIX/]`, always ending in `/`.
        endpoint: String,
        /// The cache's name there.
        cache: String,
    },
    /// `command:///PROGRAM`: a program that brings paths wherever it likes.
    Command {
        /// The program; absolute.
        program: PathBuf,
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
            "s3" => bucket::parse_s3(rest),
            "gs" => bucket::parse_gs(rest),
            "az" => bucket::parse_az(rest),
            "command" => Self::parse_command(rest),
            "https" | "http" => web::parse_http(url),
            _ => Err(UrlError::Unknown),
        }
    }

    /// The URL in the one form in which caches are told apart, where `as_written` means this: the same cache is one cache,
    /// whether or not there is a slash at its end, or the server's name has capital letters.
    #[must_use]
    pub fn normal(&self, as_written: &str) -> String {
        match self {
            Self::Attic { endpoint, cache } => format!("attic+{endpoint}{cache}"),
            Self::Command { .. } => as_written.to_owned(),
            Self::Http { endpoint, .. } => with_parameters(endpoint.trim_end_matches('/'), as_written),
            Self::File { .. } | Self::Bucket { .. } => {
                let place = as_written.split('?').next().unwrap_or_default();
                let trimmed = place.trim_end_matches('/');
                // Nothing but slashes is the root.
                with_parameters(if trimmed == "file:" { "file:///" } else { trimmed }, as_written)
            }
        }
    }

    /// How it is laid out, as far as the URL says so, if it is a binary cache.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            Self::File { layout, .. } | Self::Bucket { layout, .. } | Self::Http { layout, .. } => Some(layout),
            Self::Attic { .. } | Self::Command { .. } => None,
        }
    }

    /// What kind of cache it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Bucket { bucket, .. } => bucket.scheme(),
            Self::Http { .. } => "http",
            Self::Attic { .. } => "attic",
            Self::Command { .. } => "command",
        }
    }

    /// What Nix takes as a substituter to read from it; nothing where only a program knows where paths end up.
    #[must_use]
    pub fn substituter(&self) -> Option<String> {
        match self {
            Self::File { dir, .. } => Some(format!("file://{}", dir.display())),
            Self::Bucket { bucket, .. } => Some(bucket.substituter()),
            Self::Http { endpoint, .. } => Some(endpoint.trim_end_matches('/').to_owned()),
            Self::Attic { endpoint, cache } => Some(format!("{endpoint}{cache}")),
            Self::Command { .. } => None,
        }
    }

    /// The host that is spoken to, if there is one; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        match self {
            Self::File { .. } | Self::Command { .. } => None,
            Self::Bucket { bucket, .. } => web::host(&bucket.likely_endpoint()),
            Self::Http { endpoint, .. } | Self::Attic { endpoint, .. } => web::host(endpoint),
        }
    }

    /// Whether its server is reached within this host, and so past every proxy.
    #[must_use]
    pub fn is_within_this_host(&self) -> bool {
        match self {
            Self::File { .. } | Self::Command { .. } => true,
            Self::Bucket { bucket, .. } => bucket.is_within_this_host(),
            Self::Http { endpoint, .. } | Self::Attic { endpoint, .. } => {
                endpoint.parse().is_ok_and(|address| is_loopback(&address))
            }
        }
    }

    /// Whether what is sent there crosses a network unencrypted, so that a token could be read on the way.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        match self {
            Self::File { .. } | Self::Command { .. } => false,
            Self::Bucket { bucket, .. } => bucket.is_readable_on_the_way(),
            Self::Http { endpoint, .. } | Self::Attic { endpoint, .. } => web::is_readable_on_the_way(endpoint),
        }
    }

    fn parse_file(rest: &str) -> Result<Self, UrlError> {
        let (path, mut parameters) = Parameters::split(rest)?;
        // As Nix does: `%20` is a space, and `%3F` a question mark that begins no parameters.
        let path = percent_decode_str(path).decode_utf8().map_err(|_| UrlError::Relative)?;
        if !path.starts_with('/') {
            return Err(UrlError::Relative);
        }
        let layout = parameters.layout();
        parameters.finish()?;
        Ok(Self::File { dir: PathBuf::from(path.as_ref()), layout })
    }

    /// No parameters: what a program is to do is said by its arguments, beside the URL.
    fn parse_command(rest: &str) -> Result<Self, UrlError> {
        if rest.contains(['?', '#']) {
            return Err(UrlError::CommandParameters);
        }
        let path = percent_decode_str(rest).decode_utf8().map_err(|_| UrlError::RelativeProgram)?;
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(UrlError::RelativeProgram);
        }
        Ok(Self::Command { program: PathBuf::from(path.as_ref()) })
    }
}

/// A place with the parameters that stand behind it, if there are any.
fn with_parameters(place: &str, as_written: &str) -> String {
    match as_written.split_once('?') {
        Some((_, parameters)) if !parameters.is_empty() => format!("{place}?{parameters}"),
        _ => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Compression;

    #[test]
    fn what_people_know_from_nix_is_understood() {
        let Ok(CacheUrl::File { dir, layout }) = CacheUrl::parse(
            "file:///srv/cache?compression=zstd&compression-level=7&priority=30&want-mass-query=false&write-nar-listing=true",
        ) else {
            panic!("a good URL was refused")
        };
        assert_eq!(dir, PathBuf::from("/srv/cache"));
        let compression = Compression::Zstd { level: 7 };
        let said = Layout {
            compression: Some(compression),
            priority: 30,
            want_mass_query: false,
            write_nar_listing: true,
            write_build_logs: false,
            ..Layout::default()
        };
        assert_eq!(layout, said);
        let compression = |text: &str| match CacheUrl::parse(&format!("file:///c?{text}")) {
            Ok(CacheUrl::File { layout, .. }) => layout.compression,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(compression("compression=xz"), Some(Compression::Xz { level: 6 }));
        assert_eq!(compression("compression-level=0&compression=xz"), Some(Compression::Xz { level: 0 }));
        assert_eq!(compression("compression=none"), Some(Compression::None));
        assert_eq!(compression("compression=auto"), Some(Compression::AUTO));
        assert_eq!(compression("compression-level=19"), Some(Compression::Zstd { level: 19 }));
        assert_eq!(compression(""), None);
    }

    #[test]
    fn every_binary_cache_may_name_the_file_of_its_key() {
        for url in ["file:///c", "s3://b", "gs://b", "az://c", "https://h/nix"] {
            let parsed = CacheUrl::parse(&format!("{url}?secret-key=/run/secrets/a%20key")).expect("a good URL");
            let named = parsed.layout().and_then(|layout| layout.secret_key.clone());
            assert_eq!(named, Some(PathBuf::from("/run/secrets/a key")), "{url}");
        }
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
            ("https://H:443/nix/", "https://h/nix"),
            ("http://h:8080", "http://h:8080"),
            ("https://h/a/../nix//?compression=none", "https://h/nix?compression=none"),
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
        assert_eq!(
            message("/srv/cache"),
            "this is no cache URL; write `file:///DIR`, `https://HOST/FOLDER`, `s3://BUCKET`, `gs://BUCKET`, \
             `az://CONTAINER`, `attic+https://HOST/CACHE` or `command:///PROGRAM`"
        );
        assert_eq!(message("file://srv"), "a file:// URL must name an absolute directory: `file:///DIR`");
        assert!(!message("ftp://me:s3cret@host/").contains("s3cret"));
        assert_eq!(message("file:///c?compression=br"), "`compression=br`: expected auto, zstd, xz or none");
        assert_eq!(message("file:///c?compression-level=20"), "`compression-level=20`: expected a number from 1 to 19");
        assert_eq!(
            message("file:///c?compression=xz&compression-level=10"),
            "`compression-level=10`: expected a number from 0 to 9"
        );
        assert_eq!(
            message("file:///c?compression=auto&compression-level=3"),
            "`compression-level=3`: expected no level with compression=auto, which finds it by itself"
        );
        assert_eq!(message("file:///c?priority=1&priority=2"), "parameter `priority` is given twice");
        assert_eq!(
            message("file:///c?secret=/k"),
            "unknown parameter `secret`; known are compression, compression-level, priority, want-mass-query, \
             write-build-logs, write-nar-listing, write-realisations, write-build-trace and secret-key"
        );
        for url in ["file:///c?secret-key=s3cret:a2V5", "s3://b?secret-key=s3cret", "https://h?secret-key=s3cret"] {
            assert_eq!(CacheUrl::parse(url), Err(UrlError::SecretKey), "{url}");
            assert!(!message(url).contains("s3cret"));
        }
        assert_eq!(message("command://x"), "a command:// URL names a program from the `/` on: `command:///PROGRAM`");
        assert_eq!(
            message("command:///usr/bin/cachix?to=team"),
            "this URL takes no parameters: leave out what begins with `?` or `#`, and write the program's arguments beside \
             it: `args = [\"--to\", \"team\"]`"
        );
    }

    #[test]
    fn a_program_may_have_any_name() {
        let program = PathBuf::from("/opt/a b/push");
        assert_eq!(CacheUrl::parse("command:///opt/a%20b/push"), Ok(CacheUrl::Command { program }));
    }
}
