//! The keys of the policy file, table by table: what the reader takes and what the JSON schema must describe.

/// The keys that a table may have.
#[derive(Debug)]
pub struct Keys {
    /// Each with an example, which messages tell people to write.
    pub known: &'static [(&'static str, &'static str)],
}

impl Keys {
    /// The names alone.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|(name, _)| *name)
    }

    /// What to write for that key.
    pub(super) fn example(&self, key: &str) -> &'static str {
        self.known.iter().find(|(name, _)| *name == key).map_or("", |(_, example)| example)
    }
}

/// The file itself.
pub const TOP: Keys = Keys {
    known: &[
        ("version", "version = 1"),
        ("builtin_rules", "builtin_rules = false"),
        ("store", "[store]"),
        ("caches", "[caches.NAME]"),
        ("upstreams", "[upstreams]"),
        ("limits", "[limits]"),
        ("disk", "[disk]"),
        ("rules", "[[rules]]"),
    ],
};

/// `[store]`.
pub const STORE: Keys = Keys {
    known: &[
        ("dir", "dir = \"/nix/store\""),
        ("state_dir", "state_dir = \"/nix/var/nix\""),
        ("log_dir", "log_dir = \"/nix/var/log/nix\""),
        ("real_dir", "real_dir = \"/mnt/nix/store\""),
        ("remote", "remote = \"daemon\""),
        ("pin", "pin = \"10 GiB\""),
    ],
};

/// `[caches.NAME]`.
pub const CACHE: Keys = Keys {
    known: &[
        ("url", "url = \"file:///var/cache/nix\""),
        ("uploads", "uploads = 4"),
        ("compression", "compression = \"auto\""),
        ("compression_level", "compression_level = 7"),
        ("max_size", "max_size = \"50 GiB\""),
        ("signing_key", "signing_key = { file = \"/run/secrets/cache.key\" }"),
        ("access_key_id", "access_key_id = { file = \"/run/secrets/s3-key-id\" }"),
        ("secret_access_key", "secret_access_key = { file = \"/run/secrets/s3-key\" }"),
        ("session_token", "session_token = { file = \"/run/secrets/s3-session\" }"),
        ("service_account_key", "service_account_key = { file = \"/run/secrets/google.json\" }"),
        ("account_key", "account_key = { file = \"/run/secrets/azure-key\" }"),
        ("token", "token = { file = \"/run/secrets/token\" }"),
        ("user", "user = \"builder\""),
        ("password", "password = { file = \"/run/secrets/password\" }"),
        ("headers", "headers = { x-name = \"value\" }"),
        ("ca_file", "ca_file = \"/etc/ssl/cache-ca.pem\""),
        ("client_certificate", "client_certificate = \"/etc/ssl/this-host.pem\""),
        ("client_key", "client_key = { file = \"/run/secrets/this-host.key\" }"),
        ("allow_unencrypted", "allow_unencrypted = true"),
        ("allow_self", "allow_self = true"),
        ("server_hostnames", "server_hostnames = [\"cache-server\"]"),
        ("args", "args = [\"--to\", \"team\"]"),
        ("gives", "gives = \"nar\""),
        ("answers_missing", "answers_missing = true"),
        ("timeout", "timeout = \"2h\""),
        ("pass_environment", "pass_environment = [\"CACHIX_AUTH_TOKEN\"]"),
        ("bandwidth", "bandwidth = \"5 MiB/s\""),
        ("windows", "windows = [{ from = \"09:00\", to = \"18:00\", bandwidth = \"1 MiB/s\" }]"),
    ],
};

/// Where a secret comes from: `token`, `password`, `signing_key`, `client_key`, the keys of object stores, and a header.
pub const SOURCE: Keys = Keys {
    known: &[
        ("file", "file = \"/run/secrets/token\""),
        ("readable_by_others", "readable_by_others = true"),
        ("env", "env = \"CACHE_TOKEN\""),
        ("credential", "credential = \"cache-token\""),
        ("command", "command = [\"vault\", \"read\", \"-field=token\", \"secret/cache\"]"),
        ("timeout", "timeout = \"10s\""),
        ("lifetime", "lifetime = \"5m\""),
        ("keychain", "keychain = \"SERVICE\""),
        ("account", "account = \"NAME\""),
        ("netrc", "netrc = true"),
    ],
};

/// `[upstreams]`.
pub const UPSTREAMS: Keys = Keys {
    known: &[
        ("keys", "keys = [\"NAME:BASE64\"]"),
        ("caches", "caches = [\"https://cache.nixos.org\"]"),
        ("remember", "remember = \"1h\""),
    ],
};

/// `[limits]`.
pub const LIMITS: Keys = Keys {
    known: &[
        ("uploads", "uploads = 4"),
        ("priority", "priority = \"low\""),
        ("bandwidth", "bandwidth = \"20 MiB/s\""),
        ("backfill_bandwidth", "backfill_bandwidth = \"5 MiB/s\""),
        ("windows", "windows = [{ days = [\"mon\"], from = \"09:00\", to = \"18:00\", bandwidth = \"2 MiB/s\" }]"),
        ("metered", "metered = \"pause\""),
        ("battery", "battery = \"pause\""),
    ],
};

/// One of the `windows` of `[limits]` or of a cache.
pub const WINDOW: Keys = Keys {
    known: &[
        ("days", "days = [\"mon\", \"fri\"]"),
        ("from", "from = \"09:00\""),
        ("to", "to = \"18:00\""),
        ("bandwidth", "bandwidth = \"2 MiB/s\""),
        ("backfill_bandwidth", "backfill_bandwidth = 0"),
    ],
};

/// `[disk]`.
pub const DISK: Keys = Keys { known: &[("low", "low = \"10 GiB\""), ("critical", "critical = \"2 GiB\"")] };

/// `[[rules]]`.
pub const RULE: Keys = Keys {
    known: &[
        ("name", "name = \"what it is for\""),
        ("match", "match = {}"),
        ("action", "action = \"upload\""),
        ("to", "to = [\"NAME\"]"),
        ("from", "from = [\"NAME\"]"),
    ],
};

/// `match` of a rule.
pub const MATCH: Keys = Keys {
    known: &[
        ("name", "name = \"hello-*\""),
        ("kind", "kind = \"output\""),
        ("built", "built = \"locally\""),
        ("deriver", "deriver = \"hello-*.drv\""),
        ("signed_by", "signed_by = \"NAME:BASE64\""),
        ("size", "size = \">= 1 KiB\""),
        ("content_addressed", "content_addressed = true"),
    ],
};

/// All tables, as messages call them.
pub const TABLES: [(&str, &Keys); 10] = [
    ("the policy's top", &TOP),
    ("[store]", &STORE),
    ("[caches.NAME]", &CACHE),
    ("the table that says where a secret comes from", &SOURCE),
    ("[upstreams]", &UPSTREAMS),
    ("[limits]", &LIMITS),
    ("[disk]", &DISK),
    ("a window", &WINDOW),
    ("[[rules]]", &RULE),
    ("match", &MATCH),
];
