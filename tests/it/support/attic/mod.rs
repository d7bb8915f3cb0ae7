//! Attic: a strict fake of its wire format, and a real server where there is one, behind one interface.

mod api;
mod binary_cache;
mod fake;
mod real;
mod state;
pub mod wire;

use super::ScratchStore;
use super::cache::Narinfo;
use super::http::{Answer, Question};
use super::nix::{base_name, left_out};
use fake::Fake;
use hyper::Method;
use real::Real;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

pub use state::Tolerated;
pub use wire::Kind;

/// Makes two tests of each function, `NAME::fake` and, where `ATTICD` names a server, `NAME::real`.
///
/// ```text
/// each_attic! {
///     fn a_build_arrives(attic: AtticServer) { … }
/// }
/// ```
macro_rules! each_attic {
    ($($(#[$meta:meta])* fn $test:ident($attic:ident: AtticServer) $body:block)+) => {$(
        mod $test {
            use super::*;

            $(#[$meta])*
            #[allow(unused_mut, reason = "not every test stops its server")]
            fn run(mut $attic: AtticServer) $body

            #[test]
            fn fake() {
                run(AtticServer::fake());
            }

            #[test]
            fn real() {
                AtticServer::real().into_iter().for_each(run);
            }
        }
    )+};
}
pub(crate) use each_attic;

/// What who has a token may do.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pull: &'static [&'static str],
    push: &'static [&'static str],
    administers: bool,
}

impl Grant {
    /// Puts paths into these caches and takes them out.
    pub fn all(caches: &'static [&'static str]) -> Self {
        Self { pull: caches, push: caches, administers: false }
    }

    /// Only takes paths out.
    pub fn pull(caches: &'static [&'static str]) -> Self {
        Self { pull: caches, ..Self::default() }
    }

    /// Only puts paths in.
    pub fn push(caches: &'static [&'static str]) -> Self {
        Self { push: caches, ..Self::default() }
    }

    fn may_pull(&self, cache: &str) -> bool {
        self.administers || self.pull.contains(&cache)
    }

    fn may_push(&self, cache: &str) -> bool {
        self.push.contains(&cache)
    }
}

/// Who may see a cache without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    Public,
    Private,
}

/// A server of a test's own.
#[derive(Debug)]
pub struct AtticServer {
    server: Server,
    /// The token of who makes caches and looks into all of them.
    administrator: String,
}

#[derive(Debug)]
enum Server {
    Fake(Fake),
    Real(Real),
}

impl AtticServer {
    pub fn fake() -> Self {
        Self::of(Server::Fake(Fake::start()))
    }

    /// Says so where there is none.
    pub fn real() -> Option<Self> {
        let program = std::env::var_os("ATTICD").filter(|program| !program.is_empty());
        if program.is_none() {
            left_out("no ATTICD, which names a real server; the fake stands in");
        }
        program.map(|program| Self::of(Server::Real(Real::start(program))))
    }

    fn of(server: Server) -> Self {
        let mut attic = Self { server, administrator: String::new() };
        attic.administrator = attic.token(&Grant { administers: true, ..Grant::default() });
        attic
    }

    pub fn port(&self) -> u16 {
        match &self.server {
            Server::Fake(fake) => fake.port(),
            Server::Real(real) => real.port(),
        }
    }

    /// A cache's URL in a policy.
    pub fn url(&self, cache: &str) -> String {
        format!("attic+http://127.0.0.1:{}/{cache}", self.port())
    }

    /// A cache's URL as a substituter.
    pub fn substituter(&self, cache: &str) -> String {
        format!("http://127.0.0.1:{}/{cache}", self.port())
    }

    pub fn token(&self, grant: &Grant) -> String {
        match &self.server {
            Server::Real(real) => real.token(grant),
            Server::Fake(fake) => {
                static MADE: AtomicU64 = AtomicU64::new(0);
                let number = MADE.fetch_add(1, Ordering::Relaxed);
                // As long as a real one, and recognisable in any third.
                let token = format!("eyJhbGciOiJIUzI1NiJ9.secret-{0:020}-secret-{0:020}.secret-{0:020}", number);
                fake.state().tokens.insert(token.clone(), grant.clone());
                token
            }
        }
    }

    /// Lets none of the tokens that were given hold any more. A real server is started anew for it.
    pub fn revoke_tokens(&mut self) {
        match &mut self.server {
            Server::Fake(fake) => fake.state().tokens.clear(),
            Server::Real(real) => {
                real.stop();
                real.change_key();
                real.go_on();
            }
        }
        self.administrator = self.token(&Grant { administers: true, ..Grant::default() });
    }

