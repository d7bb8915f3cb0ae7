//! Caches on web servers, beyond what every backend has to stand: what servers lack, how they know us, and what goes over the
//! wire. With a real nginx.

use crate::backend_contract::eventually_done;
use crate::support::backend::{Backend, Who};
use crate::support::nginx::{READER, WRITABLE, WRITER};
use crate::support::tls::{Authority, Certificate, Clients};
use crate::support::{
    Canned, Fault, FlakyProxy, Nginx, Nix, On, Reader, Running, ScratchStore, Storewatch, each_nix, eventually, expr,
    write_secret,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A policy with nginx's folder, and what stands behind it, as the cache `team`, with these further lines.
fn policy(storewatch: &Storewatch<'_>, port: u16, behind: &str, lines: &str) {
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"http://127.0.0.1:{port}/nix{behind}\"\n{lines}"));
}

/// The lines by which nginx knows who may write; the password is in that file.
fn login(file: &Path) -> String {
    write_secret(file, WRITER.1);
    format!("user = \"{}\"\npassword = {{ file = \"{}\" }}\n", WRITER.0, file.display())
}

#[track_caller]
fn eventually_waits_because(running: &mut Running, storewatch: &Storewatch<'_>, words: &str) {
    running.eventually(&format!("the reason {words:?}"), || {
        let status = storewatch.cache_status("team");
        assert_eq!(status["failed"], 0, "{status}");
        status["waiting_why"].as_str().is_some_and(|why| why.contains(words))
    });
}

each_nix! {
    fn nix_reads_back_what_was_put(nix: Nix) {
        let Some(nginx) = Nginx::start() else { return };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, nginx.port(), "/?write-nar-listing=true&write-build-logs=true&priority=7", &login);
        let mut running = storewatch.start();
        let mut top = store.build(&expr::lattice(6, 2_000_000)).unwrap();
        top.extend(store.build(&expr::script("said", "echo the log says so >&2; echo x > $out")).unwrap());
        eventually_done(&mut running, &storewatch, 7);
        running.stop();

        let closure: Vec<String> = top.iter().flat_map(|path| store.query_closure(path)).collect();
        let key = storewatch.public_key("team");
        let reader = Reader::empty(&store);
        reader.copy_from(&nginx.website(), &key, &top).unwrap();
        assert_eq!(reader.contents(&closure), store.contents(&closure));
        let substituted = Reader::empty(&store);
        substituted.substitute(&nginx.website(), &key, &top).unwrap();
        assert!(substituted.all_valid(&closure));
        let other = store.generate_key("other-1");
        assert!(Reader::empty(&store).copy_from(&nginx.website(), &other.public, &top).is_err());
        let cache = nginx.cache();
        let listing = std::fs::read_to_string(cache.dir().join(format!("{}.ls", hash(&top[0])))).unwrap();
        assert!(listing.contains("\"root\""), "{listing}");
        let logs = std::fs::read_dir(cache.dir().join("log")).unwrap();
        let logs: String = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect();
        assert!(logs.contains("the log says so"), "{logs}");
        assert!(std::fs::read_to_string(cache.dir().join("nix-cache-info")).unwrap().contains("Priority: 7\n"));

        // The archive first, in chunks, then the narinfo, as soon as it may be shown, then what goes beside it; and
        // nothing over anything.
        let asked = nginx.asked();
        let mut put = BTreeMap::new();
        for (at, asked) in asked.iter().enumerate().filter(|(_, asked)| asked.method == "PUT") {
            assert_eq!(asked.status, 201, "{asked:?}: none was there");
            assert_eq!(asked.chunked, asked.file.starts_with("nar/"), "{asked:?}");
            assert_eq!(put.insert(asked.file.clone(), at), None, "{asked:?}: put twice");
        }
        for path in &closure {
            let narinfo = put[&format!("{}.narinfo", hash(path))];
            assert!(put[&cache.narinfo(path).unwrap().url] < narinfo && narinfo < put[&format!("{}.ls", hash(path))]);
        }
        let log = put.iter().find(|(file, _)| file.starts_with("log/") && file.ends_with("-said.drv")).unwrap();
        assert!(put[&format!("{}.narinfo", hash(top.last().unwrap()))] < *log.1);
        assert!(asked.iter().all(|asked| asked.method != "DELETE"), "{asked:?}");
    }
}

