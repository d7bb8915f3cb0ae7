//! A cache of the policy file as it stands, and where its secrets come from.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::keys::SOURCE;
use super::problems::Problems;
use super::raw_limits::RawWindow;
use super::reader::{List, Table, as_string, type_of};

pub(super) struct RawCache {
    pub(super) name: Spanned<String>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) uploads: Option<Spanned<i64>>,
    pub(super) compression: Option<Spanned<String>>,
    pub(super) compression_level: Option<Spanned<i64>>,
    pub(super) max_size: Option<Spanned<String>>,
    pub(super) signing_key: Option<RawSource>,
    pub(super) access_key_id: Option<RawSource>,
    pub(super) secret_access_key: Option<RawSource>,
    pub(super) session_token: Option<RawSource>,
    pub(super) service_account_key: Option<RawSource>,
    pub(super) account_key: Option<RawSource>,
    pub(super) token: Option<RawSource>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password: Option<RawSource>,
    pub(super) headers: Vec<(Spanned<String>, RawHeader)>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) client_certificate: Option<Spanned<String>>,
    pub(super) client_key: Option<RawSource>,
    pub(super) allow_unencrypted: Option<Spanned<bool>>,
    pub(super) allow_self: Option<Spanned<bool>>,
    pub(super) server_hostnames: Option<List>,
    pub(super) args: Option<List>,
    pub(super) gives: Option<Spanned<String>>,
    pub(super) answers_missing: Option<Spanned<bool>>,
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) pass_environment: Option<List>,
    pub(super) bandwidth: Option<Spanned<String>>,
    pub(super) windows: Vec<RawWindow>,
    /// The keys that are there, good or bad, and their places.
    pub(super) given: Vec<(&'static str, Range<usize>)>,
}

pub(super) enum RawHeader {
    Plain(Spanned<String>),
    Secret(Box<RawSource>),
}

/// A table that says where a secret comes from.
pub(super) struct RawSource {
    pub(super) span: Range<usize>,
    pub(super) file: Option<Spanned<String>>,
    pub(super) readable_by_others: Option<Spanned<bool>>,
    pub(super) env: Option<Spanned<String>>,
    pub(super) credential: Option<Spanned<String>>,
    pub(super) command: Option<List>,
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) lifetime: Option<Spanned<String>>,
    pub(super) keychain: Option<Spanned<String>>,
    pub(super) account: Option<Spanned<String>>,
    pub(super) netrc: Option<Spanned<RawNetrc>>,
    /// The keys that are there, good or bad, and their places.
    pub(super) given: Vec<(&'static str, Range<usize>)>,
}

/// `netrc = true` or `netrc = "/FILE"`.
pub(super) enum RawNetrc {
    Flag(bool),
    File(Spanned<String>),
}

impl RawCache {
    pub(super) fn read(name: Spanned<String>, table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        table.require("url", problems);
        Self {
            name,
            url: table.string("url", problems),
            uploads: table.integer("uploads", problems),
            compression: table.string("compression", problems),
            compression_level: table.integer("compression_level", problems),
            max_size: table.string("max_size", problems),
            signing_key: RawSource::read_key(table, "signing_key", problems),
            access_key_id: RawSource::read_key(table, "access_key_id", problems),
            secret_access_key: RawSource::read_key(table, "secret_access_key", problems),
            session_token: RawSource::read_key(table, "session_token", problems),
            service_account_key: RawSource::read_key(table, "service_account_key", problems),
            account_key: RawSource::read_key(table, "account_key", problems),
            token: RawSource::read_key(table, "token", problems),
            user: table.string("user", problems),
            password: RawSource::read_key(table, "password", problems),
            headers: headers(table, problems),
            ca_file: table.string("ca_file", problems),
            client_certificate: table.string("client_certificate", problems),
            client_key: RawSource::read_key(table, "client_key", problems),
            allow_unencrypted: table.boolean("allow_unencrypted", problems),
            allow_self: table.boolean("allow_self", problems),
            server_hostnames: table.list("server_hostnames", problems),
            args: table.list("args", problems),
            gives: table.string("gives", problems),
            answers_missing: table.boolean("answers_missing", problems),
            timeout: table.string("timeout", problems),
            pass_environment: table.list("pass_environment", problems),
            bandwidth: table.text_or_number("bandwidth", problems),
            windows: RawWindow::read_all(table, problems),
            given: table.given(),
        }
    }
}

fn headers(table: &Table<'_>, problems: &mut Problems<'_>) -> Vec<(Spanned<String>, RawHeader)> {
    let mut headers = Vec::new();
    for (name, value) in table.named("headers", problems) {
        let header = match (as_string(value), value.get_ref().as_table()) {
            (Some(text), _) => RawHeader::Plain(text),
            (None, Some(entries)) => {
                let table = Table::new(format!("header {}", name.get_ref()), &SOURCE, entries, value.span(), problems);
                RawHeader::Secret(Box::new(RawSource::read(&table, problems)))
            }
            (None, None) => {
                let found = type_of(value.get_ref());
                let message = format!(
                    "header `{name}` is {found}, expected a string or where a secret comes from: write \
                     `{name} = \"value\"` or `{name} = {{ file = \"/run/secrets/header\" }}`",
                    name = name.get_ref()
                );
                problems.add(value.span(), message);
                continue;
            }
        };
        headers.push((name, header));
    }
    headers
}

impl RawSource {
    fn read_key(table: &Table<'_>, key: &'static str, problems: &mut Problems<'_>) -> Option<Self> {
        // Said in its own words: a file that others read has a secret in it now.
        if let Some(value) = table.get(key)
            && as_string(value).is_some()
        {
            let message = format!(
                "`{key}` is a string: a secret must not stand in the policy, which others may read; write where it comes \
                 from, `{}`, and take a new one if this was one",
                table.example(key)
            );
            problems.add(value.span(), message);
            return None;
        }
        table.table(key, key, &SOURCE, problems).map(|table| Self::read(&table, problems))
    }

    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        Self {
            span: table.span.clone(),
            file: table.string("file", problems),
            readable_by_others: table.boolean("readable_by_others", problems),
            env: table.string("env", problems),
            credential: table.string("credential", problems),
            command: table.list("command", problems),
            timeout: table.string("timeout", problems),
            lifetime: table.string("lifetime", problems),
            keychain: table.string("keychain", problems),
            account: table.string("account", problems),
            netrc: netrc(table, problems),
            given: table.given(),
        }
    }
}

fn netrc(table: &Table<'_>, problems: &mut Problems<'_>) -> Option<Spanned<RawNetrc>> {
    let value: &Spanned<DeValue<'_>> = table.get("netrc")?;
    let read = match (value.get_ref().as_bool(), as_string(value)) {
        (Some(flag), _) => RawNetrc::Flag(flag),
        (None, Some(file)) => RawNetrc::File(file),
        (None, None) => {
            table.wrong_type("netrc", value, "true or a file", problems);
            return None;
        }
    };
    Some(Spanned::new(value.span(), read))
}
