//! Paths of every legal kind: odd names, odd files, very many, very large.

use crate::support::backend::Backend;
use crate::support::{Nix, Reader, Running, ScratchStore, Storewatch, each_nix, expr, write_secret};

/// Larger than what 32 bits count. Sparse, so that no disk is filled by it.
const HUGE: &str = "5G";

each_nix! {
    fn odd_contents_arrive_as_they_are(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        let scripts = [
            ("empty-directory", "mkdir $out"),
            ("empty-file", ": > $out"),
            ("executable", "echo '#!/bin/sh' > $out; chmod +x $out"),
            ("symlink-out", "ln -s /etc/passwd $out"),
            ("symlinks-out", "mkdir $out; ln -s /etc/passwd $out/a; ln -s ../../.. $out/b; ln -s nowhere $out/c"),
            ("not-utf-8", r#"mkdir $out; echo x > "$out/$(printf 'a\377b')"; mkdir "$out/$(printf '\376')""#),
            ("newlines", r#"mkdir $out; echo x > "$out/$(printf 'a\nb')"; echo y > "$out/ "; echo z > "$out/-rf""#),
            ("nested", "mkdir -p $out/a/b/c/d/e/f/g; echo x > $out/a/b/c/d/e/f/g/h"),
            ("order", "mkdir $out $out/a; echo 1 > $out/a.b; echo 2 > $out/a-b; echo 3 > $out/a/b; echo 4 > $out/B"),
        ];
        let mut paths: Vec<_> =
            scripts.iter().map(|(name, script)| store.build(&expr::script(name, script)).unwrap().remove(0)).collect();
        // The longest that Nix takes in Debian's versions, and every sign that is allowed.
        let longest = "n".repeat(200);
        for name in ["A+b-c._?=9", "1", "-dash", "x.lock", "=", "a.drv.b", "no--dashes--", longest.as_str()] {
            paths.push(store.build(&expr::script(name, "echo x > $out")).unwrap().remove(0));
        }
        running.eventually("all of them", || storewatch.cache().has_all(&paths));
        running.stop();
        let key = storewatch.public_key("local");
        let reader = store.read_back(&storewatch.cache().url(), &key, &paths).unwrap();
        assert!(reader.all_valid(&paths));
        assert_eq!(reader.contents(&paths), store.contents(&paths));
        storewatch.cache().assert_sound(&[]);
    }
}

/// Five times as many are packed, and compared with Nix's archive, in the tests of `nar`.
#[test]
fn very_many_files_in_one_path() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let many = "mkdir $out; n=0; while [ $n -lt 20000 ]; do : > $out/file-$n; n=$((n + 1)); done";
    let path = store.build(&expr::script("many-files", many)).unwrap();
    running.eventually("the path", || storewatch.cache().has(&path[0]));
    running.stop();
    let key = storewatch.public_key("local");
    let reader = store.read_back(&storewatch.cache().url(), &key, &path).unwrap();
    assert_eq!(std::fs::read_dir(reader.real_path(&path[0])).unwrap().count(), 20_000);
}

#[test]
fn a_huge_file() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let path = store.build(&expr::script("huge", &format!("truncate -s {HUGE} $out"))).unwrap().remove(0);
    let ended = || storewatch.jobs("done").len() + storewatch.jobs("failed").len() == 1;
    // However slow the machine is: as long as more is read, it is on its way.
    let io = format!("/proc/{}/io", running.pid());
    let read = || -> u64 {
        let io = std::fs::read_to_string(&io).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    };
    while !ended() {
        let before = read();
        running.eventually("more of it", || ended() || read() > before + (16 << 20));
    }
    running.stop();
    storewatch.cache().assert_sound(&[]);
    // Reading it back would write all of it; that its hash was compared with Nix's is what counts here.
    let file = storewatch.cache().dir().join(storewatch.cache().narinfo(&path).unwrap().url);
    assert!(std::fs::metadata(file).unwrap().len() < 10_000_000);
}

/// A directory and a web server, as buckets do (`bucket`): two paths of one content are two narinfos and one archive, unless
/// that has gone meanwhile or is about to go.
#[test]
fn the_same_content_is_written_once_as_long_as_it_is_there() {
    let Some(nix) = Nix::recent() else { return };
    for backend in [Backend::file, Backend::nginx] {
        let Some(backend) = backend() else { return };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let key = storewatch.state_dir().with_file_name("signing");
        write_secret(&key, std::fs::read_to_string(store.generate_key("team-1").secret).unwrap());
        storewatch.policy(&backend.policy(&storewatch, &store, &key));
        let cache = match &backend {
            Backend::File { cache, .. } => cache.clone(),
            Backend::Web(nginx) => nginx.cache(),
            _ => unreachable!("it is none of these"),
        };
        let mut running = storewatch.start();
        let mut paths = Vec::new();
        let mut build = |name: &str, running: &mut Running| {
            let path = store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
            running.eventually(name, || cache.has(&path) && storewatch.jobs_left().is_empty());
            paths.push(path.clone());
            cache.narinfo(&path).unwrap().url
        };
        let first = build("one", &mut running);
        assert_eq!(build("two", &mut running), first);
        assert_eq!(cache.archives().len(), 1);
        assert!(running.log().contains("its content was there already"), "{}", running.log());
        // An archive that has gone is sent again, under another name, and that is remembered then.
        std::fs::remove_file(cache.dir().join(&first)).unwrap();
        let second = build("three", &mut running);
        assert_ne!(second, first);
        assert_eq!(build("four", &mut running), second);
        running.stop();
        Reader::empty(&store).copy_from(&backend.substituter(), &storewatch.public_key("team"), &paths[2..]).unwrap();
    }
}

/// What a prune has condemned is in nobody's hands.
#[test]
fn an_archive_that_a_prune_is_about_to_remove_is_not_shown_again() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("cache");
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}?write-nar-listing=true\"\n", cache.url()));
    let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
    let (one, two) = (build("one"), build("two"));
    storewatch.cmd(&["push", &one]).ok();
    // No grace for what is shown, but the archive stays as long as it was before.
    storewatch.cmd(&["cache", "prune", "team", "--keep", "0s", "--grace", "1s", "--yes"]).ok();
    let condemned = || std::fs::read_dir(cache.dir().join("pruned")).into_iter().flatten().count();
    crate::support::eventually("the path to be old enough", || {
        storewatch.cmd(&["cache", "prune", "team", "--keep", "0s", "--grace", "1s", "--yes"]).ok();
        condemned() > 0
    });
    let before = cache.archives();
    storewatch.cmd(&["push", &two]).ok();
    let own = cache.narinfo(&two).unwrap().url;
    assert!(!before.contains(&own), "{own} is about to be removed");
    assert!(cache.dir().join(format!("{}.ls", &crate::support::nix::base_name(&two)[..32])).exists());

    let three = build("three");
    storewatch.cmd(&["push", &three]).ok();
    assert_eq!(cache.narinfo(&three).unwrap().url, own);
    assert!(cache.dir().join(format!("{}.ls", &crate::support::nix::base_name(&three)[..32])).exists());
}