/// Whoever has the files may prune them meanwhile, and other hosts only see what the server gives out.
#[test]
fn an_archive_that_a_prune_is_about_to_remove_is_sent_again() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    let cache = nginx.cache();
    let use_it = || policy(&storewatch, nginx.port(), "", &login);
    let prune = || {
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url()));
        storewatch.cmd(&["cache", "prune", "team", "--max-size", "0B", "--grace", "1s", "--yes"]).ok()
    };
    let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
    let (one, two, three) = (build("one"), build("two"), build("three"));
    use_it();
    storewatch.cmd(&["push", &one]).ok();
    storewatch.cmd(&["push", &two]).ok();
    let archive = |path: &str| cache.narinfo(path).unwrap().url;
    let first = archive(&one);
    assert_eq!(first, archive(&two), "the server has it already");
    eventually("both hidden", || {
        prune();
        !cache.has(&one) && !cache.has(&two)
    });
    // As if the prune had been a moment ago.
    std::fs::write(cache.dir().join(&first), "about to go").unwrap();
    for entry in std::fs::read_dir(cache.dir().join("pruned")).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().ends_with(".narinfo") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    use_it();
    storewatch.cmd(&["push", &three]).ok();
    assert_ne!(archive(&three), first);
    store.read_back(&nginx.website(), &storewatch.public_key("team"), &[three]).unwrap();
}

fn hash(path: &str) -> &str {
    &crate::support::nix::base_name(path)[..32]
}

/// A server that takes nothing is told apart from one that takes it and from one that is down; once it takes paths, all
/// arrive.
#[test]
fn a_server_that_takes_no_uploads_says_so_until_it_does() {
    let Some(nix) = Nix::recent() else { return };
    for (directives, words) in [
        ("", "the server does not take uploads there (read-only): let it, by `dav_methods PUT"),
        (
            "limit_except GET HEAD { deny all; }",
            "the server takes no uploads there (read-only), or none with `user` or",
        ),
    ] {
        let Some(mut nginx) = Nginx::with(directives) else { return };
        let store = ScratchStore::new(&nix);
        // It is a cache already, so that only the archive shows it.
        let info = format!("StoreDir: {}\nWantMassQuery: 1\n", store.store_dir().display());
        std::fs::write(nginx.cache().dir().join("nix-cache-info"), &info).unwrap();
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, nginx.port(), "", &login);
        let mut running = storewatch.start();
        let top = store.build(&expr::chain(2)).unwrap();
        eventually_waits_because(&mut running, &storewatch, words);
        let ping = storewatch.cmd(&["cache", "ping"]);
        assert!(ping.code == Some(1) && ping.stdout.contains("lets us read, but not push"), "{ping:?}");
        let doctor = storewatch.cmd(&["doctor"]);
        assert!(doctor.stdout.contains("trouble  cache team") && doctor.stdout.contains("(read-only)"), "{doctor:?}");
        nginx.change(WRITABLE);
        eventually_done(&mut running, &storewatch, 2);
        assert!(storewatch.cmd(&["cache", "ping"]).ok().contains("lets us read and push"));
        running.stop();
        assert_eq!(std::fs::read_to_string(nginx.cache().dir().join("nix-cache-info")).unwrap(), info);
        Reader::empty(&store).copy_from(&nginx.website(), &storewatch.public_key("team"), &top).unwrap();
    }
}

