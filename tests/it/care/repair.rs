//! A repair takes nothing away: what is refused, or is cut, leaves the cache as it was.

use super::site::{Site, narinfo, with_each_fake};
use super::{assert_sound, cache, each_site, json};
use crate::backend_contract::eventually_done;
use crate::support::nix::base_name;
use crate::support::s3::{Op, Trouble};
use crate::support::{Nix, Reader, ScratchStore, Storewatch, expr, write_secret};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// Paths of a chain, references first, pushed.
fn pushed_chain(storewatch: &Storewatch<'_>, store: &ScratchStore, length: usize) -> Vec<String> {
    let chain = store.query_closure(&store.build(&expr::chain(length)).unwrap()[0]);
    storewatch.cmd(&["push", chain.last().unwrap()]).ok();
    chain
}

each_site! {
    fn what_the_policy_denies_stays_as_it_is(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, &store, 3);
        // Others trust another key, by which it stays readable.
        let (other, narinfos) = (store.generate_key("other-1"), [narinfo(&chain[0]), narinfo(&chain[1])]);
        let file = storewatch.state_dir().with_file_name("other");
        write_secret(&file, fs::read_to_string(&other.secret).unwrap());
        cache(&storewatch, "sign", &["--key", &file.display().to_string()]).ok();
        let own = storewatch.public_key("team");
        let signed = format!("Sig: {}:", own.split_once(':').unwrap().0);
        for name in &narinfos {
            let text = site.text(name);
            let unsigned: Vec<&str> = text.lines().filter(|line| !line.starts_with(&signed)).collect();
            site.set(name, format!("{}\n", unsigned.join("\n")));
        }
        let before = narinfos.clone().map(|name| site.text(&name));
        let rule = "[[rules]]\nname = \"secret\"\nmatch = { name = \"chain-0\" }\naction = \"deny\"\n";
        storewatch.policy(&format!("{}{rule}", site.policy(&storewatch)));
        let said = cache(&storewatch, "verify", &["--repair"]);
        assert_eq!(said.code, Some(3), "{said:?}");
        let line = format!("{}: it is not uploaded, denied by", base_name(&chain[0]));
        assert!(said.stdout.contains(&line), "{said:?}");
        assert_eq!(site.text(&narinfos[0]), before[0], "a closure that was readable would be broken");
        Reader::empty(&store).copy_from(&site.substituter(), &other.public, &chain).unwrap();
        let (repaired, _) = json(&storewatch, "verify", &["--repair"]);
        assert!(repaired["repair"]["undelivered"][0].as_str().unwrap().contains("secret"), "{repaired:#}");

        storewatch.policy(&site.policy(&storewatch));
        cache(&storewatch, "verify", &["--repair"]).ok();
        assert_sound(&storewatch);
        for key in [&own, &other.public] {
            Reader::empty(&store).copy_from(&site.substituter(), key, &chain).unwrap();
        }
    }

    fn what_waits_or_is_killed_has_lost_nothing_and_is_not_forgotten(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, &store, 3);
        site.set(&narinfo(&chain[0]), "nonsense");
        let text = site.text(&narinfo(&chain[1]));
        site.set(&narinfo(&chain[1]), text.replace("FileSize: ", "FileSize: 1"));
        site.remove(&site.narinfo(&chain[2]).url);
        // But for what says that a bad archive is to be named by nobody anew.
        let all = || -> Vec<(String, Option<Vec<u8>>)> {
            let names = site.names().into_iter().filter(|name| !name.starts_with("pruned/"));
            names.map(|name| (name.clone(), site.get(&name))).collect()
        };
        let before = all();
        storewatch.cmd(&["pause"]).ok();
        let mut repairing = storewatch.spawn(&["cache", "verify", "team", "--repair"]);
        repairing.eventually("its jobs", || storewatch.jobs_left().len() == 3);
        assert!(all() == before, "while it is paused");
        repairing.kill9();
        assert!(all() == before, "after it was killed");
        let ended = cache(&storewatch, "verify", &["--repair", "--timeout", "1s"]);
        assert!(ended.code == Some(4) && ended.stdout.contains("the time is over with 3 paths to go"), "{ended:?}");
        assert!(ended.stdout.contains("still queued     3 for team, which is paused by hand"), "{ended:?}");
        assert!(all() == before, "after its time was over");
        assert_eq!(cache(&storewatch, "verify", &["--timeout", "1s"]).code, Some(2), "nothing is waited for");
        storewatch.cmd(&["resume"]).ok();
        let mut running = storewatch.start();
        eventually_done(&mut running, &storewatch, 3);
        running.stop();
        assert_sound(&storewatch);
        Reader::empty(&store).copy_from(&site.substituter(), &storewatch.public_key("team"), &chain).unwrap();
    }

    fn what_was_altered_in_the_store_stays_as_it_is(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, &store, 2);
        let name = narinfo(&chain[0]);
        site.remove(&site.narinfo(&chain[0]).url);
        let before = (site.text(&name), site.names());
        fs::set_permissions(&chain[0], Permissions::from_mode(0o644)).unwrap();
        fs::write(&chain[0], "something else").unwrap();
        let (repaired, code) = json(&storewatch, "verify", &["--repair"]);
        assert_ne!(code, Some(0), "{repaired:#}");
        let why = repaired["repair"]["undelivered"].to_string();
        assert!(why.contains("has changed since Nix registered it"), "{repaired:#}");
        assert_eq!((site.text(&name), site.names()), before, "nothing goes, and nothing is left behind");

        // It is shown, and nobody can read it: neither could anybody what needs it.
        let user = store.build(&expr::user_of(&chain[0])).unwrap().remove(0);
        let said = storewatch.cmd(&["push", &user]);
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(!site.has(&user));
    }

    fn what_is_there_only_since_others_need_it_is_repaired_too(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        let elsewhere = tempfile::tempdir().unwrap();
        storewatch.policy(&format!(
            "{}[caches.other]\nurl = \"file://{}\"\n\
             [[rules]]\nmatch = {{ name = \"chain-0\" }}\naction = \"upload\"\nto = [\"other\"]\n",
            site.policy(&storewatch),
            elsewhere.path().display()
        ));
        let chain = pushed_chain(&storewatch, &store, 2);
        site.remove(&site.narinfo(&chain[0]).url);
        cache(&storewatch, "verify", &["--repair"]).ok();
        assert_sound(&storewatch);
        Reader::empty(&store).copy_from(&site.substituter(), &storewatch.public_key("team"), &chain).unwrap();
    }
}

/// Whether it is the archive or the narinfo that was on its way.
#[test]
fn what_is_killed_in_the_middle_of_an_upload_is_as_it_was() {
    with_each_fake(|site, fake, store| {
        for on_its_way in ["nar/", ".narinfo"] {
            let storewatch = Storewatch::new(store);
            storewatch.policy(&site.policy(&storewatch));
            let path = store.build(&expr::many(1)).unwrap().remove(0);
            storewatch.cmd(&["push", &path]).ok();
            let before = format!("{}X-Mine: kept\n", site.text(&narinfo(&path)).replace("FileSize: ", "FileSize: 1"));
            site.set(&narinfo(&path), before.clone());
            let troubled = fake.troubled();
            fake.fail_at(&[Op::Put], on_its_way, Trouble::Stall);
            let mut repairing = storewatch.spawn(&["cache", "verify", "team", "--repair"]);
            repairing.eventually("an upload", || fake.troubled() > troubled);
            repairing.kill9();
            fake.pass();
            assert_eq!(site.text(&narinfo(&path)), before);
            let mut running = storewatch.start();
            eventually_done(&mut running, &storewatch, 1);
            running.stop();
            assert_sound(&storewatch);
            site.remove(&narinfo(&path));
        }
    });
}
