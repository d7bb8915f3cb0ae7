//! What every binary cache has to stand, the same cases for each backend: a directory, Garage, and a strict fake of S3 with
//! and without conditional PUT.

use crate::support::s3::{BUCKET, Key, Op};
use crate::support::{
    CacheDir, FakeS3, Fault, FlakyProxy, Garage, Nix, On, Reader, Running, ScratchStore, Storewatch, expr,
};
use std::collections::BTreeSet;
use std::path::Path;

/// Makes a test of each case and backend, `CASE::BACKEND`; of those between which and us there is a network, where it says
/// `Server`.
macro_rules! each_backend {
    ($($(#[$meta:meta])* fn $case:ident($backend:ident: $which:ident, $store:ident: ScratchStore) $body:block)+) => {$(
        mod $case {
            use super::*;

            $(#[$meta])*
            fn run($backend: super::Backend, $store: ScratchStore) $body

            fn with(backend: fn() -> Option<Backend>) {
                let (Some(nix), Some(backend)) = (Nix::recent(), backend()) else { return };
                run(backend, ScratchStore::new(&nix));
            }

            each_backend!(@file $which);

            #[test]
            fn garage() {
                with(Backend::garage);
            }

            #[test]
            fn fake_s3() {
                with(Backend::fake);
            }

            #[test]
            fn fake_s3_that_only_overwrites() {
                with(Backend::overwriting_fake);
            }
        }
    )+};
    (@file Backend) => {
        #[test]
        fn file() {
            with(Backend::file);
        }
    };
    (@file Server) => {};
}

/// Where paths go.
enum Backend {
    File { cache: CacheDir, _folder: tempfile::TempDir },
    Garage(Garage),
    Fake(FakeS3),
}

impl Backend {
    fn file() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self::File { cache: CacheDir::at(folder.path().join("cache")), _folder: folder })
    }

    fn garage() -> Option<Self> {
        Garage::start().map(Self::Garage)
    }

    fn fake() -> Option<Self> {
        Some(Self::Fake(FakeS3::start()))
    }

    fn overwriting_fake() -> Option<Self> {
        let fake = FakeS3::start();
        fake.state().overwrites = true;
        Some(Self::Fake(fake))
    }

    /// The port of its server, and a key that may do everything.
    fn server(&self) -> (u16, Key) {
        match self {
            Self::File { .. } => unreachable!("a directory has no server"),
            Self::Garage(garage) => (garage.port(), garage.key().clone()),
            Self::Fake(fake) => (fake.port(), fake.key().clone()),
        }
    }

    /// Its lines in a policy; its keys are written beside that.
    fn policy(&self, storewatch: &Storewatch<'_>) -> String {
        if let Self::File { cache, .. } = self {
            return format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url());
        }
        let (port, key) = self.server();
        bucket_policy(storewatch, port, &key)
    }

    /// What Nix reads it by.
    fn substituter(&self) -> String {
        match self {
            Self::File { cache, .. } => cache.url(),
            Self::Garage(garage) => garage.website(),
            Self::Fake(fake) => fake.website(),
        }
    }

    /// Whether it has no more than a narinfo and an archive for each of so many paths, and a `nix-cache-info`.
    fn has_just(&self, paths: usize) -> bool {
        match self {
            Self::File { cache, .. } => cache.archives().len() == paths && cache.temporary_files().is_empty(),
            Self::Garage(garage) => {
                let contents = garage.contents();
                contents.objects == 2 * paths as u64 + 1 && contents.unfinished == 0
            }
            Self::Fake(fake) => {
                let state = fake.state();
                state.objects.len() == 2 * paths + 1 && state.multiparts.is_empty()
            }
        }
    }
}

