//! Paths of every legal kind: odd names, odd files, very many, very large.

use crate::support::{Nix, ScratchStore, Storewatch, each_nix, expr};

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
