//! Caches in buckets of object stores, beyond what every backend has to stand: where keys come from, memory, and what is
//! sent once.

use crate::backend_contract::eventually_done;
use crate::support::backend::{assert_true, bucket_policy, fake_policy};
use crate::support::s3::{BUCKET, Cluster, Dialect, Op, Trouble};
use crate::support::{FakeS3, Fault, FlakyProxy, Nix, On, Reader, Said, ScratchStore, Storewatch, expr, write_secret};

/// Google's and Azure's interfaces, as far as a fake of them goes: what is put is what Nix reads back.
#[test]
fn google_and_azure_take_and_give_back() {
    let Some(nix) = Nix::recent() else { return };
    for dialect in [Dialect::Google, Dialect::Azure] {
        let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
        fake.state().dialect = dialect;
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&fake_policy(&storewatch, &fake, "team"));
        // What the policy says counts, whatever the environment has.
        let elsewhere = |command: &mut std::process::Command| {
            for name in ["GOOGLE_SERVICE_ACCOUNT", "SERVICE_ACCOUNT"] {
                command.env(name, "/no/such/file");
            }
            for name in ["GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"] {
                command.env(name, "http://127.0.0.1:1");
            }
            command.env("AZURE_STORAGE_TOKEN", "s3cret").env("AZURE_STORAGE_USE_EMULATOR", "true");
        };
        let mut running = storewatch.start_with(elsewhere);
        let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
        paths.extend(store.build(&expr::chain(3)).unwrap());
        eventually_done(&mut running, &storewatch, 4);
        running.stop();
        let website = format!("{}/team", fake.website());
        Reader::empty(&store).copy_from(&website, &storewatch.public_key("team"), &paths).unwrap();
        let before = fake.state().objects.len();
        let ping = storewatch.cmd(&["cache", "ping"]).ok();
        assert!(ping.contains("lets us read and push"), "{ping}");
        fake.state().is_read_only = true;
        let ping = storewatch.cmd(&["cache", "ping"]);
        assert!(ping.code == Some(1) && ping.stdout.contains("lets us read, but not push"), "{ping:?}");
        assert_eq!(fake.state().objects.len(), before, "nothing is left of it");
        let state = fake.state();
        assert!(state.asked[&Op::Part] >= 3 && state.multiparts.is_empty(), "{dialect:?}: {:?}", state.asked);
    }
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
        assert_eq!(Said::by(&mut command).code, Some(0));
        assert!(fake.state().store_paths().contains(&paths[0]));
    };
    let key = fake.key().clone();
    push("", &|_, command| {
        command.env("AWS_ACCESS_KEY_ID", &key.id).env("AWS_SECRET_ACCESS_KEY", &key.secret);
    });
    // As secrets of containers often are.
    push("", &|_, command| {
        let with_newline = |value: &str| format!("{value}\n");
        command.env("AWS_ACCESS_KEY_ID", with_newline(&key.id));
        command.env("AWS_SECRET_ACCESS_KEY", with_newline(&key.secret));
    });
    let profile =
        |name: &str| format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n", key.id, key.secret);
    push("", &|storewatch, _| {
        std::fs::create_dir(storewatch.state_dir().with_file_name("home").join(".aws")).unwrap();
        write_secret(&storewatch.state_dir().with_file_name("home").join(".aws/credentials"), profile("default"));
    });
    push("&profile=nix", &|storewatch, command| {
        let file = storewatch.state_dir().with_file_name("credentials");
        write_secret(&file, profile("nix"));
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
    four_large_uploads_beside("");
}

/// The highest level that `compression = "auto"` comes to.
#[test]
fn and_so_they_do_at_the_highest_level_of_auto() {
    four_large_uploads_beside("compression_level = 6\n");
}

fn four_large_uploads_beside(line: &str) {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&(bucket_policy(&storewatch, fake.port(), fake.key()) + line));
    fake.fail(&[Op::Part], Trouble::Stall);
    let mut running = storewatch.start();
    (0..4).for_each(|_| drop(store.build(&expr::sized(40_000_000)).unwrap()));
    running.eventually("a part of each on its way, and one beside", || fake.state().in_flight == 5);
    fake.pass();
    eventually_done(&mut running, &storewatch, 4);
    let peak = running.peak();
    assert!((1..=128 * 1024).contains(&peak), "{peak} KiB were resident");
    println!("{peak} KiB were resident at most");
    running.stop();
    fake.assert_sound();
}