/// Writes a secret as the policy wants it, readable for its owner only.
pub(crate) fn write_secret(file: &Path, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, secret).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A policy whose cache is the bucket at that port, with the keys in files beside the state.
pub(crate) fn bucket_policy(storewatch: &Storewatch<'_>, port: u16, key: &Key) -> String {
    let folder = storewatch.state_dir().with_file_name("keys");
    std::fs::create_dir_all(&folder).unwrap();
    write_secret(&folder.join("id"), &key.id);
    write_secret(&folder.join("secret"), &key.secret);
    format!(
        "version = 1\n[caches.team]\nurl = \"s3://{BUCKET}?endpoint=http://127.0.0.1:{port}&region=garage\"\n\
         access_key_id = {{ file = \"{folder}/id\" }}\nsecret_access_key = {{ file = \"{folder}/secret\" }}\n",
        folder = folder.display()
    )
}

/// Waits until nothing is left to do, and everything is done.
#[track_caller]
pub(crate) fn eventually_done(running: &mut Running, storewatch: &Storewatch<'_>, jobs: usize) {
    running
        .eventually("the queue's end", || storewatch.jobs_left().is_empty() && storewatch.jobs("done").len() >= jobs);
}

/// Nix, which wants signatures, gets these paths and everything they need, and finds what was built.
#[track_caller]
fn assert_read_back(backend: &Backend, store: &ScratchStore, key: &str, paths: &[String]) {
    let closure: Vec<String> =
        paths.iter().flat_map(|path| store.query_closure(path)).collect::<BTreeSet<_>>().into_iter().collect();
    let reader = Reader::empty(store);
    reader.copy_from(&backend.substituter(), key, paths).unwrap();
    assert!(reader.all_valid(&closure));
    assert_eq!(reader.contents(&closure), store.contents(&closure));
}

