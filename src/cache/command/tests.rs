use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::cache::{CallOff, Class, Contents, NarFailure, NarStream, StoredNar};
use crate::limit::{Lane, Slots};
use crate::nix::nar::registered;
use crate::nix::{NarHash, PathInfo};

const LONG: Duration = Duration::from_secs(600);

/// A cache that remembers nothing.
struct Nothing;

impl Contents for Nothing {
    fn recall(&self, _: NarHash) -> BoxFuture<'_, Option<StoredNar>> {
        Box::pin(async { None })
    }

    fn remember(&self, _: NarHash, _: &StoredNar) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A folder with a path that Nix has registered, for programs to work in.
struct Host {
    dir: TempDir,
    info: PathInfo,
    nar: Vec<u8>,
    slots: Slots,
}

impl Host {
    /// The path is a file of so many bytes.
    fn new(bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("0123456789abcdfghijklmnpqrsvwxyz-a");
        let (info, nar) = registered(&file, bytes);
        let info = PathInfo { references: Some(vec![info.path.clone()]), sigs: vec!["key-1:c2ln".to_owned()], ..info };
        Self { dir, info, nar, slots: Slots::new(1) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell that is given a script, and this folder as `$0`.
    fn options(&self, script: &str, gives: Gives) -> CommandOptions {
        CommandOptions {
            name: "team".to_owned(),
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".to_owned(), script.to_owned(), self.dir.path().display().to_string()],
            gives,
            answers_missing: true,
            timeout: LONG,
            pass_environment: Vec::new(),
            store_dir: StoreDir::default(),
            real_store: self.dir.path().to_owned(),
        }
    }

    async fn push_with(&self, options: CommandOptions) -> Result<Pushed, CacheError> {
        let file = self.path(self.info.path.base_name());
        let nar = NarStream::new(file, &self.info, Lane::Fresh, self.slots.clone(), CallOff::default());
        let push = Push {
            info: self.info.clone(),
            nar,
            arrivals: Box::pin(async { Ok(()) }),
            go_ahead: Box::pin(async { Ok(()) }),
            contents: Arc::new(Nothing),
            anew: false,
        };
        Arc::new(CommandCache { options }).push(push).await
    }

    async fn push(&self, script: &str, gives: Gives) -> Result<Pushed, CacheError> {
        self.push_with(self.options(script, gives)).await
    }

    /// A pipe by which it can be seen whether anybody holds it still.
    fn pipe(&self) -> PathBuf {
        let pipe = self.path("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("run").success());
        pipe
    }
}

/// Waits until nobody has the pipe open for writing.
async fn closed(pipe: &Path) {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = fs::OpenOptions::new().read(true).custom_flags(flags).open(pipe).expect("a pipe");
    // Nothing is written into it: an end means that there are no writers, an error that there are.
    while pipe.read(&mut [0]).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn class(pushed: Result<Pushed, CacheError>) -> Class {
    pushed.expect_err("it didn't take the path").class()
}

#[tokio::test]
async fn what_becomes_of_a_path_is_what_the_program_says() {
    // More than a pipe holds, so that a program that doesn't read it leaves some of it.
    let host = Host::new(1 << 20);
    let sent = |sent, deduplicated| Ok(Pushed { read: host.info.nar_size, sent, deduplicated });
    let later = |seconds| Err(Class::Throttled { after: Duration::from_secs(seconds) });
    for gives in [Gives::Path, Gives::Nar] {
        for (script, expected) in [
            ("exit 0", sent(host.info.nar_size, false)),
            ("cat > /dev/null; echo done", sent(host.info.nar_size, false)),
            (r#"echo {no; echo '{"kind":"uploaded","sent":7}'; echo"#, sent(7, false)),
            (r#"echo '{"kind":"already-there"}'"#, sent(0, true)),
            (r#"echo '{"kind":"refused","reason":"no"}'"#, Err(Class::Permanent)),
            (r#"echo '{"kind":"retry"}'"#, Err(Class::Transient)),
            (r#"echo '{"kind":"retry","retry_after":30}'; exit 1"#, later(30)),
            (r#"echo '{"kind":"retry","retry_after":999999}'"#, later(3600)),
            (r#"echo '{"kind":"uploaded"}'; exit 1"#, Err(Class::Doubtful)),
            (r#"echo '{"kind":"eaten"}'"#, Err(Class::Doubtful)),
            (r#"echo '{"sent":9223372036854775807}'"#, Err(Class::Doubtful)),
            ("exit 65", Err(Class::Permanent)),
            ("exit 69", Err(Class::Unavailable)),
            ("exit 75", Err(Class::Transient)),
            (r#"echo '{"retry_after":2}'; exit 75"#, later(2)),
            ("exit 77", Err(Class::Credentials)),
            ("exit 78", Err(Class::CacheWaits)),
            ("no-such-program-anywhere", Err(Class::CacheWaits)),
            ("exit 1", Err(Class::Doubtful)),
            ("kill -9 $$", Err(Class::Doubtful)),
            ("exec yes", Err(Class::Doubtful)),
            ("trap '' PIPE; while :; do echo yes || :; done 2> /dev/null", Err(Class::Doubtful)),
        ] {
            let pushed = host.push(script, gives).await;
            assert_eq!(pushed.map_err(|error| error.class()), expected, "{gives:?}: {script}");
        }
    }
}

#[tokio::test]
async fn a_program_is_told_what_the_path_is_and_given_its_archive() {
    let host = Host::new(1 << 20);
    let script = "read -r line; printf '%s' \"$line\" > $0/line; cat > $0/nar";
    host.push(script, Gives::Nar).await.expect("taken");
    assert!(fs::read(host.path("nar")).expect("written") == host.nar);
    let line: serde_json::Value = serde_json::from_slice(&fs::read(host.path("line")).expect("written")).expect("JSON");
    let full = format!("/nix/store/{}", host.info.path);
    let expected = serde_json::json!({
        "version": 1,
        "action": "push",
        "cache": "team",
        "gives": "nar",
        "store_path": full,
        "real_path": host.path(host.info.path.base_name()),
        "nar_hash": host.info.nar_hash.to_string(),
        "nar_size": host.nar.len(),
        "references": [full],
        "deriver": null,
        "signatures": ["key-1:c2ln"],
        "ca": null,
    });
    assert_eq!(line, expected);
    host.push("cat > $0/path", Gives::Path).await.expect("taken");
    let line = fs::read_to_string(host.path("path")).expect("written");
    assert!(line.ends_with("}\n") && line.contains("\"gives\":\"path\""), "{line}");
}

#[tokio::test]
async fn an_altered_path_never_reaches_a_program_whole() {
    for bytes in [10, 4 << 20] {
        let host = Host::new(bytes);
        fs::write(host.path(host.info.path.base_name()), vec![8; bytes]).expect("written");
        let pipe = host.pipe();
        let script = "exec 3<>$0/pipe; touch $0/begun; read -r line; cat > $0/nar; touch $0/ended";
        for gives in [Gives::Path, Gives::Nar] {
            let failed = host.push(script, gives).await.expect_err("altered");
            assert!(matches!(failed, CacheError::Nar(NarFailure::Altered { .. })), "{failed}");
            assert!(gives == Gives::Nar || !host.path("begun").exists(), "it was run for an altered path");
            closed(&pipe).await;
            assert!(!host.path("ended").exists(), "it saw an end");
            assert!(fs::metadata(host.path("nar")).map_or(0, |nar| nar.len()) < host.info.nar_size);
        }
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let host = Host::new(1 << 20);
    let pipe = host.pipe();
    let options = CommandOptions {
        timeout: Duration::from_secs(1),
        ..host.options("exec 3<>$0/pipe; sleep 1000 & sleep 1000", Gives::Nar)
    };
    let error = host.push_with(options).await.expect_err("too long");
    assert!(matches!(error, CacheError::Command(CommandError::TimedOut { .. })), "{error}");
    closed(&pipe).await;
}

#[tokio::test]
async fn a_program_whose_upload_is_called_off_is_killed_and_its_slot_is_free() {
    let host = Arc::new(Host::new(1 << 20));
    let pipe = host.pipe();
    let pushing = tokio::spawn({
        let host = Arc::clone(&host);
        async move {
            host.push("exec 3>$0/pipe; sleep 1000 & cat > /dev/null; touch $0/whole; sleep 1000", Gives::Nar).await
        }
    });
    // Opening it waits until the program has it, too.
    let opened = spawn_blocking({
        let pipe = pipe.clone();
        move || fs::File::open(pipe)
    });
    let held = opened.await.expect("no panic").expect("a pipe");
    pushing.abort();
    assert!(pushing.await.is_err_and(|ended| ended.is_cancelled()));
    closed(&pipe).await;
    drop(held);
    drop(host.slots.acquire(Lane::Fresh, true).await);
}

#[tokio::test]
async fn what_a_program_leaves_in_the_background_is_not_waited_for() {
    let host = Host::new(1 << 20);
    let pipe = host.pipe();
    let script = "{ exec 3<>$0/pipe; read -r line <&3; } & echo '{\"kind\":\"uploaded\",\"sent\":3}'";
    assert_eq!(host.push(script, Gives::Nar).await.expect("taken").sent, 3);
    fs::write(&pipe, "end\n").expect("written");
    closed(&pipe).await;
}

#[tokio::test]
async fn what_can_not_be_run_is_found_before_it_is() {
    let host = Host::new(10);
    let script = host.path("script");
    let with = |program: &Path| CommandOptions { program: program.to_owned(), ..host.options("", Gives::Path) };
    let open = async |program: &Path| CommandCache::open(with(program)).await.err().map(|error| error.to_string());
    let mode = |mode| fs::set_permissions(&script, fs::Permissions::from_mode(mode)).expect("changed");
    assert!(open(&script).await.is_some_and(|error| error.contains("No such file")));
    fs::write(&script, "#!/no/such/interpreter\n").expect("written");
    mode(0o644);
    assert!(open(&script).await.is_some_and(|error| error.contains("not executable")));
    mode(0o777);
    assert!(open(&script).await.is_some_and(|error| error.contains("everybody on this host can write to it")));
    mode(0o755);
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    assert!(open(&script).await.is_some_and(|error| error.contains("can put another file in its place")));
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o700)).expect("changed");
    mode(0o777);
    assert!(open(host.dir.path()).await.is_some_and(|error| error.contains("no file")));
    let trial = try_out(&with(&script)).await;
    assert!(!trial.went_well() && trial.writes == Some(false));
    mode(0o755);
    assert_eq!(open(&script).await, None);
    assert!(try_out(&with(&script)).await.went_well());
    assert_eq!(class(host.push_with(with(&script)).await), Class::CacheWaits, "its interpreter isn't there");
    fs::write(&script, "neither this nor that").expect("written");
    assert_eq!(class(host.push_with(with(&script)).await), Class::CacheWaits, "it is no program");
}

#[tokio::test]
async fn nobody_else_can_change_the_way_to_a_program() {
    let host = Host::new(10);
    let folder = |name: &str, mode: u32| {
        let folder = host.path(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("changed");
        folder
    };
    let write = |program: &Path| {
        fs::write(program, "#!/bin/sh\n").expect("written");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("changed");
    };
    let link = |target: &Path, link: &Path| std::os::unix::fs::symlink(target, link).expect("a link");
    let with = |program: &Path| CommandOptions { program: program.to_owned(), ..host.options("", Gives::Path) };
    let open = async |program: &Path| CommandCache::open(with(program)).await.err().map(|error| error.to_string());

    let shared = folder("shared", 0o755);
    let program = folder("shared/tools", 0o755).join("program");
    write(&program);
    let (well, far) = (folder("well", 0o755), folder("far", 0o755));
    link(&far.join("middle"), &well.join("by-links"));
    link(Path::new("../shared/./tools/../tools/program"), &far.join("middle"));
    let by_links = well.join("by-links");
    for way in [&program, &by_links] {
        assert_eq!(open(way).await, None);
        host.push_with(with(way)).await.expect("taken");
    }

    // A folder above its own, or one with a link on the way in it.
    for (open_to_all, ways) in [(&shared, [&program, &by_links]), (&far, [&by_links, &by_links])] {
        fs::set_permissions(open_to_all, fs::Permissions::from_mode(0o777)).expect("changed");
        for way in ways {
            let refused = open(way).await.expect("refused");
            let place = format!("can put another file in its place, in {}", open_to_all.display());
            assert!(refused.ends_with(&place), "{}: {refused}", way.display());
            // A cache that was opened before that has looked at it, too.
            assert_eq!(class(host.push_with(with(way)).await), Class::CacheWaits, "{}", way.display());
        }
        fs::set_permissions(open_to_all, fs::Permissions::from_mode(0o755)).expect("changed");
    }

    let circle = well.join("circle");
    link(&circle, &circle);
    assert!(open(&circle).await.is_some());

    // There each may only replace what is his own.
    let sticky = folder("sticky", 0o1777);
    link(&program, &sticky.join("link"));
    assert_eq!(open(&sticky.join("link")).await, None);
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a link to another user");
        return;
    }
    std::os::unix::fs::lchown(sticky.join("link"), Some(65534), None).expect("given away");
    let refused = open(&sticky.join("link")).await.expect("another's");
    assert!(refused.contains("another user, whose it is, can let the link"), "{refused}");
}

#[tokio::test]
async fn what_it_said_is_shown() {
    let host = Host::new(10);
    let error = host.push("echo 'no room\nleft' >&2; exit 75", Gives::Path).await.expect_err("later");
    assert_eq!(error.to_string(), "/bin/sh wants to be asked again later (exit status: 75): no room left");
    let said = r#"echo said >&2; echo '{"reason":"its own  words"}'; exit 65"#;
    let error = host.push(said, Gives::Path).await.expect_err("refused");
    assert_eq!(error.to_string(), "/bin/sh refused the path (exit status: 65): its own words");

    // What it was handed on by name may be a secret. cargo sets this one for tests.
    let name = "CARGO_MANIFEST_DIR";
    let value = std::env::var(name).expect("set by cargo");
    let says = |how: &str| CommandOptions {
        pass_environment: vec![name.to_owned()],
        ..host.options(&how.replace("VALUE", &format!("${name}")), Gives::Path)
    };
    for how in ["echo sent VALUE >&2; exit 75", "echo '{\"reason\":\"sent '\"VALUE\"'\"}'; exit 75"] {
        let error = host.push_with(says(how)).await.expect_err("later").to_string();
        assert!(error.ends_with("(exit status: 75): sent [secret]") && !error.contains(&value), "{how}: {error}");
    }
    for how in ["echo '{\"kind\":\"'\"VALUE\"'\"}'", "echo '{\"sent\":\"'\"VALUE\"'\"}'"] {
        let error = host.push_with(says(how)).await.expect_err("not understood").to_string();
        assert!(
            error.contains("says what is not understood: `kind`, `sent`") && !error.contains(&value),
            "{how}: {error}"
        );
    }
}

#[tokio::test]
async fn its_environment_is_what_it_needs() {
    let host = Host::new(10);
    let script = "env > $0/env; cat > /dev/null";
    host.push(script, Gives::Path).await.expect("taken");
    let env = fs::read_to_string(host.path("env")).expect("written");
    // cargo sets it for tests.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !env.contains("CARGO_MANIFEST_DIR"), "{env}");
    assert!(env.contains("\nPATH=") || env.starts_with("PATH="), "{env}");
    assert!(env.contains("STOREWATCH_CACHE=team") && env.contains("STOREWATCH_GIVES=path"), "{env}");
    let passed =
        CommandOptions { pass_environment: vec!["CARGO_MANIFEST_DIR".to_owned()], ..host.options(script, Gives::Path) };
    host.push_with(passed).await.expect("taken");
    assert!(fs::read_to_string(host.path("env")).expect("written").contains("CARGO_MANIFEST_DIR="));
}

#[tokio::test]
async fn it_says_what_is_missing() {
    let host = Host::new(10);
    let path = |name: &str| {
        StorePath::from_base_name(&format!("0123456789abcdfghijklmnpqrsvwxyz-{name}")).expect("a legal name")
    };
    let asked = [path("a"), path("b"), path("c")];
    let ask = async |script: &str| {
        let cache = CommandCache { options: host.options(script, Gives::Path) };
        cache.missing(&asked).await
    };
    let script = format!("cat > $0/question; echo '{{\"missing\":[\"/nix/store/{}\",\"{}\"]}}'", asked[2], asked[0]);
    assert_eq!(ask(&script).await.expect("answered"), [path("a"), path("c")]);
    let question = fs::read_to_string(host.path("question")).expect("written");
    assert!(question.starts_with(r#"{"version":1,"action":"missing","cache":"team","store_paths":["/nix/store/0123"#));
    for (script, expected) in [
        // However it fails, it's no fault of a path that it was asked about.
        ("exit 0", Class::Unavailable),
        ("exit 1", Class::Unavailable),
        ("exit 65", Class::Unavailable),
        ("exit 75", Class::Unavailable),
        (r#"echo '{"missing":["/nix/store/x"]}'"#, Class::Unavailable),
        ("exit 77", Class::Credentials),
        ("exit 78", Class::CacheWaits),
    ] {
        assert_eq!(ask(script).await.expect_err("no answer").class(), expected, "{script}");
    }
    let silent = CommandOptions { answers_missing: false, ..host.options("exit 1", Gives::Path) };
    let silent = CommandCache { options: silent };
    assert_eq!(silent.missing(&asked).await.expect("not asked"), asked);
    assert!(!silent.knows_what_it_has());
}