    /// Makes a cache for a store.
    pub fn create(&self, cache: &str, visibility: Visibility, store: &ScratchStore) {
        let settings = json!({
            "keypair": "Generate",
            "is_public": visibility == Visibility::Public,
            "store_dir": store.store_dir(),
            "priority": 41,
            "upstream_cache_key_names": [],
        });
        self.administer(Method::POST, cache, &settings);
    }

    pub fn set_visibility(&self, cache: &str, visibility: Visibility) {
        self.administer(Method::PATCH, cache, &json!({ "is_public": visibility == Visibility::Public }));
    }

    fn administer(&self, method: Method, cache: &str, settings: &serde_json::Value) {
        let question = self.question(method, &format!("/_api/v1/cache-config/{cache}"));
        question.bearer(&self.administrator).json(settings).ask().unwrap().ok();
    }

    /// Asks it something, as a test does and storewatch doesn't.
    pub fn question(&self, method: Method, path: &str) -> Question {
        Question::new(self.port(), method, path)
    }

    /// The public key of a cache, as Nix takes it.
    pub fn public_key(&self, cache: &str) -> String {
        let config = self.question(Method::GET, &format!("/_api/v1/cache-config/{cache}"));
        config.bearer(&self.administrator).ask().unwrap().json()["public_key"].as_str().unwrap().to_owned()
    }

    /// The narinfo of a store path, if it is there.
    pub fn narinfo(&self, cache: &str, path: &str) -> Option<Narinfo> {
        let file = format!("/{cache}/{}.narinfo", &base_name(path)[..32]);
        let Answer { status, body } = self.question(Method::GET, &file).bearer(&self.administrator).ask().ok()?;
        assert!([200, 404].contains(&status), "{status} for {file}: {}", String::from_utf8_lossy(&body));
        (status == 200).then(|| Narinfo::parse(&String::from_utf8_lossy(&body)).unwrap())
    }

    pub fn has(&self, cache: &str, path: &str) -> bool {
        self.narinfo(cache, path).is_some()
    }

    pub fn has_all(&self, cache: &str, paths: &[String]) -> bool {
        paths.iter().all(|path| self.has(cache, path))
    }

    /// Takes a path away, as the server's own collection of garbage does.
    pub fn lose(&self, cache: &str, path: &str) {
        let hash = &base_name(path)[..32];
        match &self.server {
            Server::Fake(fake) => drop(fake.state().caches.get_mut(cache).unwrap().objects.remove(hash)),
            Server::Real(real) => real.lose(hash),
        }
        assert!(!self.has(cache, path));
    }

    /// Panics where one of these paths isn't there, or one of its references isn't.
    #[track_caller]
    pub fn assert_sound(&self, cache: &str, paths: &[String]) {
        for path in paths {
            let narinfo = self.narinfo(cache, path).unwrap_or_else(|| panic!("{path} is not in {cache}"));
            assert_eq!(narinfo.store_path, *path);
            for reference in &narinfo.references {
                assert!(self.has(cache, reference), "{path} is in {cache}, its reference {reference} isn't");
            }
        }
    }

    /// Goes away with all its connections, whatever is under way.
    pub fn stop(&mut self) {
        match &mut self.server {
            Server::Fake(fake) => fake.stop(),
            Server::Real(real) => real.stop(),
        }
    }

    /// Comes back on the same port with all that it had.
    pub fn go_on(&mut self) {
        match &mut self.server {
            Server::Fake(fake) => fake.go_on(),
            Server::Real(real) => real.go_on(),
        }
    }

    pub fn restart(&mut self) {
        self.stop();
        self.go_on();
    }

    /// How many requests of a kind there were. Only the fake counts.
    #[track_caller]
    pub fn requests(&self, kind: Kind) -> u64 {
        self.as_fake().state().requests.get(&kind).copied().unwrap_or(0)
    }

    /// What appeared in a cache, as full store paths, in that order. Only the fake knows.
    #[track_caller]
    pub fn published(&self, cache: &str) -> Vec<String> {
        let state = self.as_fake().state();
        state.published.iter().filter(|(its, _)| its == cache).map(|(_, path)| path.clone()).collect()
    }

    /// The fake.
    #[track_caller]
    pub fn as_fake(&self) -> &Fake {
        match &self.server {
            Server::Fake(fake) => fake,
            Server::Real(_) => panic!("only the fake can do this"),
        }
    }

    /// Says that a test brings something about which nobody else may. A real server has nothing against it.
    pub fn tolerate(&self, what: Tolerated) {
        if let Server::Fake(fake) = &self.server {
            fake.state().tolerated.insert(what);
        }
    }

    /// Lets an upstream of a cache have a path. A real server doesn't ask.
    pub fn add_upstream(&self, cache: &str, path: &str) {
        if let Server::Fake(fake) = &self.server {
            fake.state().caches.get_mut(cache).unwrap().upstream.insert(base_name(path).to_owned());
        }
    }
}