/// Headers for what stands in front of the store go with every request, and their secrets show nowhere.
#[test]
fn headers_open_what_stands_in_front_of_a_store() {
    let Some(nix) = Nix::recent() else { return };
    for dialect in [Dialect::S3, Dialect::Google, Dialect::Azure] {
        let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
        {
            let mut state = fake.state();
            (state.dialect, state.gate) = (dialect, Some(("x-gate", "s3cret-of-the-gate".to_owned())));
        }
        let storewatch = Storewatch::new(&store);
        let policy = fake_policy(&storewatch, &fake, "");
        let file = storewatch.state_dir().with_file_name("gate");
        write_secret(&file, "s3cret-of-the-gate");
        storewatch.policy(&policy);
        let said = storewatch.cmd(&["cache", "ping"]);
        assert!(said.code == Some(1) && said.stdout.contains("NobodyIsLetIn"), "{said:?}");
        storewatch.policy(&format!("{policy}headers.x-gate = {{ file = \"{}\" }}\n", file.display()));
        let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
        paths.extend(store.build(&expr::chain(2)).unwrap());
        let mut command = storewatch.command();
        let said = Said::by(command.args(["push", "--timeout", "60s"]).args(&paths).env("STOREWATCH_LOG", "trace"));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!(said.stdout + &said.stderr).contains("s3cret-of-the-gate"), "the secret shows");
        let verified = storewatch.cmd(&["cache", "verify", "team"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
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
    let log = running.log();
    let again =
        log.lines().find(|line| line.contains("its content was there already")).unwrap_or_else(|| panic!("{log}"));
    assert!(again.contains(" read=0 sent=0 saved=100%"), "{again}");
    Reader::empty(&store).copy_from(&fake.website(), &storewatch.public_key("team"), &paths).unwrap();

    fake.state().objects.remove(&archive);
    let third = build("three");
    eventually_done(&mut running, &storewatch, 3);
    assert_eq!(archives().len(), 1);
    assert_ne!(archives()[0], archive, "it was sent again, under another name");
    Reader::empty(&store).copy_from(&fake.website(), &storewatch.public_key("team"), &[third]).unwrap();
    running.stop();
}

/// A cluster of three goes on with two, and so do uploads that are in their middle then, of two hosts at once. What they
/// brought is not brought again.
#[test]
fn a_node_of_a_cluster_goes_down_in_mid_upload() {
    let (Some(nix), Some(mut cluster)) = (Nix::recent(), Cluster::start()) else { return };
    let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(cluster.port()));
    let (key, writer) = (store.generate_key("team-1"), cluster.key().clone());
    let policy = |host: &Storewatch<'_>| {
        let file = host.state_dir().with_file_name("signing");
        write_secret(&file, std::fs::read_to_string(&key.secret).unwrap());
        let signed = format!("signing_key = {{ file = \"{}\" }}\n", file.display());
        host.policy(&(bucket_policy(host, proxy.port(), &writer) + &signed));
    };
    let mut paths = store.build(&expr::lattice(3, 12_000_000)).unwrap();
    let closure = store.query_closure(&paths[0]);
    let hosts = [Storewatch::new(&store), Storewatch::new(&store)];
    hosts.iter().for_each(policy);
    proxy.fail(On::Puts("partNumber="), Fault::StallAfter(1_000_000));
    let mut pushing = hosts.each_ref().map(|host| host.spawn(&["push", &paths[0]]));
    for (host, pushing) in hosts.iter().zip(&mut pushing) {
        pushing.eventually("parts of both large paths", || proxy.faults() >= 4 && host.jobs("uploading").len() >= 2);
    }
    assert!(cluster.contents().unfinished >= 4 && hosts.iter().all(|host| host.jobs("done").is_empty()));
    cluster.stop_one();
    proxy.pass();
    pushing.into_iter().for_each(|pushing| assert!(pushing.wait_exit().success()));

    let third = Storewatch::new(&store);
    policy(&third);
    let said = third.cmd(&["push", &paths[0]]).ok();
    assert!(said.contains("already there    3"), "{said}");
    paths.extend(store.build(&expr::chain(3)).unwrap());
    third.cmd(&["push", &paths[1]]).ok();
    for host in hosts.iter().chain([&third]) {
        assert_eq!(host.jobs("failed"), Vec::<serde_json::Value>::new());
    }
    Reader::empty(&store).copy_from(&cluster.website(), &key.public, &paths).unwrap();
    assert_true(&closure, |file| cluster.read(file));
    // Not by Garage's own count: to that the node that has gone still adds what it had. Which narinfo wins is chance.
    let found = third.cmd(&["cache", "verify", "team", "--deep", "--json"]).json();
    let leftover = found["leftover_files"].as_array().unwrap();
    assert!(leftover.iter().all(|file| file["what"] != "upload") && leftover.len() <= closure.len(), "{leftover:#?}");
    for host in &hosts {
        let notes = std::fs::read_dir(host.state_dir().join("unfinished/team")).unwrap();
        assert_eq!(notes.count(), 0, "no upload is noted any more");
    }
}
