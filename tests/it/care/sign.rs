//! From an old key to a new one.

use super::site::{Site, narinfo};
use super::{assert_sound, cache, each_site, json};
use crate::support::{Nix, Reader, ScratchStore, Storewatch, expr, write_secret};

each_site! {
    /// As by an administrator's host, or by root before the service has run, which couldn't read the key.
    fn who_has_no_key_makes_none_by_signing(site: Site, store: ScratchStore) {
        let uploader = Storewatch::new(&store);
        uploader.policy(&site.policy(&uploader));
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        uploader.cmd(&["push", &path]).ok();
        let before = site.text(&narinfo(&path));
        let other = Storewatch::new(&store);
        other.policy(&site.policy(&other));
        let refused = cache(&other, "sign", &["--trust", &uploader.public_key("team")]);
        assert!(refused.code == Some(2) && refused.stderr.contains("name one with --key"), "{refused:?}");
        assert_eq!(site.text(&narinfo(&path)), before);
        // Nor is a key's public half written down, which the service would have to change later.
        let key = store.generate_key("new-1");
        let file = other.state_dir().with_file_name("new");
        write_secret(&file, std::fs::read_to_string(&key.secret).unwrap());
        other.policy(&format!("{}signing_key = {{ file = \"{}\" }}\n", site.policy(&other), file.display()));
        assert!(cache(&other, "sign", &["--trust", &uploader.public_key("team")]).ok().contains("1 path signed"));
        assert!(!other.state_dir().join("keys").exists());
    }

    fn who_trusts_only_the_new_key_reads_everything(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        storewatch.cmd(&["push", &chain[2]]).ok();
        let old = storewatch.public_key("team");
        let new = store.generate_key("new-1");
        let file = storewatch.state_dir().with_file_name("new");
        write_secret(&file, std::fs::read_to_string(&new.secret).unwrap());
        let key = file.display().to_string();
        // A line that nobody here knows, and a narinfo that somebody has tampered with.
        let before = format!("{}X-Mine:  as it was \n", site.text(&narinfo(&chain[0])));
        site.set(&narinfo(&chain[0]), before.clone());
        let stranger = store.build(&expr::many(1)).unwrap().remove(0);
        storewatch.cmd(&["push", &stranger]).ok();
        let tampered = site.text(&narinfo(&stranger)).replace("NarSize: ", "NarSize: 1");
        site.set(&narinfo(&stranger), tampered.clone());

        let (signed, code) = json(&storewatch, "sign", &["--key", &key]);
        let counts = ["signed", "had_it", "refused"].map(|name| signed[name].as_u64().unwrap());
        assert_eq!((counts, code, &signed["public_key"]), ([3, 0, 1], Some(1), &new.public.clone().into()), "{signed:#}");
        assert_eq!(site.text(&narinfo(&stranger)), tampered, "what doesn't verify is left alone");
        site.remove(&narinfo(&stranger));
        let after = site.text(&narinfo(&chain[0]));
        let more: Vec<&str> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
        assert!(more.len() == 1 && more[0].starts_with("Sig: new-1:"), "{more:?}");
        assert_eq!(after.replace(&format!("{}\n", more[0]), ""), before);
        for trusted in [&new.public, &old] {
            Reader::empty(&store).copy_from(&site.substituter(), trusted, &chain).unwrap();
        }
        let again = cache(&storewatch, "sign", &["--key", &key]).ok();
        assert!(again.contains("0 paths signed, 3 had it already"), "{again}");

        // One more by the old key, then the policy says the new one.
        let late = store.build(&expr::many(1)).unwrap();
        storewatch.cmd(&["push", &late[0]]).ok();
        storewatch.policy(&format!("{}signing_key = {{ file = \"{key}\" }}\n", site.policy(&storewatch)));
        let refused = cache(&storewatch, "sign", &[]);
        assert!(refused.code == Some(1) && refused.stderr.contains("no good signature by new-1"), "{refused:?}");
        assert!(cache(&storewatch, "sign", &["--trust", &old]).ok().contains("1 path signed, 3 had it already"));
        assert_sound(&storewatch);
        Reader::empty(&store).copy_from(&site.substituter(), &new.public, &late).unwrap();
    }
}
