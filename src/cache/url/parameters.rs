//! What stands behind the `?` of a cache URL.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::UrlError;
use crate::cache::{Compression, Layout};

/// The parameters of a URL that have not been asked for yet. What is left at the end is unknown. What is wrong with any is
/// told at the end, all at once.
pub(super) struct Parameters<'u> {
    given: Vec<(&'u str, Cow<'u, str>)>,
    known: Vec<&'static str>,
    wrong: Vec<UrlError>,
}

impl<'u> Parameters<'u> {
    /// Takes what stands behind `://` apart: what is in front of the `?`, and the parameters behind it.
    pub(super) fn split(rest: &'u str) -> Result<(&'u str, Self), UrlError> {
        let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut given: Vec<(&str, Cow<'_, str>)> = Vec::new();
        let mut wrong = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if given.iter().any(|(other, _)| *other == name) {
                wrong.push(UrlError::Twice(name.to_owned()));
                continue;
            }
            let value = percent_decode_str(value).decode_utf8().map_err(|_| UrlError::BadValue {
                parameter: name.to_owned(),
                value: value.to_owned(),
                expected: "text, in UTF-8",
            })?;
            given.push((name, value));
        }
        Ok((front, Self { given, known: Vec::new(), wrong }))
    }

    /// What was understood of a parameter; what is wrong with it is kept for the end.
    pub(super) fn keep<T>(&mut self, read: Result<Option<T>, UrlError>) -> Option<T> {
        read.unwrap_or_else(|wrong| {
            self.wrong.push(wrong);
            None
        })
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
    ) -> Option<T> {
        let value = self.take(name)?;
        let wrong = || UrlError::BadValue { parameter: name.to_owned(), value: value.to_string(), expected };
        let read = read(&value).map(Some).ok_or_else(wrong);
        self.keep(read)
    }

    /// A parameter that is true or false.
    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.read(name, "true or false", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// The parameters that all binary caches have, as in Nix.
    pub(super) fn layout(&mut self) -> Layout {
        let default = Layout::default();
        Layout {
            compression: self.compression(),
            priority: self.read("priority", "a number, 0 or more", number).unwrap_or(default.priority),
            want_mass_query: self.flag("want-mass-query").unwrap_or(default.want_mass_query),
            write_build_logs: self.flag("write-build-logs").unwrap_or(default.write_build_logs),
            write_nar_listing: self.flag("write-nar-listing").unwrap_or(default.write_nar_listing),
            write_realisations: self.flag("write-realisations").unwrap_or(default.write_realisations),
            write_build_trace: self.flag("write-build-trace").unwrap_or(default.write_build_trace),
            secret_key: self.secret_key(),
        }
    }

    /// The file of a key. What isn't one may be the key itself, so that no message repeats it.
    fn secret_key(&mut self) -> Option<PathBuf> {
        let file = self.take("secret-key")?;
        let is_file = file.starts_with('/') && !file.contains(char::is_control);
        self.keep(if is_file { Ok(Some(PathBuf::from(&*file))) } else { Err(UrlError::SecretKey) })
    }

    /// How archives are packed, if anything is said of that.
    fn compression(&mut self) -> Option<Compression> {
        let kind = self.read("compression", Compression::NAMES, Compression::chosen);
        let kind_or_default = kind.unwrap_or_default();
        let expected = kind_or_default.levels();
        let level = self.read("compression-level", expected, |text| kind_or_default.at_level(number(text)?));
        level.or(kind)
    }

    /// Says what was wrong, and what is left, if there is any of it.
    pub(super) fn finish(self) -> Result<(), UrlError> {
        let Self { given, known, mut wrong } = self;
        if !given.is_empty() {
            let quoted: Vec<String> = given.iter().map(|(name, _)| format!("`{name}`")).collect();
            let what = if given.len() == 1 { "parameter" } else { "parameters" };
            let names = format!("{what} {}", in_a_row(&quoted));
            wrong.push(UrlError::UnknownParameter { names, known: in_a_row(&known) });
        }
        match wrong.len() {
            0 => Ok(()),
            1 => Err(wrong.remove(0)),
            _ => Err(UrlError::Several(wrong)),
        }
    }
}

/// `a, b and c`
fn in_a_row(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
