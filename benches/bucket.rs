//! A real Garage on this machine: a backfill of what is there already, a closure against `nix copy` into a directory that
//! `rclone` then copies into the bucket, and one path of 1 GiB against `zstd -3` piped into it.
//!
//! Everything runs on the same processors, Garage too, which is as it comes: built for release, with the database that it
//! takes by itself. The store paths hold this machine's own files, as in `closure`. The limit of the closure is a program
//! that packs and puts as many at once, and does nothing else: it asks for nothing, notes nothing, keeps no order.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[path = "common/filled.rs"]
mod filled;
#[path = "common/limit.rs"]
mod limit;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Random, Usage, machine::Machine, measured, median, mib, row, seconds, size};
use filled::{Content, fill};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, ObjectStoreExt};
use support::nix::skipped;
use support::s3::{BUCKET, Key};
use support::{Garage, Nix, ScratchStore, Storewatch, write_secret};

/// Uploads at once, on both sides.
const AT_ONCE: usize = 4;

/// Narinfos that are put at once to begin with.
const PUT_AT_ONCE: usize = 32;

/// Bytes of a narinfo that is put to measure: one with two references and a signature has about as many.
const NARINFO: usize = 600;

const THERE_WITHIN: Duration = Duration::from_secs(60);
const MEMORY: u64 = 128 << 20;

fn main() {
    let Some(nix) = Nix::recent() else { return };
    type Part = fn(&Nix, &Garage);
    let parts: [(&str, Part); 3] = [("there", there), ("closure", closure), ("large", large)];
    for part in common::wanted(parts) {
        let Some(garage) = Garage::start() else { return };
        part(&nix, &garage);
    }
}

/// A backfill of paths that are all in the bucket.
fn there(nix: &Nix, garage: &Garage) {
    let paths = size(100_000, 2_000);
    let store = ScratchStore::new(nix);
    let names = store.register_bare(paths);
    let began = Instant::now();
    put_narinfos(garage, &names);
    common::headline(&format!(
        "bucket: a backfill of {paths} paths that are there ({} to put them)",
        seconds(began.elapsed())
    ));
    let (usage, _) = backfill(&store, garage, ("", ""), paths, "already there");
    let goal = (usage.wall <= THERE_WITHIN, usage.peak <= MEMORY);
    row("backfill of what is there", &seconds(usage.wall), "60 s", None, Some(("<= 60 s", goal.0)));
    println!("{:>62} {} of CPU", "", seconds(usage.cpu));
    row("backfill of what is there: peak resident", &mib(usage.peak), "128 MiB", None, Some(("<= 128 MiB", goal.1)));
}

/// 2,000 small and 20 large paths.
fn closure(nix: &Nix, garage: &Garage) {
    let (small, large) = (size(2_000, 100), size(20, 1));
    let Some(older) = Nix::v2_8() else { return };
    let Some(rclone) = rclone() else { return };
    // Made by the older one, both can read it.
    let store = ScratchStore::new(&older);
    let paths = fill(&store, Content::Machine, small, large);
    let bytes = common::total(&store.store_dir()).0;
    let rounds = size(3, 1);
    common::headline(&format!(
        "bucket: {small} small and {large} large paths of {}, {rounds} rounds, medians",
        mib(bytes)
    ));
    let peers = [nix, &older].map(|nix| (format!("{}.{}", nix.version().0, nix.version().1), nix));
    let kinds = ["zstd", "auto"];
    let mut ours = kinds.map(|_| Vec::new());
    let mut theirs = peers.each_ref().map(|_| Vec::new());
    let mut limits = Vec::new();
    for round in 0..rounds {
        for (kind, usages) in kinds.iter().zip(&mut ours) {
            rustix::fs::sync();
            let (below, packed) = (format!("/{kind}-{round}"), format!("&compression={kind}"));
            let served = common::cpu(garage.pid());
            let (usage, sent) = backfill(&store, garage, (&below, &packed), small + large, "uploaded");
            let served = common::cpu(garage.pid()) - served;
            eprintln!(
                "round {round}, {kind}: {} ({} of CPU, Garage {}), {} sent",
                seconds(usage.wall),
                seconds(usage.cpu),
                seconds(served),
                mib(sent)
            );
            usages.push(usage);
        }
        for ((name, nix), usages) in peers.iter().zip(&mut theirs) {
            let usage = copied(&store, nix, &rclone, garage, &format!("nix-{name}-{round}"));
            eprintln!("round {round}, nix copy {name}: {} + rclone {}", seconds(usage.0), seconds(usage.1));
            usages.push(usage);
        }
        rustix::fs::sync();
        limits.push(bare(&paths, garage, &format!("bare-{round}")));
        eprintln!("round {round}, bare: {} ({} of CPU)", seconds(limits[round].wall), seconds(limits[round].cpu));
    }
    let limit = median(limits.iter().map(|usage| usage.wall).collect());
    for (kind, usages) in kinds.iter().zip(&ours) {
        let wall = median(usages.iter().map(|usage| usage.wall).collect());
        for ((name, _), theirs) in peers.iter().zip(&theirs) {
            let both: Duration = median(theirs.iter().map(|(copy, sent)| *copy + *sent).collect());
            let ratio = both.as_secs_f64() / wall.as_secs_f64();
            let against = format!("nix {name}, rclone: {}", seconds(both));
            let goal = Some((">= 2.00", ratio >= 2.0));
            row(&format!("closure into Garage, {kind}"), &seconds(wall), &against, Some(ratio), goal);
        }
        let ratio = limit.as_secs_f64() / wall.as_secs_f64();
        row("the limit: zstd -3 and bare PUTs", &seconds(wall), &seconds(limit), Some(ratio), None);
        let peak = usages.iter().map(|usage| usage.peak).max().unwrap_or_default();
        let goal = Some(("<= 128 MiB", peak <= MEMORY));
        row("closure into Garage: peak resident, worst round", &mib(peak), "128 MiB", None, goal);
    }
}

