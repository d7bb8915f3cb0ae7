//! Servers that are who they say, and servers that aren't.

use super::Team;
use crate::support::tls::{Authority, Certificate, Clients};
use crate::support::{AtticServer, FlakyProxy, Grant, Kind, Nix, ScratchStore, Visibility, each_attic, expr};

each_attic! {
    fn an_authority_of_ones_own(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let authority = Authority::new("ours");
        let proxy = FlakyProxy::with_tls(attic.port(), authority.server(Certificate::Good, Clients::Anybody));
        let keys = format!("ca_file = \"{}\"\n", authority.ca_file().display());
        let team = Team::with_keys(&store, &proxy.url("team"), &keys);
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(3)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        // Its own address is the proxy's, as it learns from the proxy's headers: no request went past it.
        assert_eq!(proxy.seen().iter().filter(|seen| seen.kind == Kind::Upload).count(), 3);
        running.stop();
    }
}

#[test]
fn the_systems_variable_names_an_authority_too() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let authority = Authority::new("ours");
    let proxy = FlakyProxy::with_tls(attic.port(), authority.server(Certificate::Good, Clients::Anybody));
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start_with(|command| {
        command.env("NIX_SSL_CERT_FILE", authority.ca_file());
    });
    let paths = store.build(&expr::many(2)).unwrap();
    team.eventually_delivers(&mut running, &attic, &paths);
    running.stop();
}

#[test]
fn a_server_that_is_not_who_it_should_be_gets_nothing() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let cases = [
        (&stranger, Certificate::Good, "certificate"),
        (&authority, Certificate::Expired, "expired"),
        (&authority, Certificate::Misnamed, "127.0.0.1"),
        (&authority, Certificate::Authoritys, "(CA:TRUE), which can't be a server's as well"),
    ];
    for (its_authority, certificate, reason) in cases {
        let proxy = FlakyProxy::with_tls(attic.port(), its_authority.server(certificate, Clients::Anybody));
        let keys = format!("ca_file = \"{}\"\n", authority.ca_file().display());
        let team = Team::with_keys(&store, &proxy.url("team"), &keys);
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(1)).unwrap();
        team.eventually_waits_because(&mut running, "certificate");
        team.eventually_waits_because(&mut running, reason);
        // Only another authority is what that key is for.
        let advised = team.waits_because().contains("where it is right, name its authority's with `ca_file`");
        assert_eq!(advised, certificate == Certificate::Good, "{}", team.waits_because());
        assert!(!team.waits_because().contains("OtherError"), "{}", team.waits_because());
        assert!(proxy.refused() > 0 && proxy.seen().is_empty());
        assert!(!attic.has("team", &paths[0]));
        assert_eq!(team.storewatch.jobs("failed").len(), 0, "it may be mended");
        running.stop();
    }
}

#[test]
fn a_client_shows_its_certificate_where_one_is_demanded() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let authority = Authority::new("ours");
    let proxy = FlakyProxy::with_tls(attic.port(), authority.server(Certificate::Good, Clients::Certified));
    let trusting = format!("ca_file = \"{}\"\n", authority.ca_file().display());
    let token = attic.token(&Grant::all(&["team"]));
    let bare = Team::with_keys(&store, &proxy.url("team"), &trusting);
    bare.replace_token(&token);
    let mut running = bare.storewatch.start();
    store.build(&expr::many(1)).unwrap();
    bare.eventually_waits_because(&mut running, "client_certificate");
    assert!(proxy.seen().is_empty());
    running.stop();

    let another = Authority::new("another");
    let (certificate, _) = another.client();
    let (_, key) = authority.client();
    let keys = format!(
        "{trusting}client_certificate = \"{}\"\nclient_key = {{ file = \"{}\" }}\n",
        certificate.display(),
        key.display()
    );
    let mixed = Team::with_keys(&store, &proxy.url("team"), &keys);
    mixed.replace_token(&token);
    let pinged = mixed.storewatch.cmd(&["cache", "ping"]);
    assert!(format!("{pinged:?}").contains("`client_key` is the key of another certificate"), "{pinged:?}");

    let (certificate, key) = authority.client();
    let keys = format!(
        "{trusting}client_certificate = \"{}\"\nclient_key = {{ file = \"{}\" }}\n",
        certificate.display(),
        key.display()
    );
    let team = Team::with_keys(&store, &proxy.url("team"), &keys);
    team.replace_token(&token);
    let mut running = team.storewatch.start();
    let paths = store.build(&expr::many(1)).unwrap();
    team.eventually_delivers(&mut running, &attic, &paths);
    running.stop();
}

#[test]
fn an_api_without_encryption_elsewhere_gets_no_token() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    attic.as_fake().state().api_endpoint = Some("http://elsewhere.invalid/".to_owned());
    let authority = Authority::new("ours");
    let proxy = FlakyProxy::with_tls(attic.port(), authority.server(Certificate::Good, Clients::Anybody));
    let keys = format!("ca_file = \"{}\"\n", authority.ca_file().display());
    // Encrypted so far, and not, as by a tunnel that ends on this host.
    for (url, keys) in [(proxy.url("team"), keys.as_str()), (attic.url("team"), "")] {
        let team = Team::with_keys(&store, &url, keys);
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        store.build(&expr::many(1)).unwrap();
        team.eventually_waits_because(&mut running, "allow_unencrypted");
        running.stop();
    }
}

#[test]
fn an_api_that_is_out_of_reach_is_told_as_an_address_that_the_server_has_named() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    // Nobody listens there.
    attic.as_fake().state().api_endpoint = Some("http://127.0.0.1:9/".to_owned());
    let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
    let said = team.storewatch.cmd(&["cache", "ping", "team"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let server = format!("the server at http://127.0.0.1:{} names another address for its API", attic.port());
    for words in [&server, "at http://127.0.0.1:9: ", "set `api-endpoint` in the server's configuration"] {
        assert!(said.stdout.contains(words), "{words}: {said:?}");
    }
    assert!(!said.stdout.contains("in the `url` right"), "{said:?}");
}