/// The first set-up, when one needs it: nobody has uploaded yet, and what would keep the first upload back is said.
#[test]
fn a_ping_finds_out_whether_a_cache_could_be_made() {
    let Some(nix) = Nix::recent() else { return };
    let no_deletes = WRITABLE.replace(" DELETE", "");
    let without_folders = WRITABLE.replace("create_full_put_path on;", "").replace(" MKCOL", "");
    let lets_push = "lets us read and push; there is no cache yet; the first upload makes it";
    for (directives, who, code, words, stays) in [
        (WRITABLE, WRITER, 0, lets_push, 0),
        (&no_deletes, WRITER, 0, "A small file stays in its folder `nar`, since the server deletes nothing", 1),
        (WRITABLE, READER, 1, "lets us read, but not push", 0),
        (WRITABLE, (WRITER.0, "wrong"), 1, "401 Unauthorized", 0),
        ("", WRITER, 1, "the server does not take uploads there (read-only)", 0),
        ("limit_except GET HEAD { deny all; }", WRITER, 1, "lets us read, but not push", 0),
        (&without_folders, WRITER, 1, "`create_full_put_path on` of nginx", 0),
    ] {
        let Some(nginx) = Nginx::with(directives) else { return };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let file = storewatch.state_dir().with_file_name("password");
        write_secret(&file, who.1);
        let login = format!("user = \"{}\"\npassword = {{ file = \"{}\" }}\n", who.0, file.display());
        policy(&storewatch, nginx.port(), "/sub", &login);
        let ping = storewatch.cmd(&["cache", "ping"]);
        assert!(ping.code == Some(code) && ping.stdout.contains(words), "{directives}: {ping:?}");
        let doctor = storewatch.cmd(&["doctor"]);
        let trouble = doctor.stdout.contains("trouble  cache team");
        assert_eq!((trouble, doctor.stdout.contains("lets us read and push")), (code != 0, code == 0), "{doctor:?}");
        let archives = std::fs::read_dir(nginx.cache().dir().join("sub/nar"));
        // Asked twice.
        assert_eq!(archives.into_iter().flatten().count(), 2 * stays, "{directives}");
        assert!(!nginx.cache().dir().join("sub/nix-cache-info").exists(), "only an upload makes a cache");
    }
}

/// Who is refused again and again has sent nothing, and has nothing to take back, which would be refused, too.
#[test]
fn who_may_only_read_a_server_leaves_nothing_behind() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let store = ScratchStore::new(&nix);
    // It is a cache already, so that only the archive shows it.
    let info = format!("StoreDir: {}\n", store.store_dir().display());
    std::fs::write(nginx.cache().dir().join("nix-cache-info"), info).unwrap();
    let storewatch = Storewatch::new(&store);
    let file = storewatch.state_dir().with_file_name("password");
    write_secret(&file, READER.1);
    let login = format!("user = \"{}\"\npassword = {{ file = \"{}\" }}\n", READER.0, file.display());
    policy(&storewatch, nginx.port(), "", &login);
    let mut running = storewatch.start();
    store.build(&expr::many(2)).unwrap();
    eventually_waits_because(&mut running, &storewatch, "401 Unauthorized");
    let asked = |method: &str| nginx.asked().iter().filter(|asked| asked.method == method).count();
    let before = asked("PUT");
    running.eventually("another try", || asked("PUT") > before);
    let notes = storewatch.state_dir().join("unfinished/team");
    running.eventually("no notes", || std::fs::read_dir(&notes).unwrap().count() == 0);
    running.stop();
    assert_eq!(asked("DELETE"), 0, "{:?}", nginx.asked());
}

#[test]
fn a_server_that_wants_sizes_gets_archives_unpacked() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::refusing("$http_transfer_encoding", 411)) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, nginx.port(), "", &login);
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::chain(3)).unwrap();
    paths.extend(store.build(&expr::sized(3_000_000)).unwrap());
    eventually_done(&mut running, &storewatch, 4);
    assert_eq!(running.log().matches("wants to be told sizes beforehand").count(), 1);
    assert!(!running.log().contains("will try again"), "{}", running.log());
    running.stop();
    assert!(nginx.cache().archives().iter().all(|name| name.ends_with(".nar")), "{:?}", nginx.cache().archives());
    Reader::empty(&store).copy_from(&nginx.website(), &storewatch.public_key("team"), &paths).unwrap();
    nginx.cache().assert_sound(&[]);
}

#[test]
fn a_server_that_knows_no_head_is_asked_for_a_byte() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::refusing("$request_method = HEAD", 405)) else { return };
    let store = ScratchStore::new(&nix);
    let paths = store.build(&expr::chain(3)).unwrap();
    for there in ["already there    0", "already there    3"] {
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, nginx.port(), "", &login);
        let said = storewatch.cmd(&["push", &paths[0]]).ok();
        assert!(said.contains(there), "{said}");
    }
    assert_eq!(nginx.cache().archives().len(), 3);
    let heads = nginx.asked().iter().filter(|asked| asked.method == "HEAD").count();
    assert_eq!(heads, 2, "one for each of the two to find it out");
}