/// `nix copy` into a directory and `rclone` from there into the bucket, and how long each took.
fn copied(store: &ScratchStore, nix: &Nix, rclone: &Path, garage: &Garage, name: &str) -> (Duration, Duration) {
    rustix::fs::sync();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}?compression=zstd&parallel-compression=true", folder.path().display());
    let copy = measured(store.command_of(nix, "nix").args(["copy", "--all", "--to", &url]));
    let transfers = AT_ONCE.to_string();
    let sent = measured(
        remote(rclone, garage)
            .args(["copy", "--transfers", &transfers])
            .arg(folder.path())
            .arg(format!("garage:{BUCKET}/{name}")),
    );
    (copy.wall, sent.wall)
}

/// What can't be left out: each path packed, and put with its narinfo behind it.
fn bare(paths: &[PathBuf], garage: &Garage, folder: &str) -> Usage {
    let bucket = bucket(garage);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let put = |name: String, content: Vec<u8>| {
        runtime.block_on(bucket.put(&format!("{folder}/{name}").into(), content.into())).unwrap();
    };
    limit::at_once(paths, AT_ONCE, |path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        put(format!("nar/{name}.nar.zst"), limit::pack(path, Vec::new()));
        put(format!("{name}.narinfo"), vec![b'x'; NARINFO]);
    })
}

/// One path of 1 GiB.
fn large(nix: &Nix, garage: &Garage) {
    let bytes = size(1 << 30, 64 << 20) as u64;
    let Some(rclone) = rclone() else { return };
    let store = ScratchStore::new(nix);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    one_file(&file, bytes);
    let path = store.add(&file);
    common::headline(&format!("bucket: one path of {}", mib(bytes)));
    let storewatch = policy(&store, garage, ("", ""));
    rustix::fs::sync();
    let ours = measured(storewatch.command().env_remove("STOREWATCH_LOG").args(["push", &path]));
    rustix::fs::sync();
    let pipe = "zstd -3 -q -c \"$0\" | \"$1\" rcat \"$2\"";
    let mut piped = remote(Path::new("bash"), garage);
    piped.args(["-o", "pipefail", "-c", pipe]).arg(&file).arg(&rclone).arg(format!("garage:{BUCKET}/piped"));
    let theirs = measured(&mut piped);
    let ratio = theirs.wall.as_secs_f64() / ours.wall.as_secs_f64();
    let against = format!("zstd -3 | rclone rcat: {}", seconds(theirs.wall));
    row("1 GiB into Garage", &seconds(ours.wall), &against, Some(ratio), Some((">= 0.80", ratio >= 0.8)));
    println!("{:>62} {} of CPU, {} resident", "", seconds(ours.cpu), mib(ours.peak));
}

/// A file of this machine's files, one behind the other.
fn one_file(file: &Path, bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    Machine::look().copy_some(bytes, folder.path(), &mut Random(0x9e37_79b9_7f4a_7c15)).unwrap();
    let mut into = fs::File::create(file).unwrap();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort_unstable();
        for entry in entries {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                std::io::copy(&mut fs::File::open(entry).unwrap(), &mut into).unwrap();
            }
        }
    }
}

