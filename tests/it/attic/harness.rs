//! What the tests of the Attic backend stand on, tried by itself: the fake and a real server answer alike, Nix reads
//! from both, and the proxy does to requests what it is told.

use crate::support::attic::Tolerated;
use crate::support::attic::wire::{NAR_INFO, PREAMBLE_SIZE};
use crate::support::http::{Answer, Question};
use crate::support::nix::base_name;
use crate::support::tls::{Authority, Certificate, Clients};
use crate::support::{
    AtticServer, Canned, Fault, FlakyProxy, Grant, Kind, Nix, On, Said, ScratchStore, Visibility, each_attic,
    eventually, expr,
};
use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

each_attic! {
    fn a_closure_goes_up_and_nix_reads_it_back(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Public, &store);
        let token = attic.token(&Grant::push(&["team"]));
        let top = store.build(&expr::chain(3)).unwrap();
        let closure = store.query_closure(&top[0]);
        assert_eq!(missing(&attic, &token, &closure).json()["missing_paths"].as_array().unwrap().len(), 3);
        for (number, path) in closure.iter().enumerate() {
            let (mut info, archive) = described(&store, path);
            // The last one's is too long for a header.
            if number == 2 {
                info["sigs"] = vec![format!("key:{}A==", "a".repeat(85)); 50].into();
            }
            let answer = upload(attic.port(), &token, &info, &archive).unwrap().json();
            assert_eq!(answer["kind"], "Uploaded");
        }
        assert_eq!(missing(&attic, &token, &closure).json()["missing_paths"], json!([]));
        attic.assert_sound("team", &closure);
        let (url, key) = (attic.substituter("team"), attic.public_key("team"));
        let reader = store.read_back(&url, &key, &top).unwrap();
        assert_eq!(reader.contents(&closure), store.contents(&closure));
        let other = store.generate_key("other-1");
        assert!(store.read_back(&url, &other.public, &top).unwrap_err().contains("signature"));

        // The same archive in another cache.
        attic.create("other", Visibility::Private, &store);
        let token = attic.token(&Grant::all(&["other"]));
        let (mut info, archive) = described(&store, &closure[0]);
        info["cache"] = "other".into();
        assert_eq!(upload(attic.port(), &token, &info, &archive).unwrap().json()["kind"], "Deduplicated");
        assert!(attic.has("other", &closure[0]) && !attic.has("other", &closure[1]));
    }

    fn who_may_do_what(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        let paths = store.build(&expr::many(1)).unwrap();
        attic.create("team", Visibility::Private, &store);
        let [none, pull, push, both] = [
            Grant::default(),
            Grant::pull(&["team"]),
            Grant::push(&["team"]),
            Grant::all(&["team", "missing"]),
        ]
        .map(|grant| attic.token(&grant));
        let config = |attic: &AtticServer, token: &str, cache: &str| {
            attic.question(Method::GET, &format!("/_api/v1/cache-config/{cache}")).bearer(token).ask().unwrap()
        };
        let statuses = |attic: &AtticServer, token: &str| {
            [config(attic, token, "team").status, missing(attic, token, &paths).status]
        };
        assert_eq!(statuses(&attic, "nonsense"), [401, 401]);
        assert_eq!(statuses(&attic, &none), [401, 401]);
        assert_eq!(statuses(&attic, &pull), [200, 403]);
        assert_eq!(statuses(&attic, &push), [403, 200]);
        assert_eq!(statuses(&attic, &both), [200, 200]);
        assert_eq!(config(&attic, &both, "missing").status, 404);
        assert_eq!(config(&attic, &pull, "missing").status, 401);
        let denied: Value = serde_json::from_slice(&missing(&attic, &pull, &paths).body).unwrap();
        assert_eq!((&denied["code"], &denied["error"]), (&403.into(), &"AccessError".into()));

        let described = config(&attic, &both, "team").json();
        assert_eq!(described["store_dir"], store.store_dir().to_str().unwrap());
        assert_eq!(described["api_endpoint"], format!("http://127.0.0.1:{}/", attic.port()));
        assert_eq!(described["substituter_endpoint"], attic.substituter("team"));
        assert_eq!((&described["is_public"], &described["retention_period"]), (&false.into(), &"Global".into()));

        attic.set_visibility("team", Visibility::Public);
        assert_eq!(statuses(&attic, "nonsense"), [200, 403]);
        attic.revoke_tokens();
        assert_eq!(statuses(&attic, &both), [200, 403]);
        attic.set_visibility("team", Visibility::Private);
        assert_eq!(statuses(&attic, &both), [401, 401]);
    }

    fn a_server_comes_back_with_all_that_it_had(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        let paths = store.build(&expr::many(1)).unwrap();
        attic.create("team", Visibility::Private, &store);
        let token = attic.token(&Grant::push(&["team"]));
        let (info, archive) = described(&store, &paths[0]);
        upload(attic.port(), &token, &info, &archive).unwrap().ok();
        attic.stop();
        attic.question(Method::GET, "/").ask().unwrap_err();
        attic.go_on();
        assert!(attic.has_all("team", &paths));
        attic.restart();
        assert_eq!(missing(&attic, &token, &paths).json()["missing_paths"], json!([]));
    }

    fn an_upload_that_is_not_what_was_said_is_refused(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        let path = store.build(&expr::sized(300_000)).unwrap().remove(0);
        attic.create("team", Visibility::Private, &store);
        let token = attic.token(&Grant::push(&["team"]));
        let (info, archive) = described(&store, &path);
        attic.tolerate(Tolerated::CutBodies);
        let refused = upload(attic.port(), &token, &info, &archive[..200_000]).unwrap();
        assert_eq!(refused.status, 400);
        let said = String::from_utf8_lossy(&refused.body);
        assert!(said.contains("Bad NAR Hash or Size"), "{said}");

        // A proxy does the same to what was sent whole, or cuts the connection.
        let proxy = FlakyProxy::before(attic.port());
        for after in [0, 1, 100_000] {
            proxy.fail(On::Only(Kind::Upload), Fault::EndAfter(after));
            assert_eq!(upload(proxy.port(), &token, &info, &archive).unwrap().status, 400);
            proxy.fail(On::Only(Kind::Upload), Fault::CutAfter(after));
            upload(proxy.port(), &token, &info, &archive).unwrap_err();
        }
        assert_eq!(proxy.faults(), 6);
        assert!(!attic.has("team", &path));
        proxy.pass();
        upload(proxy.port(), &token, &info, &archive).unwrap().ok();
        attic.assert_sound("team", &[path]);
    }

    fn an_upload_that_stalls_goes_on(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        let path = store.build(&expr::sized(300_000)).unwrap().remove(0);
        attic.create("team", Visibility::Private, &store);
        let token = attic.token(&Grant::push(&["team"]));
        let (info, archive) = described(&store, &path);
        let proxy = FlakyProxy::before(attic.port());
        for (after, served) in [(0, 1), (100_000, 2)] {
            proxy.fail(On::Every, Fault::StallAfter(after));
            std::thread::scope(|scope| {
                let sent = scope.spawn(|| upload(proxy.port(), &token, &info, &archive).unwrap());
                eventually("the stall", || proxy.faults() == served);
                assert!(!sent.is_finished());
                proxy.pass();
                attic.tolerate(Tolerated::Again);
                sent.join().unwrap().ok();
            });
        }
    }
}

