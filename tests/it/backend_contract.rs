//! What every binary cache has to stand, the same cases for each backend: a directory, Garage, and a strict fake of S3 with
//! and without conditional PUT.

use crate::support::s3::{BUCKET, Dialect, Key, Op, Trouble};
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
fn write_secret(file: &Path, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, secret).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A policy whose cache is the bucket at that port, with the keys in files beside the state.
fn bucket_policy(storewatch: &Storewatch<'_>, port: u16, key: &Key) -> String {
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
fn eventually_done(running: &mut Running, storewatch: &Storewatch<'_>, jobs: usize) {
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

/// Google's and Azure's interfaces, as far as a fake of them goes: what is put is what Nix reads back.
#[test]
fn google_and_azure_take_and_give_back() {
    let Some(nix) = Nix::recent() else { return };
    for dialect in [Dialect::Google, Dialect::Azure] {
        let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
        fake.state().dialect = dialect;
        let storewatch = Storewatch::new(&store);
        let key = storewatch.state_dir().with_file_name("key");
        let (url, name) = match dialect {
            Dialect::Azure => {
                write_secret(&key, "c2VjcmV0");
                ("az://nix-cache/team?account=nixaccount&endpoint", "account_key")
            }
            Dialect::Google | Dialect::S3 => {
                let text = "{\n\"private_key\": \"x\", \"private_key_id\": \"y\", \"client_email\": \"z\",\n\"disable_oauth\": true\n}";
                write_secret(&key, text);
                ("gs://nix-cache/team?endpoint", "service_account_key")
            }
        };
        storewatch.policy(&format!(
            "version = 1\n[caches.team]\nurl = \"{url}=http://127.0.0.1:{}\"\n{name} = {{ file = \"{}\" }}\n",
            fake.port(),
            key.display()
        ));
        let mut running = storewatch.start();
        let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
        paths.extend(store.build(&expr::chain(3)).unwrap());
        eventually_done(&mut running, &storewatch, 4);
        running.stop();
        let website = format!("{}/team", fake.website());
        Reader::empty(&store).copy_from(&website, &storewatch.public_key("team"), &paths).unwrap();
        let ping = storewatch.cmd(&["cache", "ping"]).ok();
        assert!(ping.contains("lets us read"), "{ping}");
        let state = fake.state();
        assert!(state.asked[&Op::Part] >= 3 && state.multiparts.is_empty(), "{dialect:?}: {:?}", state.asked);
    }
}

/// Makes a test of each trouble that S3 makes: it happens, ends, and everything arrives, in a sound cache.
macro_rules! each_trouble {
    ($($name:ident: $ops:expr, $trouble:expr;)+) => {$(
        #[test]
        fn $name() {
            it_arrives_after(&$ops, $trouble);
        }
    )+};
}

each_trouble! {
    slow_down: [Op::Put], Trouble::Code(503, "SlowDown");
    slow_down_on_400: [Op::Part], Trouble::Code(400, "SlowDown");
    slow_down_at_a_question: [Op::Head], Trouble::Code(503, "");
    an_internal_error: [Op::Put, Op::Begin], Trouble::Code(500, "InternalError");
    an_internal_error_when_parts_are_put_together: [Op::Complete], Trouble::Code(200, "InternalError");
    a_request_time_out: [Op::Put, Op::Part], Trouble::Code(400, "RequestTimeout");
    a_clock_that_is_wrong: [Op::Put, Op::Begin], Trouble::Code(403, "RequestTimeTooSkewed");
    no_bucket_yet: [Op::Get, Op::Put], Trouble::Code(404, "NoSuchBucket");
    a_cut: [Op::Put, Op::Part], Trouble::Cut;
    a_stall: [Op::Put, Op::Part], Trouble::Stall;
}

fn it_arrives_after(ops: &[Op], trouble: Trouble) {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    fake.fail(ops, trouble);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::sized(6_000_000)).unwrap();
    paths.extend(store.build(&expr::many(2)).unwrap());
    running.eventually("the trouble", || fake.troubled() > 0);
    assert_eq!(storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
    fake.pass();
    eventually_done(&mut running, &storewatch, 3);
    running.eventually("the rest to be taken back", || fake.state().multiparts.is_empty());
    running.stop();
    fake.assert_sound();
    assert_eq!(fake.state().store_paths(), paths.into_iter().collect());
}

/// Where keys may come from beside the policy, and what is said where there are none.
#[test]
fn keys_come_from_the_environment_and_from_profiles() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let url = |more: &str| format!("s3://{BUCKET}?endpoint=http://127.0.0.1:{}{more}", fake.port());
    let push = |more: &str, change: &dyn Fn(&Storewatch<'_>, &mut std::process::Command)| {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", url(more)));
        let paths = store.build(&expr::many(1)).unwrap();
        let mut command = storewatch.command();
        command.arg("push").args(&paths);
        change(&storewatch, &mut command);
        assert_eq!(crate::support::Said::by(&mut command).code, Some(0));
        assert!(fake.state().store_paths().contains(&paths[0]));
    };
    let key = fake.key().clone();
    push("", &|_, command| {
        command.env("AWS_ACCESS_KEY_ID", &key.id).env("AWS_SECRET_ACCESS_KEY", &key.secret);
    });
    let profile =
        |name: &str| format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n", key.id, key.secret);
    push("", &|storewatch, _| {
        std::fs::create_dir(storewatch.state_dir().with_file_name("home").join(".aws")).unwrap();
        write_secret(&storewatch.state_dir().with_file_name("home").join(".aws/credentials"), &profile("default"));
    });
    push("&profile=nix", &|storewatch, command| {
        let file = storewatch.state_dir().with_file_name("credentials");
        write_secret(&file, &profile("nix"));
        // The URL says which profile it is, whatever else there is.
        command.env("AWS_SHARED_CREDENTIALS_FILE", file).env("AWS_ACCESS_KEY_ID", "AKNOBODY");
    });

    let storewatch = Storewatch::new(&store);
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", url("")));
    let said = storewatch.cmd(&["cache", "ping"]);
    assert_eq!(said.code, Some(1));
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(all.contains("there are no credentials for s3://nix-cache") && all.contains("`access_key_id`"), "{all}");
}

/// Four uploads at once of what doesn't compress, when the store takes nothing: what is held then is all that ever is.
#[test]
fn four_large_uploads_stay_within_128_mib() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    fake.fail(&[Op::Part], Trouble::Stall);
    let mut running = storewatch.start();
    (0..4).for_each(|_| drop(store.build(&expr::sized(40_000_000)).unwrap()));
    running.eventually("two parts of each on their way", || fake.state().in_flight == 8);
    fake.pass();
    eventually_done(&mut running, &storewatch, 4);
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()).unwrap();
    let peak: u64 = peak.parse().unwrap();
    assert!((1..=128 * 1024).contains(&peak), "{peak} KiB were resident");
    println!("{peak} KiB were resident at most");
    running.stop();
    fake.assert_sound();
}

/// Two paths of one content are two narinfos and one archive, unless that has gone meanwhile.
#[test]
fn the_same_content_is_sent_once_as_long_as_it_is_there() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let mut running = storewatch.start();
    let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
    let archives = || fake.state().objects.keys().filter(|name| name.starts_with("nar/")).cloned().collect::<Vec<_>>();
    let mut paths = vec![build("one")];
    eventually_done(&mut running, &storewatch, 1);
    paths.push(build("two"));
    eventually_done(&mut running, &storewatch, 2);
    assert_eq!(archives().len(), 1);
    let archive = archives().remove(0);
    assert!(running.log().contains("its content was there already"), "{}", running.log());
    Reader::empty(&store).copy_from(&fake.website(), &storewatch.public_key("team"), &paths).unwrap();

    fake.state().objects.remove(&archive);
    let third = build("three");
    eventually_done(&mut running, &storewatch, 3);
    assert_eq!(archives().len(), 1);
    assert_ne!(archives()[0], archive, "it was sent again, under another name");
    Reader::empty(&store).copy_from(&fake.website(), &storewatch.public_key("team"), &[third]).unwrap();
    running.stop();
}