/// As a power failure leaves them where a server doesn't sync: nginx renames what isn't written yet.
#[test]
fn a_file_that_lost_its_content_is_put_again() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let store = ScratchStore::new(&nix);
    let cache = nginx.cache();
    let paths = store.build(&expr::chain(2)).unwrap();
    let narinfo = cache.dir().join(format!("{}.narinfo", hash(&paths[0])));
    for there in ["already there    0", "already there    1", "already there    2"] {
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, nginx.port(), "", &login);
        let said = storewatch.cmd(&["push", &paths[0]]).ok();
        assert!(said.contains(there), "{said}");
        if there.ends_with('0') {
            std::fs::write(&narinfo, "").unwrap();
        }
    }
    assert!(std::fs::read_to_string(&narinfo).unwrap().contains("NarHash: "));

    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, nginx.port(), "", &login);
    let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
    let push = |name: &str| {
        let path = build(name);
        storewatch.cmd(&["push", &path]).ok();
        (cache.narinfo(&path).unwrap().url, path)
    };
    let mut last = push("one");
    assert_eq!(push("two").0, last.0);
    for cut in [0, 10] {
        let archive = cache.dir().join(&last.0);
        let whole = std::fs::read(&archive).unwrap();
        std::fs::write(&archive, &whole[..cut]).unwrap();
        let next = push(&format!("after-{cut}"));
        assert_ne!(next.0, last.0, "{cut} bytes of it are there");
        last = next;
    }
    assert_eq!(push("three").0, last.0, "it is whole");
    store.read_back(&nginx.website(), &storewatch.public_key("team"), &[last.1]).unwrap();
}

#[test]
fn folders_that_are_missing_are_made() {
    let (Some(nix), Some(mut nginx)) = (Nix::recent(), Nginx::with("dav_methods PUT DELETE MKCOL;")) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, nginx.port(), "/a/b?write-build-logs=true", &login);
    let mut running = storewatch.start();
    let paths = store.build(&expr::script("said", "echo something >&2; echo x > $out")).unwrap();
    eventually_done(&mut running, &storewatch, 1);
    // Somebody tidies up meanwhile.
    std::fs::remove_dir_all(nginx.cache().dir().join("a/b/nar")).unwrap();
    let more = store.build(&expr::many(3)).unwrap();
    eventually_done(&mut running, &storewatch, 4);
    running.stop();
    Reader::empty(&store)
        .copy_from(&format!("{}/a/b", nginx.website()), &storewatch.public_key("team"), &more)
        .unwrap();
    assert!(!paths.is_empty());

    nginx.change("dav_methods PUT;");
    policy(&storewatch, nginx.port(), "/c", &login);
    let said = storewatch.cmd(&["push", "--timeout", "3s", &more[0]]);
    assert!(said.stderr.contains("should the folder be missing there, make it"), "{said:?}");
}

#[test]
fn a_server_that_has_everything_has_nothing() {
    let all = format!("{WRITABLE} try_files $uri /nix/nix-cache-info;");
    let (Some(nix), Some(mut nginx)) = (Nix::recent(), Nginx::with(&all)) else { return };
    let store = ScratchStore::new(&nix);
    std::fs::write(nginx.cache().dir().join("nix-cache-info"), format!("StoreDir: {}\n", store.store_dir().display()))
        .unwrap();
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, nginx.port(), "", &login);
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    eventually_waits_because(&mut running, &storewatch, "it has a file of every name");
    nginx.change(WRITABLE);
    eventually_done(&mut running, &storewatch, 1);
    running.stop();
    assert_eq!(nginx.cache().archives().len(), 1);
}

/// A page to log in comes with 200, to whoever puts something as well. So does an answer without a word.
#[test]
fn who_says_yes_and_keeps_nothing_is_not_believed() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(nginx.port()));
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, proxy.port(), "", &login);
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    eventually_done(&mut running, &storewatch, 1);
    let archive = [(On::Puts("nar/"), Canned::page()), (On::Puts("nar/"), Canned::json(""))];
    for (on, canned) in archive.into_iter().chain([(On::Puts(".narinfo"), Canned::page())]) {
        proxy.fail(on, Fault::Answer(canned));
        paths.extend(store.build(&expr::many(1)).unwrap());
        eventually_waits_because(&mut running, &storewatch, "it says that it has taken a file, and doesn't have it");
        proxy.pass();
        eventually_done(&mut running, &storewatch, paths.len());
    }
    running.stop();
    Reader::empty(&store).copy_from(&nginx.website(), &storewatch.public_key("team"), &paths).unwrap();
    assert_eq!(nginx.cache().archives().len(), paths.len());
}

