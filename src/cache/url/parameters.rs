//! What stands behind the `?` of a cache URL.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::UrlError;
use crate::cache::{Compression, Layout};

/// The parameters of a URL that have not been asked for yet. What is left at the end is unknown.
pub(super) struct Parameters<'u> {
    given: Vec<(&'u str, Cow<'u, str>)>,
    known: Vec<&'static str>,
}

impl<'u> Parameters<'u> {
    /// Takes what stands behind `://` apart: what is in front of the `?`, and the parameters behind it.
    pub(super) fn split(rest: &'u str) -> Result<(&'u str, Self), UrlError> {
        let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut given: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if given.iter().any(|(other, _)| *other == name) {
                return Err(UrlError::Twice(name.to_owned()));
            }
            let value = percent_decode_str(value).decode_utf8().map_err(|_| UrlError::BadValue {
                parameter: name.to_owned(),
                value: value.to_owned(),
                expected: "text, in UTF-8",
            })?;
            given.push((name, value));
        }
        Ok((front, Self { given, known: Vec::new() }))
    }

    /// What a parameter says, if it is there.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Cow<'u, str>> {
        self.known.push(name);
        let place = self.given.iter().position(|(given, _)| *given == name)?;
        Some(self.given.remove(place).1)
    }

    /// What a parameter says, understood by `read`, which says `None` where it isn't what is `expected`.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, UrlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| UrlError::BadValue {
            parameter: name.to_owned(),
            value: value.into_owned(),
            expected,
        })
    }

    /// A parameter that is true or false.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, UrlError> {
        self.read(name, "true or false", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// The parameters that all binary caches have, as in Nix.
    pub(super) fn layout(&mut self) -> Result<Layout, UrlError> {
        let default = Layout::default();
        Ok(Layout {
            compression: self.compression()?,
            priority: self.read("priority", "a number, 0 or more", number)?.unwrap_or(default.priority),
            want_mass_query: self.flag("want-mass-query")?.unwrap_or(default.want_mass_query),
            write_build_logs: self.flag("write-build-logs")?.unwrap_or(default.write_build_logs),
            write_nar_listing: self.flag("write-nar-listing")?.unwrap_or(default.write_nar_listing),
            write_realisations: self.flag("write-realisations")?.unwrap_or(default.write_realisations),
            write_build_trace: self.flag("write-build-trace")?.unwrap_or(default.write_build_trace),
            secret_key: self.secret_key()?,
        })
    }

    /// The file of a key. What isn't one may be the key itself, so that no message repeats it.
    fn secret_key(&mut self) -> Result<Option<PathBuf>, UrlError> {
        match self.take("secret-key") {
            Some(file) if file.starts_with('/') && !file.contains(char::is_control) => Ok(Some(PathBuf::from(&*file))),
            Some(_) => Err(UrlError::SecretKey),
            None => Ok(None),
        }
    }

    /// How archives are packed, if anything is said of that.
    fn compression(&mut self) -> Result<Option<Compression>, UrlError> {
        let kind = self.read("compression", Compression::NAMES, Compression::chosen)?;
        let kind_or_default = kind.unwrap_or_default();
        let expected = kind_or_default.levels();
        let level = self.read("compression-level", expected, |text| kind_or_default.at_level(number(text)?))?;
        Ok(level.or(kind))
    }

    /// Says what is left, if anything is.
    pub(super) fn finish(self) -> Result<(), UrlError> {
        let Some((name, _)) = self.given.first() else { return Ok(()) };
        let known = match self.known.split_last() {
            Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
            _ => self.known.concat(),
        };
        Err(UrlError::UnknownParameter { name: (*name).to_owned(), known })
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
