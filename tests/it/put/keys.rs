//! How a web server knows us, how we know it, and what signs.

use super::*;

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
