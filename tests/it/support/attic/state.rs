//! What the fake knows: caches, tokens, paths, what was asked of it, and what of that the facts don't allow.

use super::super::nix::base_name;
use super::Grant;
use super::wire::{Kind, UploadInfo, is_cache_name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use hyper::StatusCode;
use std::collections::{BTreeMap, BTreeSet};

/// What a fake holds against nobody for a while, because a test brings it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tolerated {
    /// A body of another hash or size than was said, as a proxy leaves it that cuts bodies.
    CutBodies,
    /// A path that was there already.
    Again,
}

/// Of a request that is refused: the status, Attic's name for the error, and its message.
pub type Refusal = (StatusCode, &'static str, String);

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Pull,
    Push,
    Administer,
}

/// A cache of the fake.
#[derive(Debug)]
pub struct FakeCache {
    pub name: String,
    pub public: bool,
    pub store_dir: String,
    pub key: SigningKey,
    /// By hash part.
    pub objects: BTreeMap<String, UploadInfo>,
    /// Base names that its upstreams have.
    pub upstream: BTreeSet<String>,
}

impl FakeCache {
    pub fn public_key(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.verifying_key().as_bytes()))
    }

    pub fn sign(&self, fingerprint: &str) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.sign(fingerprint.as_bytes()).to_bytes()))
    }

    /// A reference that who reads this path from the cache could not have.
    fn unreachable_reference<'i>(&self, info: &'i UploadInfo) -> Option<&'i String> {
        let here = |name: &str| self.objects.contains_key(&name[..32]);
        let own = base_name(&info.store_path);
        info.references.iter().find(|name| *name != own && !here(name) && !self.upstream.contains(*name))
    }
}

/// What the fake knows.
#[derive(Debug, Default)]
pub struct State {
    pub caches: BTreeMap<String, FakeCache>,
    pub tokens: BTreeMap<String, Grant>,
    pub requests: BTreeMap<Kind, u64>,
    pub tolerated: BTreeSet<Tolerated>,
    pub violations: Vec<String>,
    /// What it gives for its API's address, if not the one that it was asked at.
    pub api_endpoint: Option<String>,
    /// Full store paths in the order in which they appeared, each with its cache.
    pub published: Vec<(String, String)>,
    /// Open now.
    pub connections: usize,
    pub most_connections: usize,
}

impl State {
    /// Notes what nobody may do.
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn count(&mut self, kind: Kind) {
        *self.requests.entry(kind).or_default() += 1;
    }

    /// The cache, if who has this token may do that with it. Refuses as Attic does: it doesn't tell those without any
    /// permission whether there is such a cache.
    pub fn allowed(
        &mut self,
        token: Option<&str>,
        cache: &str,
        permission: Permission,
    ) -> Result<&mut FakeCache, Refusal> {
        let nobody = Grant::default();
        let grant = token.and_then(|token| self.tokens.get(token)).unwrap_or(&nobody);
        let public = self.caches.get(cache).is_some_and(|cache| cache.public);
        let may = match permission {
            Permission::Pull => grant.may_pull(cache) || public,
            Permission::Push => grant.may_push(cache),
            Permission::Administer => grant.administers,
        };
        let discovers = public || grant.may_pull(cache) || grant.may_push(cache);
        match self.caches.get_mut(cache) {
            _ if !discovers => Err((StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized.".to_owned())),
            None => Err((StatusCode::NOT_FOUND, "NoSuchCache", "The requested cache does not exist.".to_owned())),
            Some(_) if !may => {
                let message = "Access error: User does not have permission to complete this action.\n\nThis implies \
                               that there is some permission granted to the user, so the user is authorized to \
                               discover the cache.";
                Err((StatusCode::FORBIDDEN, "AccessError", message.to_owned()))
            }
            Some(cache) => Ok(cache),
        }
    }

    /// Makes a cache, with a key of its own.
    pub fn create(&mut self, name: &str, public: bool, store_dir: &str) -> Result<(), Refusal> {
        if !is_cache_name(name) || self.caches.contains_key(name) {
            return Err((StatusCode::BAD_REQUEST, "CacheAlreadyExists", "The cache already exists.".to_owned()));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let cache = FakeCache {
            name: name.to_owned(),
            public,
            store_dir: store_dir.to_owned(),
            key: SigningKey::from_bytes(&seed),
            objects: BTreeMap::new(),
            upstream: BTreeSet::new(),
        };
        self.caches.insert(name.to_owned(), cache);
        Ok(())
    }

    /// Shows a path that has arrived whole. Whether another cache had the same archive already.
    pub fn publish(&mut self, info: UploadInfo) -> bool {
        let known = |cache: &FakeCache| cache.objects.values().any(|object| object.nar_hash == info.nar_hash);
        let deduplicated = self.caches.values().any(known);
        let Some(cache) = self.caches.get_mut(&info.cache) else { return false };
        let mut wrong = Vec::new();
        if !info.store_path.starts_with(&format!("{}/", cache.store_dir)) {
            wrong.push(format!("{} is of another store than {}", info.store_path, cache.store_dir));
        }
        if let Some(reference) = cache.unreachable_reference(&info) {
            wrong.push(format!("{} appeared in {} before its reference {reference}", info.store_path, info.cache));
        }
        if cache.objects.contains_key(&info.store_path_hash) && !self.tolerated.contains(&Tolerated::Again) {
            wrong.push(format!("{} was uploaded to {} twice", info.store_path, info.cache));
        }
        self.published.push((info.cache.clone(), info.store_path.clone()));
        cache.objects.insert(info.store_path_hash.clone(), info);
        self.violations.extend(wrong);
        deduplicated
    }
}
