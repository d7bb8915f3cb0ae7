//! By what a changed configuration of a cache is recognised.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{CacheConfig, CommandConfig, HeaderValue, HttpConfig, StoreKeyConfig};
use crate::secret::Source;

impl CacheConfig {
    /// A hash of all that the policy file says of this cache, 64 hexadecimal digits. The queue remembers it: where it is
    /// another, what has failed at the cache is worth another try.
    ///
    /// Secrets have no part in it, only where they come from. A key that is left out has none either, so that one that a
    /// later storewatch brings changes nothing for those who don't use it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // Without `..`, here and below: whoever adds a field decides here whether it counts.
        let Self {
            name,
            url,
            place: _,
            uploads: _,
            compression,
            max_size,
            signing_key,
            store_keys,
            http,
            command,
            builtin: _,
        } = self;
        let mut said = Said(format!("name = {:?}\nurl = {url:?}\n", name.as_str()));
        if let Some(compression) = compression {
            said.line("compression", compression);
        }
        if let Some(max_size) = max_size {
            said.line("max_size", max_size);
        }
        said.source("signing_key", signing_key.as_ref());
        said.store_keys(store_keys);
        said.http(http);
        said.command(command);
        Sha256::digest(said.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is said, in one way of writing.
struct Said(String);

impl Said {
    fn line(&mut self, key: &str, value: &dyn std::fmt::Debug) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "{key} = {value:?}");
    }

    fn store_keys(&mut self, keys: &StoreKeyConfig) {
        let StoreKeyConfig { access_key_id, secret_access_key, session_token, service_account_key, account_key } = keys;
        self.source("access_key_id", access_key_id.as_ref());
        self.source("secret_access_key", secret_access_key.as_ref());
        self.source("session_token", session_token.as_ref());
        self.source("service_account_key", service_account_key.as_ref());
        self.source("account_key", account_key.as_ref());
    }

    fn http(&mut self, http: &HttpConfig) {
        let HttpConfig {
            token,
            user,
            password,
            headers,
            ca_file,
            client_certificate,
            client_key,
            allow_unencrypted,
            allow_self,
            server_hostnames,
        } = http;
        self.source("token", token.as_ref());
        user.iter().for_each(|user| self.line("user", user));
        self.source("password", password.as_ref());
        for (name, value) in headers {
            match value {
                HeaderValue::Plain(text) => self.line(&format!("headers.{name}"), text),
                HeaderValue::Secret(source) => self.source(&format!("headers.{name}"), Some(source)),
            }
        }
        let files = [("ca_file", ca_file), ("client_certificate", client_certificate)];
        files.iter().filter_map(|(key, file)| Some((key, file.as_ref()?))).for_each(|(key, file)| self.line(key, file));
        self.source("client_key", client_key.as_ref());
        let flags = [("allow_unencrypted", *allow_unencrypted), ("allow_self", *allow_self)];
        flags.iter().filter(|(_, on)| *on).for_each(|(key, on)| self.line(key, on));
        if *server_hostnames != HttpConfig::default().server_hostnames {
            self.line("server_hostnames", server_hostnames);
        }
    }

    fn command(&mut self, command: &CommandConfig) {
        let CommandConfig { args, gives, answers_missing, timeout, pass_environment } = command;
        let default = CommandConfig::default();
        let mut other = |key, is_default: bool, value: &dyn std::fmt::Debug| {
            if !is_default {
                self.line(key, value);
            }
        };
        other("args", *args == default.args, args);
        other("gives", *gives == default.gives, gives);
        other("answers_missing", *answers_missing == default.answers_missing, answers_missing);
        other("timeout", *timeout == default.timeout, timeout);
        other("pass_environment", *pass_environment == default.pass_environment, pass_environment);
    }

    fn source(&mut self, key: &str, source: Option<&Source>) {
        match source {
            None => {}
            Some(Source::File { path, readable_by_others }) => {
                self.line(&format!("{key}.file"), &(path, readable_by_others == &Some(true)))
            }
            Some(Source::Env { name }) => self.line(&format!("{key}.env"), name),
            Some(Source::Credential { name }) => self.line(&format!("{key}.credential"), name),
            Some(Source::Command { argv, timeout, lifetime }) => {
                self.line(&format!("{key}.command"), &(argv, timeout, lifetime));
            }
            Some(Source::Keychain { service, account }) => self.line(&format!("{key}.keychain"), &(service, account)),
            Some(Source::Netrc { path, readable_by_others }) => {
                self.line(&format!("{key}.netrc"), &(path, readable_by_others));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheUrl;
    use crate::policy::CacheName;

    #[test]
    fn it_changes_with_what_is_said_of_the_cache_and_with_nothing_else() {
        let name = CacheName::new("team").expect("a legal name");
        let place = CacheUrl::parse("file:///srv/team").expect("a good URL");
        let cache = CacheConfig::new(name, "file:///srv/team".to_owned(), place);
        let http = |http| CacheConfig { http, ..cache.clone() };
        let plain = |text: &str| vec![("x-team".to_owned(), HeaderValue::Plain(text.to_owned()))];
        let command = |argument: &str| Source::Command {
            argv: vec!["vault".to_owned(), argument.to_owned()],
            timeout: std::time::Duration::from_secs(1),
            lifetime: std::time::Duration::from_secs(1),
        };
        let others = [
            CacheConfig { url: "file:///srv/team?compression=none".to_owned(), ..cache.clone() },
            CacheConfig { compression: Some(crate::cache::Compression::AUTO), ..cache.clone() },
            CacheConfig { signing_key: Some(Source::file("/keys/one")), ..cache.clone() },
            CacheConfig { signing_key: Some(Source::file("/keys/two")), ..cache.clone() },
            CacheConfig { name: CacheName::new("public").expect("a legal name"), ..cache.clone() },
            http(HttpConfig { token: Some(command("one")), ..HttpConfig::default() }),
            http(HttpConfig { token: Some(command("two")), ..HttpConfig::default() }),
            http(HttpConfig { password: Some(command("one")), ..HttpConfig::default() }),
            http(HttpConfig { user: Some("me".to_owned()), password: Some(command("one")), ..HttpConfig::default() }),
            http(HttpConfig { headers: plain("one"), ..HttpConfig::default() }),
            http(HttpConfig { headers: plain("two"), ..HttpConfig::default() }),
            http(HttpConfig { ca_file: Some("/ca".into()), ..HttpConfig::default() }),
            http(HttpConfig { allow_self: true, ..HttpConfig::default() }),
            http(HttpConfig { server_hostnames: Vec::new(), ..HttpConfig::default() }),
            CacheConfig {
                command: CommandConfig { args: vec!["team".to_owned()], ..CommandConfig::default() },
                ..cache.clone()
            },
        ];
        let mut seen = vec![cache.fingerprint()];
        for other in others {
            assert_eq!(other.fingerprint(), other.clone().fingerprint());
            assert!(!seen.contains(&other.fingerprint()), "{other:?}");
            seen.push(other.fingerprint());
        }
        // Written down in queues: another form would try everything again that has failed.
        assert_eq!(seen[0], "6f6ee000223184f9a77a1dd34d8bef8b5b408c8acc45622987d25ee37e531062");
    }
}
