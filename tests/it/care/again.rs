//! A store that doesn't do at once what it is asked: each request is tried again, by itself, and does the same as once.

use super::site::{Site, narinfo, with_each_fake};
use super::{assert_sound, cache, json};
use crate::support::s3::{Dialect, FakeS3, Op, Trouble};
use crate::support::{Nix, ScratchStore, Storewatch, expr, write_secret};

const ALL: [Op; 8] = [Op::Head, Op::Get, Op::List, Op::Put, Op::Delete, Op::Abort, Op::Uploads, Op::Batch];

const PRUNE: [&str; 6] = ["--max-size", "0B", "--grace", "0s", "--yes", "--json"];

/// Fills the cache with so many paths, and returns them.
fn filled(storewatch: &Storewatch<'_>, site: &Site, store: &ScratchStore, count: usize) -> Vec<String> {
    storewatch.policy(&site.policy(storewatch));
    let paths = store.build(&expr::many(count)).unwrap();
    let mut push = vec!["push"];
    push.extend(paths.iter().map(String::as_str));
    storewatch.cmd(&push).ok();
    paths
}

/// The file of a new secret key.
fn new_key(storewatch: &Storewatch<'_>, store: &ScratchStore) -> String {
    let file = storewatch.state_dir().with_file_name("new");
    write_secret(&file, std::fs::read_to_string(store.generate_key("new-1").secret).unwrap());
    file.display().to_string()
}

#[test]
fn each_request_that_goes_wrong_once_is_tried_again() {
    with_each_fake(|site, fake, store| {
        let storewatch = Storewatch::new(store);
        let count = filled(&storewatch, site, store, 8).len();
        site.set("nar/orphan.nar.zst", "nobody names it");
        site.leave_an_upload();
        let trouble = || match fake.state().dialect {
            Dialect::S3 => Trouble::Code(503, "SlowDown"),
            Dialect::Google => Trouble::Cut,
            Dialect::Azure => Trouble::Code(500, "InternalError"),
        };
        let begin_anew = || fake.fail_once(&ALL, "", trouble());
        begin_anew();
        let (found, code) = json(&storewatch, "verify", &["--deep"]);
        assert_eq!((&found["narinfos"], code), (&count.into(), Some(0)), "{found:#}");
        let nobodys = ["leftovers", "perhaps_under_way"].map(|whose| found[whose].as_u64().unwrap());
        assert_eq!(nobodys.iter().sum::<u64>(), 1 + u64::from(site.shows_uploads()), "{found:#}");
        begin_anew();
        let (signed, code) = json(&storewatch, "sign", &["--key", &new_key(&storewatch, store)]);
        assert_eq!((&signed["signed"], code), (&count.into(), Some(0)), "{signed:#}");
        let troubled = fake.troubled();
        begin_anew();
        let (pruned, code) = json(&storewatch, "prune", &PRUNE[..5]);
        assert_eq!((&pruned["paths_removed"], code), (&count.into(), Some(0)), "{pruned:#}");
        assert_eq!(pruned["unfinished_uploads"], u64::from(site.shows_uploads()), "{pruned:#}");
        // Each of its narinfos is read, put aside and removed, and so is its archive.
        assert!(fake.troubled() > troubled + 4 * count as u64);
        assert_eq!(site.names().into_iter().collect::<Vec<_>>(), ["nix-cache-info"]);
    });
}

#[test]
fn what_is_put_and_not_answered_counts_as_put() {
    with_each_fake(|site, fake, store| {
        let storewatch = Storewatch::new(store);
        let count = filled(&storewatch, site, store, 4).len();
        fake.fail_once(&[Op::Put], ".narinfo", Trouble::CutAfterDone);
        let (signed, code) = json(&storewatch, "sign", &["--key", &new_key(&storewatch, store)]);
        assert_eq!((&signed["signed"], &signed["had_it"], code), (&count.into(), &0.into(), Some(0)), "{signed:#}");
        assert_eq!(fake.troubled(), count as u64);
        fake.pass();
        assert_sound(&storewatch);
    });
}

#[test]
fn an_archive_that_is_cut_is_read_on() {
    with_each_fake(|site, fake, store| {
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        let path = store.build(&expr::sized(3_000_000)).unwrap().remove(0);
        storewatch.cmd(&["push", &path]).ok();
        fake.fail_once(&[Op::Get], "", Trouble::HalfAnswer);
        assert_sound(&storewatch);
        // The narinfo, which is read as a whole, `nix-cache-info`, and the archive.
        assert_eq!(fake.troubled(), 3);
        // What is another one by then is not read on.
        let archive = site.narinfo(&path).url;
        let content = site.get(&archive).unwrap();
        fake.fail(&[], Trouble::Cut);
        site.set(&archive, [&content[..1_000], b"x", &content[1_001..]].concat());
        assert_eq!(json(&storewatch, "verify", &["--deep"]).0["faults_by_kind"]["damaged"], 1);
    });
}

/// Nobody should take that for a fault of the cache.
#[test]
fn what_is_never_answered_is_named_and_has_an_exit_code_of_its_own() {
    let (Some(nix), Some(site)) = (Nix::recent(), Site::fake()) else { return };
    let Site::Fake(fake) = &site else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let paths = filled(&storewatch, &site, &store, 2);
    let key = new_key(&storewatch, &store);
    let first = narinfo(&paths[0]);
    let (named, names) = (paths.iter().map(|path| narinfo(path)), site.names());
    let asked_in_vain: Vec<String> =
        named.map(|file| format!("{file}, asked for 5 times: read a file at s3://")).collect();
    fake.fail_at(&[Op::Get], ".narinfo", Trouble::Code(503, "SlowDown"));
    for (verb, more) in [("verify", &[][..]), ("sign", &["--key", &key]), ("prune", &PRUNE[..5])] {
        let said = cache(&storewatch, verb, more);
        assert_eq!(said.code, Some(5), "{verb}: {said:?}");
        assert!(asked_in_vain.iter().any(|what| said.stderr.contains(what)), "{verb}: {said:?}");
        assert!(said.stderr.contains("SlowDown (503)"), "{verb}: {said:?}");
    }
    assert_eq!(site.names(), names);
    // What doesn't pass isn't worth another try.
    let asked = get(fake);
    fake.fail_at(&[Op::Get], "nix-cache-info", Trouble::Code(403, "AccessDenied"));
    let said = cache(&storewatch, "verify", &[]);
    assert!(said.code == Some(5) && said.stderr.contains("cache team: nix-cache-info: ask"), "{said:?}");
    assert_eq!(get(fake), asked + 1);
    // A fault is another matter.
    fake.pass();
    site.set(&first, "nothing");
    assert_eq!(cache(&storewatch, "verify", &[]).code, Some(1));
}

/// How often something was to be read.
fn get(fake: &FakeS3) -> u64 {
    fake.state().asked.get(&Op::Get).copied().unwrap_or_default()
}