/// By a netrc file, by a bearer's token, by nothing: each where the server wants just that.
#[test]
fn a_server_knows_us_in_several_ways() {
    let bearer = "auth_basic off; dav_methods PUT DELETE; create_full_put_path on; \
                  if ($http_authorization != \"bearer a-good-token\") { return 401; }";
    let open = "auth_basic off; dav_methods PUT DELETE; create_full_put_path on;";
    let netrc = format!(
        "machine other.invalid login me password wrong\nmachine 127.0.0.1\n  login {} password {}\n",
        WRITER.0, WRITER.1
    );
    for (directives, lines, wrong, right) in [
        (WRITABLE, "password = { netrc = \"FILE\" }\n", "machine 127.0.0.1 password wrong", netrc.as_str()),
        (bearer, "token = { file = \"FILE\" }\n", "an-old-token", "a-good-token"),
        (open, "", "", ""),
    ] {
        let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::with(directives)) else { return };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let file = storewatch.state_dir().with_file_name("secret");
        policy(&storewatch, nginx.port(), "", &lines.replace("FILE", &file.display().to_string()));
        let mut running;
        if lines.is_empty() {
            running = storewatch.start();
        } else {
            running = storewatch.start();
            let before = store.build(&expr::many(1)).unwrap();
            eventually_waits_because(&mut running, &storewatch, "its credentials can't be had");
            write_secret(&file, wrong);
            eventually_waits_because(&mut running, &storewatch, "401 Unauthorized");
            assert!(!nginx.cache().has(&before[0]));
            write_secret(&file, right);
        }
        let paths = store.build(&expr::many(2)).unwrap();
        running.eventually("all of them", || nginx.cache().has_all(&paths) && storewatch.jobs_left().is_empty());
        running.stop();
    }
}

/// The password, and the login as the header has it.
#[test]
fn the_password_shows_nowhere() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let proxy = FlakyProxy::before(nginx.port());
    let login = login(&storewatch.state_dir().with_file_name("password"));
    policy(&storewatch, proxy.port(), "", &login);
    let mut running = storewatch.start_with(|command| {
        command.env("STOREWATCH_LOG", "trace");
    });
    let encoded = STANDARD.encode(format!("{}:{}", WRITER.0, WRITER.1));
    let (mut seen, mut paths) = (Vec::new(), Vec::new());
    for canned in [
        Canned::error_saying(&format!("what is 'authorization: Basic {encoded}', {}?", WRITER.1)),
        Canned::redirect(&format!("http://elsewhere.invalid/?{encoded}")),
        Canned::json(&format!("Basic {encoded}")),
    ] {
        let before = proxy.faults();
        proxy.fail(On::Every, Fault::Answer(canned));
        paths.extend(store.build(&expr::many(1)).unwrap());
        running.eventually("the answer", || proxy.faults() > before);
        running.eventually("the cache to wait", || storewatch.cache_status("team")["waiting_why"].is_string());
        if seen.is_empty() {
            let why = || storewatch.cache_status("team")["waiting_why"].to_string();
            running.eventually("the server's words", || why().contains("[secret]"));
        }
        for command in [&["status"][..], &["status", "--json"], &["cache", "ping"], &["doctor"], &["queue", "list"]] {
            let said = storewatch.cmd(command);
            seen.push(said.stdout + &said.stderr);
        }
        proxy.pass();
        running.eventually("all of them", || nginx.cache().has_all(&paths));
    }
    seen.push(running.log());
    running.stop();
    assert!(seen.iter().any(|text| text.contains("TRACE")) && seen.iter().any(|text| text.contains("[secret]")));
    for text in &seen {
        let line = text.lines().find(|line| line.contains(WRITER.1) || line.contains(&encoded));
        assert_eq!(line, None, "the secret shows");
    }
}