#[test]
fn nix_reads_from_a_private_cache_with_a_password() {
    let Some(nix) = Nix::recent() else { return };
    let attic = AtticServer::fake();
    let folder = tempfile::tempdir().unwrap();
    let netrc = folder.path().join("netrc");
    let store = ScratchStore::with_settings(&nix, &format!("netrc-file = {}", netrc.display()));
    attic.create("team", Visibility::Private, &store);
    let token = attic.token(&Grant::all(&["team"]));
    let paths = store.build(&expr::many(1)).unwrap();
    let (info, archive) = described(&store, &paths[0]);
    upload(attic.port(), &token, &info, &archive).unwrap().ok();
    let (url, key) = (attic.substituter("team"), attic.public_key("team"));
    store.read_back(&url, &key, &paths).unwrap_err();
    crate::support::write_secret(&netrc, format!("machine 127.0.0.1 password {token}\n"));
    store.read_back(&url, &key, &paths).unwrap();
}

#[test]
fn the_fake_hashes_archives_without_keeping_them() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Public, &store);
    attic.as_fake().forget_archives();
    let token = attic.token(&Grant::push(&["team"]));
    let paths = store.build(&expr::sized(300_000)).unwrap();
    let (info, archive) = described(&store, &paths[0]);
    upload(attic.port(), &token, &info, &archive).unwrap().ok();
    assert_eq!((attic.as_fake().received(), attic.has_all("team", &paths)), (archive.len() as u64, true));
    assert_eq!(attic.url("team"), format!("attic+{}", attic.substituter("team")));
}