each_backend! {
    fn a_closure_arrives_and_is_not_sent_again(backend: Backend, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy(&storewatch));
        let mut running = storewatch.start();
        let mut top = store.build(&expr::lattice(8, 100_000)).unwrap();
        // Three parts of an upload, and one that fits into a single request.
        top.extend(store.build(&expr::sized(12_000_000)).unwrap());
        let closure: BTreeSet<_> = top.iter().flat_map(|path| store.query_closure(path)).collect();
        eventually_done(&mut running, &storewatch, closure.len());
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
        assert!(backend.has_just(closure.len()));

        let again = Storewatch::new(&store);
        again.policy(&backend.policy(&again));
        again.cmd(&["push", &top[0], &top[1]]).ok();
        assert!(backend.has_just(closure.len()), "what is there is not sent again");
        if let Backend::Fake(fake) = &backend {
            fake.assert_sound();
            let asked = fake.state().asked.clone();
            assert!(asked[&Op::Part] >= 3 && asked[&Op::Complete] == 1 && fake.state().most_in_flight <= 2, "{asked:?}");
        }
    }

    fn two_at_once_end_with_one_good_narinfo(backend: Backend, store: ScratchStore) {
        let hosts = [Storewatch::new(&store), Storewatch::new(&store)];
        let top = store.build(&expr::lattice(6, 3_000_000)).unwrap();
        let closure = store.query_closure(&top[0]);
        // Both sign with one key, so that a reader can't tell which of them it was.
        let key = store.generate_key("team-1");
        let mut pushing: Vec<Running> = Vec::new();
        for host in &hosts {
            let file = host.state_dir().with_file_name("signing");
            write_secret(&file, &std::fs::read_to_string(&key.secret).unwrap());
            host.policy(&format!("{}signing_key = {{ file = \"{}\" }}\n", backend.policy(host), file.display()));
            pushing.push(host.spawn(&["push", &top[0]]));
        }
        for pushing in pushing {
            assert!(pushing.wait_exit().success());
        }
        assert_read_back(&backend, &store, &key.public, &top);
        if let Backend::Fake(fake) = &backend {
            assert_eq!(fake.state().store_paths(), closure.iter().cloned().collect());
            if !fake.state().overwrites {
                fake.assert_sound();
            }
        }
    }

    fn wrong_credentials_wait_for_good_ones(backend: Server, store: ScratchStore) {
        let (port, good) = backend.server();
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&bucket_policy(&storewatch, port, &Key { id: "GK000000000000000000000000".to_owned(), ..good.clone() }));
        let mut running = storewatch.start();
        let top = store.build(&expr::chain(3)).unwrap();
        running.eventually("the reason in the status", || {
            let status = storewatch.cache_status("team");
            status["waiting_why"].as_str().is_some_and(|why| why.contains("at s3://nix-cache: "))
        });
        assert_eq!(storewatch.cache_status("team")["failed"], 0);
        let said = storewatch.cmd(&["cache", "ping"]);
        assert!(said.code == Some(1) && !said.stdout.contains(&good.secret), "{said:?}");
        let ids = storewatch.state_dir().with_file_name("keys").join("id");
        write_secret(&ids, &good.id);
        eventually_done(&mut running, &storewatch, 3);
        let ping = storewatch.cmd(&["cache", "ping"]).ok();
        assert!(ping.contains("lets us read and push"), "{ping}");
        assert_eq!(storewatch.cmd(&["cache", "info", "team", "--json"]).json()["priority"], 50);
        let log = running.log();
        assert!(!log.contains(&good.secret), "the secret is in the log");
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
    }

    fn who_may_only_read_waits_for_the_right_to_write(backend: Server, store: ScratchStore) {
        let reader = match &backend {
            Backend::File { .. } => unreachable!("`room` tests a directory that can't be written"),
            Backend::Garage(garage) => garage.reader_key(),
            Backend::Fake(fake) => fake.reader_key(),
        };
        let (port, _) = backend.server();
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&bucket_policy(&storewatch, port, &reader));
        let mut running = storewatch.start();
        let top = store.build(&expr::chain(2)).unwrap();
        running.eventually("the reason in the status", || {
            storewatch.cache_status("team")["waiting_why"].as_str().is_some_and(|why| why.contains("AccessDenied"))
        });
        match &backend {
            Backend::Garage(garage) => garage.allow_to_write(&reader),
            Backend::Fake(fake) => fake.allow_to_write(&reader),
            Backend::File { .. } => unreachable!("it has no keys"),
        }
        eventually_done(&mut running, &storewatch, 2);
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
    }

    fn what_is_cut_in_the_middle_arrives_later_and_leaves_nothing(backend: Server, store: ScratchStore) {
        let (port, key) = backend.server();
        let proxy = FlakyProxy::before(port);
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&bucket_policy(&storewatch, proxy.port(), &key));
        proxy.fail(On::Every, Fault::CutAfter(1_000_000));
        let mut running = storewatch.start();
        let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
        paths.extend(store.build(&expr::sized(2_000_000)).unwrap());
        running.eventually("the fault", || proxy.faults() > 2);
        proxy.pass();
        eventually_done(&mut running, &storewatch, 2);
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &paths);
        running.eventually("the rest to be taken back", || backend.has_just(2));
        running.stop();
    }

    fn what_a_killed_upload_left_is_gone_after_the_next_start(backend: Server, store: ScratchStore) {
        let (port, key) = backend.server();
        let proxy = FlakyProxy::before(port);
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&bucket_policy(&storewatch, proxy.port(), &key));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        let paths = store.build(&expr::sized(12_000_000)).unwrap();
        let notes = storewatch.state_dir().join("unfinished/team");
        running.eventually("a note of an upload in parts", || {
            let notes = std::fs::read_dir(&notes).into_iter().flatten().flatten();
            notes.filter_map(|note| std::fs::read_to_string(note.path()).ok()).any(|text| text.lines().count() == 3)
        });
        running.kill9();
        assert!(!backend.has_just(0), "an upload in parts has begun");
        proxy.pass();
        let mut running = storewatch.start();
        eventually_done(&mut running, &storewatch, 1);
        running.eventually("the rest to be taken back", || backend.has_just(1));
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &paths);
    }
}
