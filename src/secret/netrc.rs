//! Passwords in a netrc file, as Nix's `netrc-file` names one: `machine HOST login NAME password TOKEN`.
//!
//! Read as curl reads it, which is what Nix hands the file to: the first entry for the host that has a password counts,
//! `default` stands for every host, words may be in double quotes, and a line that begins with `#` is a comment. The
//! port plays no part.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::SecretError;
use super::provider::Place;

/// Where Nix's own `netrc-file` is by default.
const NIX_NETRC: &str = "/etc/nix/netrc";

/// The file that is meant where the policy names none.
pub(super) fn default_path(place: &Place) -> Result<PathBuf, SecretError> {
    let variable = |name| (place.env)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("NETRC") {
        return Ok(named);
    }
    let own = variable("HOME").map(|home| home.join(".netrc"));
    let nixs = place.root.then(|| PathBuf::from(NIX_NETRC));
    own.into_iter().chain(nixs).find(|path| path.exists()).ok_or(SecretError::NoNetrc)
}

/// What a file has for a host.
pub(super) struct Entry {
    /// Who that is; empty where the file doesn't say, as for curl.
    pub(super) login: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

/// What a file has for a host.
pub(super) fn entry(text: &str, path: &Path, host: &str) -> Result<Entry, SecretError> {
    // URLs have brackets around an IPv6 address, netrc files have none.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    find(text, host).ok_or_else(|| SecretError::NotInNetrc { path: path.to_owned(), host: host.to_owned() })
}

fn find(text: &str, host: &str) -> Option<Entry> {
    let mut words = Words { rest: text, line_begins: true };
    let (mut ours, mut login, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        let begins_another = is("machine") || is("default");
        if begins_another && ours && password.is_some() {
            break;
        }
        if begins_another {
            (ours, login, password) = (is("default"), None, None);
        }
        if is("machine") {
            ours = words.next()?.eq_ignore_ascii_case(host);
        } else if is("macdef") {
            words.skip_macro();
        } else if is("account") {
            words.next();
        } else if is("login") {
            login = login.or(words.next());
        } else if is("password") {
            password = password.or(words.next());
        }
    }
    let login = login.unwrap_or_default();
    password.filter(|_| ours).map(|password| Entry { login, password })
}

/// The words of a netrc file, one after the other.
struct Words<'t> {
    rest: &'t str,
    line_begins: bool,
}

impl Words<'_> {
    /// A macro's text goes to the next empty line.
    fn skip_macro(&mut self) {
        let end = ["\n\n", "\n\r\n"].iter().filter_map(|end| self.rest.find(end)).min();
        self.rest = end.map_or("", |at| &self.rest[at + 1..]);
    }

    fn quoted(&mut self) -> Option<Zeroizing<String>> {
        // As long as it can get from the start: growing would leave copies behind.
        let mut word = Zeroizing::new(String::with_capacity(self.rest.len()));
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(word);
                }
                '\\' => word.push(match chars.next()?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                }),
                c => word.push(c),
            }
        }
        None
    }
}

impl Iterator for Words<'_> {
    type Item = Zeroizing<String>;

    fn next(&mut self) -> Option<Zeroizing<String>> {
        loop {
            let first = self.rest.chars().next()?;
            match first {
                '\n' => (self.rest, self.line_begins) = (&self.rest[1..], true),
                c if c.is_whitespace() => self.rest = &self.rest[c.len_utf8()..],
                '#' if self.line_begins => self.rest = self.rest.find('\n').map_or("", |at| &self.rest[at..]),
                '"' => {
                    (self.rest, self.line_begins) = (&self.rest[1..], false);
                    return self.quoted();
                }
                _ => {
                    let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                    let word = Zeroizing::new(self.rest[..end].to_owned());
                    (self.rest, self.line_begins) = (&self.rest[end..], false);
                    return Some(word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Option<String> {
        find(text, "cache.example.com").map(|entry| entry.password.to_string())
    }

    #[test]
    fn the_forms_that_people_write() {
        for text in [
            "machine cache.example.com password s3cret",
            "machine cache.example.com\n\tlogin me\n\tpassword s3cret\n",
            "machine other password no\r\nmachine Cache.Example.com login me password s3cret\r\nmachine x password no",
            "# machine cache.example.com password no\nmachine cache.example.com password s3cret # mine",
            "machine cache.example.com login \"a # password no\" password \"s3\\cret\"",
            "machine other password no default login me password s3cret",
            "machine cache.example.com login me\nmachine cache.example.com password s3cret",
            "macdef init\nmachine cache.example.com password no\n\nmachine cache.example.com password s3cret",
            "machine cache.example.com account password password s3cret",
            "MACHINE cache.example.com PASSWORD s3cret",
        ] {
            assert_eq!(found(text).as_deref(), Some("s3cret"), "{text}");
        }
        assert_eq!(found("machine cache.example.com password #1\"x").as_deref(), Some("#1\"x"));
        assert_eq!(found(r#"machine cache.example.com password "a \"b\" \\ c""#).as_deref(), Some(r#"a "b" \ c"#));
    }

    #[test]
    fn what_is_for_others_is_not_taken() {
        for text in [
            "",
            "machine example.com password no",
            "machine cache.example.com.evil.org password no",
            "machine cache.example.com login me",
            "machine cache.example.com password",
            "machine cache.example.com password \"no",
            "macdef m\nmachine cache.example.com password no",
            "password no machine cache.example.com",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        let error = entry("machine other password no", Path::new("/n"), "h").err().expect("not there");
        assert_eq!(error.to_string(), "/n has no password for h; add the line `machine h password TOKEN`");
        assert_eq!(*entry("machine ::1 password yes", Path::new("/n"), "[::1]").expect("found").password, "yes");
    }

    #[test]
    fn a_login_goes_with_the_password_of_its_own_entry() {
        for (text, login) in [
            ("machine cache.example.com login me password s3cret", "me"),
            ("machine cache.example.com password s3cret login me machine other login you", "me"),
            ("machine cache.example.com login \"a b\" password s3cret default login you", "a b"),
            ("machine cache.example.com login you\nmachine cache.example.com password s3cret", ""),
            ("machine other login you password no default login me password s3cret", "me"),
            ("machine cache.example.com password s3cret", ""),
        ] {
            let found = find(text, "cache.example.com").expect(text);
            assert_eq!((found.login.as_str(), found.password.as_str()), (login, "s3cret"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_password_it_comes_back(secret in "[^\\s\"#][^\\s]{0,30}", quoted in "[^\"\\\\\\r\\n]{0,30}") {
            let plainly = found(&format!("machine cache.example.com\npassword {secret}\nmachine x password no"));
            prop_assert_eq!(plainly.as_deref(), Some(secret.as_str()));
            let in_quotes = found(&format!("machine cache.example.com password \"{quoted}\""));
            prop_assert_eq!(in_quotes.as_deref(), Some(quoted.as_str()));
        }

        #[test]
        fn no_file_is_too_odd_to_be_read(text in "(machine |default |password |macdef |\"|\\\\|#|\n|\r|\\PC){0,30}") {
            // Only that it comes to an end, with at most what stands in the file.
            let entry = find(&text, "cache.example.com");
            prop_assert!(entry.is_none_or(|entry| entry.login.len() + entry.password.len() <= text.len()));
        }
    }
}
