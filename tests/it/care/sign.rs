//! From an old key to a new one.

use super::site::{Site, narinfo};
use super::{assert_sound, cache, each_site, json};
use crate::support::nix::base_name;
use crate::support::{Nix, Reader, Said, ScratchStore, Storewatch, expr, write_secret};
use std::collections::BTreeMap;
use storewatch::nix::{Derivation, Realisation, SecretKey, StorePath};

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

    /// Unlike a substituter, who copies by the derivation wants signed realisations.
    fn who_copies_by_the_derivation_needs_the_new_key_only(site: Site, store: ScratchStore) {
        let settings = store.root().join("conf/nix.conf");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, format!("{text}extra-experimental-features = ca-derivations\n")).unwrap();
        let storewatch = Storewatch::new(&store);
        let [old, new] = ["old-1", "new-1"].map(|name| {
            let key = store.generate_key(name);
            let (file, secret) = (storewatch.state_dir().with_file_name(name), std::fs::read_to_string(&key.secret).unwrap());
            write_secret(&file, &secret);
            (file.display().to_string(), key.public, SecretKey::parse(&secret).unwrap())
        });
        storewatch.policy(&format!("{}signing_key = {{ file = \"{}\" }}\n", site.policy(&storewatch), old.0));
        let expression = expr::content_addressed(&["base", "top"], &store.root().join("built"));
        let top = store.build(&expression).unwrap().remove(0);
        let mut instantiate = store.command("nix-instantiate");
        let derivation = Said::by(instantiate.args(["--expr", &expression])).ok().trim().to_owned();
        storewatch.cmd(&["push", &top, &derivation]).ok();
        let before = realisations(&site);
        assert_eq!(before.len(), 3, "{:?}", before.keys());
        let copied = |key: &str| {
            let reader = Reader::empty(&store);
            reader.copy_from(&site.substituter(), key, &[format!("{derivation}^*")]).map(|()| assert!(reader.valid(&top)))
        };
        copied(&old.1).unwrap();
        assert!(copied(&new.1).is_err());

        // As Nix from 2.35 on has them, and one that somebody has put there.
        let path = |path: &str| StorePath::from_base_name(base_name(path)).unwrap();
        let (output, out_path) = ("out".to_owned(), path(&top));
        let of = Realisation { derivation: Derivation::Path(path(&derivation)), output, out_path, signatures: Vec::new() };
        let traced = format!("build-trace-v2/{}/out.doi", base_name(&derivation));
        site.set(&traced, of.signed_json(&old.2));
        let strange = format!("build-trace-v2/{}/dev.doi", base_name(&derivation));
        let by_stranger = of.signed_json(&SecretKey::generate("stranger-1").unwrap());
        site.set(&strange, by_stranger.clone());

        let (said, code) = json(&storewatch, "sign", &["--key", &new.0]);
        let of_these = &said["realisations"];
        let counts = ["signed", "had_it", "refused"].map(|name| of_these[name].as_u64().unwrap());
        assert_eq!((counts, code, &said["refused"]), ([4, 0, 1], Some(1), &0.into()), "{said:#}");
        let finding = &of_these["findings"][0];
        assert_eq!((&finding["file"], &finding["kind"]), (&strange.clone().into(), &"unsigned".into()), "{said:#}");
        assert_eq!(site.text(&strange), by_stranger, "what doesn't verify is left alone");
        site.remove(&strange);
        for (name, before) in &before {
            let after: serde_json::Value = serde_json::from_str(&site.text(name)).unwrap();
            let before: serde_json::Value = serde_json::from_str(before).unwrap();
            let (all, kept) = (after["signatures"].as_array().unwrap(), before["signatures"].as_array().unwrap());
            assert!(all.len() == 2 * kept.len() && all.starts_with(kept), "{name}: {after}");
        }
        let signatures = serde_json::from_str::<serde_json::Value>(&site.text(&traced)).unwrap()["signatures"].take();
        let names: Vec<&str> = signatures.as_array().unwrap().iter().map(|sig| sig["keyName"].as_str().unwrap()).collect();
        assert_eq!(names, ["old-1", "new-1"]);
        for key in [&new.1, &old.1] {
            copied(key).unwrap();
        }
        // Paths alone are not enough.
        let signed = realisations(&site);
        let put = |files: &BTreeMap<String, String>| files.iter().for_each(|(name, text)| site.set(name, text.clone()));
        put(&before);
        let refused = copied(&new.1).unwrap_err();
        assert!(refused.contains("cannot register realisation"), "{refused}");
        put(&signed);
        let again = cache(&storewatch, "sign", &["--key", &new.0]).ok();
        assert!(again.contains("0 paths signed, 4 had it already\n0 realisations signed, 4 had it already\n"), "{again}");
        assert_sound(&storewatch);
    }
}

/// The realisations that a cache has, as Nix up to 2.34 wants them.
fn realisations(site: &Site) -> BTreeMap<String, String> {
    let names = site.names().into_iter().filter(|name| name.starts_with("realisations/"));
    names.map(|name| (name.clone(), site.text(&name))).collect()
}
