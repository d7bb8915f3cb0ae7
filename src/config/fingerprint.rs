//! By what a changed configuration of a cache is recognised.

use sha2::{Digest, Sha256};

use super::CacheConfig;

impl CacheConfig {
    /// A hash of all that the policy file says of this cache, 64 hexadecimal digits. The queue remembers it: where it is
    /// another, what has failed at the cache is worth another try.
    ///
    /// Secrets have no part in it, only where they lie. A key that is left out has none either, so that one that a later
    /// storewatch brings changes nothing for those who don't use it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // Without `..`: whoever adds a field decides here whether it counts.
        let Self { name, url, signing_key, builtin: _ } = self;
        let mut said = format!("name = {:?}\nurl = {url:?}\n", name.as_str());
        if let Some(file) = signing_key {
            said += &format!("signing_key.file = {file:?}\n");
        }
        Sha256::digest(said).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CacheName;

    #[test]
    fn it_changes_with_what_is_said_of_the_cache_and_with_nothing_else() {
        let cache = CacheConfig {
            name: CacheName::new("team").expect("a legal name"),
            url: "file:///srv/team".to_owned(),
            signing_key: None,
            builtin: false,
        };
        let others = [
            CacheConfig { url: "file:///srv/team?compression=none".to_owned(), ..cache.clone() },
            CacheConfig { signing_key: Some("/keys/one".into()), ..cache.clone() },
            CacheConfig { signing_key: Some("/keys/two".into()), ..cache.clone() },
            CacheConfig { name: CacheName::new("public").expect("a legal name"), ..cache.clone() },
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
