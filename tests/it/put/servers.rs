//! Where web servers differ: what they lack, and what they say that isn't so.

use super::*;

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
