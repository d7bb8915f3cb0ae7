//! How archives are packed, as Nix reads them.

use crate::support::{Nix, ScratchStore, Storewatch, each_nix, expr};

each_nix! {
    fn nix_reads_what_is_packed_by_its_content(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let cache = storewatch.cache_at("cache");
        let policy = |line: &str| format!("version = 1\n[caches.team]\nurl = \"{}\"\n{line}\n", cache.url());
        storewatch.policy(&policy("compression = \"auto\""));
        let mut running = storewatch.start();
        let scripts = [
            ("text", "n=0; while [ $n -lt 60000 ]; do echo \"line $n of a text that goes on\"; n=$((n + 1)); done > $out"),
            ("packed", "head -c 3000000 /dev/urandom > $out"),
            ("zeros", "truncate -s 3M $out"),
            ("tiny", "echo x > $out"),
        ];
        let paths: Vec<_> =
            scripts.iter().map(|(name, script)| store.build(&expr::script(name, script)).unwrap().remove(0)).collect();
        running.eventually("all of them", || cache.has_all(&paths));
        running.eventually("the queue's end", || storewatch.jobs("done").len() == paths.len());
        // Another way to pack is no other cache: nothing is sent again.
        storewatch.policy(&policy("compression = \"xz\""));
        running.eventually_logs("the policy has changed and is in force");
        let later = store.build(&expr::script("later", "echo y > $out")).unwrap().remove(0);
        running.eventually("the new path", || storewatch.jobs("done").len() == paths.len() + 1);
        let url = |path: &str| cache.narinfo(path).unwrap().url;
        assert!(paths.iter().all(|path| url(path).ends_with(".nar.zst")), "readers are told nothing of `auto`");
        assert!(url(&later).ends_with(".nar.xz"));
        // What was read is all archives, and what wasn't sent of them is what packing has saved.
        let status = storewatch.cache_status("team");
        let [read, sent, saved] = ["bytes_read", "bytes_sent", "bytes_saved"].map(|key| status[key].as_u64().unwrap());
        assert!(read > 8_000_000 && saved > 4_000_000, "{status}");
        let archives: u64 =
            cache.archives().iter().map(|name| std::fs::metadata(cache.dir().join(name)).unwrap().len()).sum();
        assert_eq!(sent, archives);
        // A tiny archive and one that is packed already grow.
        assert!((read..read + 1_000).contains(&(sent + saved)), "{status}");
        let is_told = |line: &&str| line.contains("-zeros") && line.contains("uploaded");
        let zeros = running.log().lines().find(is_told).map(str::to_owned).unwrap_or_default();
        assert!(zeros.contains("saved=99%"), "{zeros}");
        assert_eq!(storewatch.jobs("done").len(), paths.len() + 1);
        running.stop();
        let all = [paths, vec![later]].concat();
        let reader = store.read_back(&cache.url(), &storewatch.public_key("team"), &all).unwrap();
        assert_eq!(reader.contents(&all), store.contents(&all));
        cache.assert_sound(&[]);
    }
}