/// Servers of buckets too, since the tests of TLS are Attic's otherwise.
#[test]
fn an_authority_of_ones_own_is_trusted_and_a_stranger_is_not() {
    let Some(nix) = Nix::recent() else { return };
    for backend in [Backend::nginx, Backend::fake_s3] {
        let Some(backend) = backend() else { return };
        let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
        for (its, good) in [(&stranger, false), (&authority, true)] {
            let proxy = FlakyProxy::with_tls(backend.port(), its.server(Certificate::Good, Clients::Anybody));
            let store = ScratchStore::new(&nix);
            let storewatch = Storewatch::new(&store);
            let text = backend.policy_at(&storewatch, proxy.port(), Who::Writer).replace("http://", "https://");
            storewatch.policy(&format!("{text}ca_file = \"{}\"\n", authority.ca_file().display()));
            let mut running = storewatch.start();
            let paths = store.build(&expr::many(2)).unwrap();
            if good {
                eventually_done(&mut running, &storewatch, paths.len());
                assert!(!proxy.seen().is_empty());
            } else {
                eventually_waits_because(&mut running, &storewatch, "certificate");
                assert!(proxy.refused() > 0 && proxy.seen().is_empty());
            }
            running.stop();
        }
    }
}

/// Nix's own parameter, for every binary cache: the file is as good as `signing_key`, and looked at as closely.
#[test]
fn the_url_may_name_the_key_as_nix_has_it() {
    use std::os::unix::fs::PermissionsExt;
    let Some(nix) = Nix::recent() else { return };
    for backend in [Backend::file, Backend::fake_s3, Backend::nginx] {
        let Some(backend) = backend() else { continue };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let (key, file) = (store.generate_key("team-1"), storewatch.state_dir().with_file_name("signing"));
        write_secret(&file, std::fs::read_to_string(&key.secret).unwrap());
        let policy = backend.policy(&storewatch, &store, &file);
        let signed = format!("signing_key = {{ file = \"{}\" }}\n", file.display());
        let url = policy.split("url = \"").nth(1).unwrap().split('"').next().unwrap();
        let named = format!("{url}{}secret-key={}", if url.contains('?') { '&' } else { '?' }, file.display());
        let policy = policy.replace(url, &named);
        storewatch.policy(&policy);
        let twice = storewatch.cmd(&["policy", "check"]);
        assert!(twice.code != Some(0) && twice.stderr.contains("keep one of them"), "{twice:?}");
        storewatch.policy(&policy.replace(&signed, ""));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let paths = store.build(&expr::many(1)).unwrap();
        let refused = storewatch.cmd(&["push", "--timeout", "2s", &paths[0]]);
        assert!(refused.code != Some(0) && (refused.stdout + &refused.stderr).contains("others"), "readable by others");
        for command in [&["cache", "ping"][..], &["doctor"]] {
            let said = storewatch.cmd(command);
            assert!(said.code == Some(1) && said.stdout.contains("can be read by others (mode 0644)"), "{said:?}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let key_text = std::fs::read_to_string(&file).unwrap();
        for other in [&key.public, "junk"] {
            write_secret(&file, other);
            for command in [&["cache", "ping"][..], &["doctor"]] {
                let said = storewatch.cmd(command);
                assert!(said.code == Some(1) && said.stdout.contains("holds no signing key"), "{said:?}");
            }
        }
        write_secret(&file, key_text);
        assert_eq!(storewatch.cmd(&["cache", "ping"]).code, Some(0));
        storewatch.cmd(&["queue", "retry"]).ok();
        storewatch.cmd(&["push", &paths[0]]).ok();
        assert_eq!(storewatch.public_key("team"), key.public);
        Reader::empty(&store).copy_from(&backend.substituter(), &key.public, &paths).unwrap();
    }
}

/// Four uploads of what doesn't compress, to a server that stalls: what is held then is all that ever is.
#[test]
fn four_large_uploads_take_little_memory() {
    let Some(nix) = Nix::recent() else { return };
    for line in ["", "compression_level = 6\n"] {
        let Some(nginx) = Nginx::start() else { return };
        let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(nginx.port()));
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, proxy.port(), "", &(login + line));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        (0..4).for_each(|_| drop(store.build(&expr::sized(40_000_000)).unwrap()));
        running.eventually("four that stall", || nginx.arriving() == 4);
        // As much as it ever reads ahead is read.
        let (pid, mut last) = (running.pid(), (String::new(), Instant::now()));
        running.eventually("it reads no more", || {
            let read = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
            if read.lines().next() != last.0.lines().next() {
                last = (read, Instant::now());
            }
            last.1.elapsed() > Duration::from_secs(1)
        });
        proxy.pass();
        eventually_done(&mut running, &storewatch, 4);
        let peak = running.peak();
        assert!((1..=96 << 10).contains(&peak), "{peak} KiB were resident");
        println!("{peak} KiB were resident at most, {line:?}");
        running.stop();
    }
}