#[test]
fn the_fake_notes_what_the_facts_do_not_allow() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let token = attic.token(&Grant::push(&["team"]));
    let top = store.build(&expr::chain(3)).unwrap().remove(0);
    let chain = store.query_closure(&top);
    let (info, archive) = described(&store, &chain[0]);
    let changed = |key: &str, value: Value| {
        let mut info = info.clone();
        info[key] = value;
        info
    };
    let unfit = [
        changed("new", 1.into()),
        changed("cache", Value::Null),
        changed("store_path", base_name(&chain[0]).into()),
        changed("store_path_hash", "a".repeat(32).into()),
        changed("references", json!([chain[1]])),
        changed("references", json!([base_name(&chain[0]), base_name(&chain[0])])),
        changed("deriver", format!("{top}.drv").into()),
        changed("sigs", json!(["key:short"])),
        changed("ca", "sha256:1".into()),
        changed("nar_hash", format!("sha256:{}", "A".repeat(64)).into()),
        changed("nar_size", "8".into()),
        changed("nar_size", 7.into()),
        changed("sigs", vec![format!("key:{}A==", "a".repeat(85)); 50].into()),
    ];
    let violations = || std::mem::take(&mut attic.as_fake().state().violations);
    for info in &unfit {
        let question = Question::new(attic.port(), Method::PUT, "/_api/v1/upload-path").bearer(&token);
        let answer = question.header(NAR_INFO, &info.to_string()).body(archive.clone()).ask();
        // It may have gone on sending when the server had hung up already.
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400), "{info}");
        assert_eq!(violations().len(), 1, "{info}");
    }
    // Whole, and yet not to be shown.
    let (referrer, its_archive) = described(&store, &chain[2]);
    upload(attic.port(), &token, &referrer, &its_archive).unwrap().ok();
    assert!(violations()[0].contains("before its reference"));
    let (own, own_archive) = described(&store, &chain[1]);
    attic.add_upstream("team", &chain[0]);
    for times in [0, 1] {
        upload(attic.port(), &token, &own, &own_archive).unwrap().ok();
        assert_eq!(violations().len(), times);
    }
    upload(attic.port(), &token, &changed("nar_size", 800.into()), &archive).unwrap();
    assert!(violations()[0].contains("were sent for"));
    assert_eq!(attic.published("team"), [chain[2].clone(), chain[1].clone(), chain[1].clone()]);

    // Other requests.
    let ask = |json: &Value| attic.question(Method::POST, "/_api/v1/get-missing-paths").json(json).bearer(&token).ask();
    let hash = &base_name(&top)[..32];
    for wrong in [
        json!({ "cache": "team", "store_path_hashes": [] }),
        json!({ "cache": "team", "store_path_hashes": [hash, hash] }),
        json!({ "cache": "team", "store_path_hashes": [base_name(&top)] }),
        json!({ "cache": "team", "store_path_hashes": [hash], "more": 1 }),
    ] {
        assert_eq!((ask(&wrong).unwrap().status, violations().len()), (400, 1), "{wrong}");
    }
    attic.question(Method::GET, "/nonsense").ask().unwrap();
    let config = attic.question(Method::GET, "/_api/v1/cache-config/team");
    config.header("authorization", &format!("Token {token}")).ask().unwrap();
    assert_eq!(violations().len(), 2);
    assert_eq!(attic.requests(Kind::MissingPaths), 4);
}

#[test]
fn the_proxy_answers_by_itself() {
    let attic = AtticServer::fake();
    let proxy = FlakyProxy::before(attic.port());
    let ask = || Question::new(proxy.port(), Method::GET, "/_api/v1/cache-config/team").ask();
    let answers = [
        (Canned::too_many_requests(7), 429),
        (Canned::internal_error(), 500),
        (Canned::bad_gateway(), 502),
        (Canned::too_large(), 413),
        (Canned::unauthorized(), 401),
        (Canned::page(), 200),
        (Canned::json("{}"), 200),
        (Canned::redirect("http://elsewhere.invalid/"), 307),
    ];
    for (number, (canned, status)) in answers.into_iter().enumerate() {
        proxy.fail(On::Only(Kind::CacheConfig), Fault::Answer(canned));
        assert_eq!(ask().unwrap().status, status);
        assert_eq!(proxy.faults(), number as u64 + 1);
    }
    proxy.fail(On::Every, Fault::Reset);
    ask().unwrap_err();
    proxy.fail(On::Only(Kind::Upload), Fault::Reset);
    assert_eq!(ask().unwrap().status, 401);
    proxy.pass();
    assert_eq!((ask().unwrap().status, proxy.faults()), (401, 9));
    assert_eq!(attic.requests(Kind::CacheConfig), 2);
    let seen = proxy.seen();
    assert!(
        seen.len() == 11
            && seen.iter().all(|seen| seen.kind == Kind::CacheConfig && seen.header("authorization").is_empty())
    );
    assert!(seen.is_sorted_by_key(|seen| seen.at));
}