/// Below a folder of the bucket, with so many more parameters.
fn policy<'a>(store: &'a ScratchStore, garage: &Garage, (below, more): (&str, &str)) -> Storewatch<'a> {
    let storewatch = Storewatch::new(store);
    let folder = storewatch.state_dir().with_file_name("keys");
    fs::create_dir_all(&folder).unwrap();
    let Key { id, secret } = garage.key();
    write_secret(&folder.join("id"), id);
    write_secret(&folder.join("secret"), secret);
    storewatch.policy(&format!(
        "version = 1\n[limits]\npriority = \"normal\"\n[caches.bench]\nuploads = {AT_ONCE}\n\
         url = \"s3://{BUCKET}{below}?endpoint=http://127.0.0.1:{}&region=garage{more}\"\n\
         access_key_id = {{ file = \"{folder}/id\" }}\nsecret_access_key = {{ file = \"{folder}/secret\" }}\n",
        garage.port(),
        folder = folder.display()
    ));
    storewatch
}

/// A backfill by a storewatch that has never run before; so many paths have come to that end. How many bytes it has sent stands
/// beside.
fn backfill(store: &ScratchStore, garage: &Garage, place: (&str, &str), expected: usize, end: &str) -> (Usage, u64) {
    let storewatch = policy(store, garage, place);
    let usage = measured(storewatch.command().env_remove("STOREWATCH_LOG").arg("backfill"));
    let status = storewatch.cache_status("bench");
    assert_eq!(status["done"], expected, "backfill left something out that should be {end}");
    (usage, status["bytes_sent"].as_u64().unwrap_or_default())
}

/// rclone, which `tests/setup/rclone` provides.
fn rclone() -> Option<PathBuf> {
    let program = std::env::var_os("RCLONE").map(PathBuf::from).filter(|program| program.exists());
    if program.is_none() {
        skipped("no RCLONE, which names the program; `tests/setup/rclone` provides it");
    }
    program
}

/// A command that finds the bucket's server under the name `garage`.
fn remote(program: &Path, garage: &Garage) -> Command {
    let mut command = Command::new(program);
    for (name, value) in [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("REGION", "garage"),
        ("ACCESS_KEY_ID", &garage.key().id),
        ("SECRET_ACCESS_KEY", &garage.key().secret),
        ("ENDPOINT", &format!("http://127.0.0.1:{}", garage.port())),
    ] {
        command.env(format!("RCLONE_CONFIG_GARAGE_{name}"), value);
    }
    // Of this host's own settings for S3 none counts; rclone does not start with that one.
    command.env("RCLONE_CONFIG", "/dev/null").env_remove("AWS_CA_BUNDLE");
    command
}

/// The bucket, without anything of storewatch's.
fn bucket(garage: &Garage) -> AmazonS3 {
    // The client is built without a provider of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    AmazonS3Builder::new()
        .with_http_connector(Plain(reqwest::Client::builder().no_proxy().build().unwrap()))
        .with_endpoint(format!("http://127.0.0.1:{}", garage.port()))
        .with_allow_http(true)
        .with_unsigned_payload(true)
        .with_bucket_name(BUCKET)
        .with_region("garage")
        .with_access_key_id(&garage.key().id)
        .with_secret_access_key(&garage.key().secret)
        .build()
        .unwrap()
}

/// Puts a narinfo of each path into the bucket. Nobody reads what is in it.
fn put_narinfos(garage: &Garage, names: &[String]) {
    let store = bucket(garage);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut putting = tokio::task::JoinSet::new();
        for name in names {
            if putting.len() == PUT_AT_ONCE {
                putting.join_next().await.unwrap().unwrap();
            }
            let (store, object) = (store.clone(), format!("{}.narinfo", &name[..32]));
            putting.spawn(async move { drop(store.put(&object.into(), "StorePath: there\n".into()).await.unwrap()) });
        }
        putting.join_all().await;
    });
}

/// The library's way to a server, without anything of storewatch's.
#[derive(Clone, Debug)]
struct Plain(reqwest::Client);

impl HttpConnector for Plain {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Plain {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        use http_body_util::BodyExt;
        let failed = |error: reqwest::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let (parts, body) = request.into_parts();
        let content = body.collect().await?.to_bytes();
        let mut request = self.0.request(parts.method, parts.uri.to_string()).body(content).build().map_err(failed)?;
        *request.headers_mut() = parts.headers;
        let answer = self.0.execute(request).await.map_err(failed)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut bare = http::Response::new(HttpResponseBody::from(answer.bytes().await.map_err(failed)?));
        (*bare.status_mut(), *bare.headers_mut()) = (status, headers);
        Ok(bare)
    }
}