#[test]
fn certificates_are_what_they_are_said_to_be() {
    let attic = AtticServer::fake();
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let proxy = |certificate, clients| FlakyProxy::with_tls(attic.port(), authority.server(certificate, clients));
    let good = proxy(Certificate::Good, Clients::Anybody);
    assert!(good.url("team").starts_with("attic+https://127.0.0.1:"));
    handshake(&good, &authority.ca_file(), None).unwrap();
    let why = handshake(&good, &stranger.ca_file(), None).unwrap_err();
    assert!(why.contains("UnknownIssuer"), "{why}");
    let expired = proxy(Certificate::Expired, Clients::Anybody);
    let why = handshake(&expired, &authority.ca_file(), None).unwrap_err();
    assert!(why.contains("expired"), "{why}");
    let misnamed = proxy(Certificate::Misnamed, Clients::Anybody);
    let why = handshake(&misnamed, &authority.ca_file(), None).unwrap_err();
    assert!(why.contains("not valid for name"), "{why}");
    let closed = proxy(Certificate::Good, Clients::Certified);
    let why = handshake(&closed, &authority.ca_file(), None).unwrap_err();
    assert!(why.contains("CertificateRequired"), "{why}");
    eventually("the refusal", || closed.refused() == 1);
    let (certificate, key) = authority.client();
    handshake(&closed, &authority.ca_file(), Some((&certificate, &key))).unwrap();
}

/// What is said of a path to upload it to the cache `team`, and its archive, as Nix itself packs it.
fn described(store: &ScratchStore, path: &str) -> (Value, Vec<u8>) {
    let archive = store.command("nix-store").args(["--dump", path]).output().unwrap().stdout;
    let hash: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut references = store.query_references(path);
    references.sort();
    let deriver = Said::by(store.command("nix-store").args(["--query", "--deriver", path])).ok();
    let info = json!({
        "cache": "team",
        "store_path_hash": &base_name(path)[..32],
        "store_path": path,
        "references": references.iter().map(|path| base_name(path)).collect::<Vec<_>>(),
        "system": null,
        "deriver": base_name(deriver.trim()),
        "sigs": [],
        "ca": null,
        "nar_hash": format!("sha256:{hash}"),
        "nar_size": archive.len(),
    });
    (info, archive)
}

/// Uploads as storewatch should: the JSON in a header, or ahead of the body where it is long.
fn upload(port: u16, token: &str, info: &Value, archive: &[u8]) -> Result<Answer, String> {
    let question = Question::new(port, Method::PUT, "/_api/v1/upload-path").bearer(token);
    let json = info.to_string();
    if json.len() < 4096 {
        return question.header(NAR_INFO, &json).body(archive).ask();
    }
    question.header(PREAMBLE_SIZE, &json.len().to_string()).body([json.as_bytes(), archive].concat()).ask()
}

fn missing(attic: &AtticServer, token: &str, paths: &[String]) -> Answer {
    let hashes: Vec<_> = paths.iter().map(|path| &base_name(path)[..32]).collect();
    let question = json!({ "cache": "team", "store_path_hashes": hashes });
    attic.question(Method::POST, "/_api/v1/get-missing-paths").bearer(token).json(&question).ask().unwrap()
}

/// Does a TLS handshake, and reads a byte of an answer: who demands a client's certificate says so only then.
fn handshake(proxy: &FlakyProxy, ca_file: &Path, client: Option<(&Path, &Path)>) -> Result<(), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    };
    let port = proxy.port();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let exchange = async move {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream
            .write_all(b"GET /_api/v1/cache-config/team HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            .await?;
        stream.read_u8().await
    };
    runtime.block_on(exchange).map(drop).map_err(|error| format!("{error} {error:?}"))
}
