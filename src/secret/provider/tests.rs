use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;

/// A folder, a store in it, and a process that sees both.
struct Host {
    dir: TempDir,
    env: HashMap<String, OsString>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("store")).expect("created");
        Self { dir, env: HashMap::new() }
    }

    fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new file of that mode; one that is there is replaced, as careful programs do.
    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&new, text).expect("written");
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("changed");
        fs::rename(&new, &path).expect("renamed");
        path
    }

    fn provider(&self, source: Source) -> Provider {
        self.provider_of(source, Form::OneLine)
    }

    fn provider_of(&self, source: Source, form: Form) -> Provider {
        let env = self.env.clone();
        let place = Place {
            real_store: self.path("store"),
            host: Some("cache.example.com".to_owned()),
            root: false,
            env: Arc::new(move |name| env.get(name).cloned()),
        };
        Provider(Arc::new(Inner { source, form, place, kept: Mutex::new(None), reading: Mutex::new(None) }))
    }

    /// By the program, since rustix makes none on macOS.
    fn pipe(&self) -> PathBuf {
        let path = self.path("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("run").success());
        path
    }

    /// A shell script, which finds the folder as `$0`.
    fn script(&self, script: &str, timeout: u64) -> Source {
        let argv = ["/bin/sh", "-c", script, &self.dir.path().display().to_string()].map(str::to_owned).to_vec();
        Source::Command { argv, timeout: Duration::from_secs(timeout), lifetime: Duration::from_secs(600) }
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }
}

/// More than any test takes.
const LONG: u64 = 300;

fn text(secret: Result<Secret, SecretError>) -> String {
    secret.expect("a secret").expose().to_owned()
}

fn later(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// What an error comes to for people, all causes and `Debug` included.
fn shown(error: &SecretError) -> String {
    format!("{} {error:?}", crate::report::one_line(error))
}

#[tokio::test]
async fn a_new_file_is_in_use_after_two_seconds() {
    let host = Host::new();
    let provider = host.provider(Source::file(host.path("token")));
    let none = provider.fingerprint().await;
    assert!(matches!(provider.get().await, Err(SecretError::Missing { .. })));
    host.write("token", "first\n", 0o600);
    // Neither a failure nor a secret is kept for longer.
    assert_eq!(text(provider.get_at(later(2)).await), "first");
    let first = provider.fingerprint().await;
    assert!(none != first, "a token has come");
    host.write("token", "second", 0o400);
    let other = host.provider(Source::file(host.path("token")));
    assert!(other.fingerprint().await != first, "another token");
    assert_eq!(text(provider.get_at(later(4)).await), "second");
    assert!(other.fingerprint().await == provider.fingerprint().await, "the same token");
    assert_eq!(format!("{first:?} {other:?} {:?}", other.get().await.expect("a secret")).matches("second").count(), 0);
}

#[tokio::test]
async fn a_link_may_be_swapped_anywhere_in_the_path() {
    let host = Host::new();
    for generation in ["1", "2"] {
        host.write(&format!("secrets.d/{generation}/token"), generation, 0o600);
    }
    symlink(host.path("secrets.d/1"), host.path("secrets")).expect("a link");
    let provider = host.provider(Source::file(host.path("secrets/token")));
    assert_eq!(text(provider.get().await), "1");
    symlink(host.path("secrets.d/2"), host.path("swapped")).expect("a link");
    fs::rename(host.path("swapped"), host.path("secrets")).expect("swapped");
    fs::remove_dir_all(host.path("secrets.d/1")).expect("removed");
    assert_eq!(text(provider.get_at(later(2)).await), "2");
}

#[tokio::test]
async fn nothing_comes_from_the_store() {
    let host = Host::new();
    let inside = host.write("store/abc-token", "s3cret", 0o600);
    symlink(&inside, host.path("link")).expect("a link");
    symlink(host.path("store"), host.path("other-name")).expect("a link");
    for path in [inside, host.path("link"), host.path("other-name/abc-token")] {
        for readable_by_others in [false, true] {
            let provider =
                host.provider(Source::File { path: path.clone(), readable_by_others: Some(readable_by_others) });
            let error = provider.get().await.expect_err("in the store");
            assert!(matches!(error, SecretError::InStore { .. }), "{error}");
        }
    }
    // Also where the store's own directory is a link.
    let outside = host.write("real/abc-token", "s3cret", 0o600);
    fs::remove_file(host.path("store/abc-token")).and_then(|()| fs::remove_dir(host.path("store"))).expect("removed");
    symlink(host.path("real"), host.path("store")).expect("a link");
    let error = host.provider(Source::file(outside)).get().await.expect_err("in the store");
    assert!(matches!(error, SecretError::InStore { .. }), "{error}");
}

#[tokio::test]
async fn what_others_can_read_is_taken_only_where_that_is_meant() {
    let host = Host::new();
    let path = host.write("token", "s3cret", 0o644);
    let error = host.provider(Source::file(&path)).get().await.expect_err("readable by others");
    assert!(shown(&error).contains("readable_by_others = true") && !shown(&error).contains("s3cret"), "{error}");
    let nowhere_said = host.provider(Source::owners_file(&path)).get().await.expect_err("readable by others");
    let chmod = format!("run `chmod 600 {}`", path.display());
    assert!(nowhere_said.to_string().ends_with(&chmod), "the policy has no place for more: {nowhere_said}");
    let provider = host.provider(Source::File { path, readable_by_others: Some(true) });
    assert_eq!(text(provider.get().await), "s3cret");
    // A pipe is no file, and nobody waits for who might write into it.
    let pipe = host.pipe();
    let error = host.provider(Source::file(pipe)).get().await.expect_err("no file");
    assert!(matches!(error, SecretError::NoFile { .. }), "{error}");
}

#[tokio::test]
async fn environment_and_credentials() {
    let host = Host::new();
    let env = |host: &Host| host.provider(Source::Env { name: "TOKEN".to_owned() });
    assert!(matches!(env(&host).get().await, Err(SecretError::NoVariable { .. })));
    let credential = |host: &Host, name: &str| host.provider(Source::Credential { name: name.to_owned() });
    let error = credential(&host, "token").get().await.expect_err("no credentials");
    assert!(error.to_string().contains("LoadCredential=token:"), "{error}");

    let folder = host.path("credentials");
    let host = host.with("TOKEN", "s3cret ").with("CREDENTIALS_DIRECTORY", folder);
    assert_eq!(text(env(&host).get().await), "s3cret");
    // The mode that systemd's access list makes.
    let error = credential(&host, "token").get().await.expect_err("not among them");
    assert!(error.to_string().contains("write `LoadCredential=token:/FILE`") && error.hint().is_none(), "{error}");
    host.write("credentials/token", "s3cret\n", 0o440);
    assert_eq!(text(credential(&host, "token").get().await), "s3cret");
    host.write("credentials/token", "s3cret\n", 0o444);
    assert!(matches!(credential(&host, "token").get().await, Err(SecretError::Readable { .. })));
    host.write("elsewhere", "s3cret", 0o600);
    for name in ["", "..", "../elsewhere"] {
        assert!(matches!(credential(&host, name).get().await, Err(SecretError::BadCredentialName { .. })), "{name}");
    }
    let host = Host::new().with("TOKEN", "");
    assert_eq!(
        env(&host).get().await.expect_err("empty").to_string(),
        "the environment variable TOKEN gives no secret: it is empty"
    );
}

#[tokio::test]
async fn netrc_files() {
    let host = Host::new();
    let netrc = |path: Option<PathBuf>| Source::Netrc { path, readable_by_others: false };
    assert!(matches!(host.provider(netrc(None)).get().await, Err(SecretError::NoNetrc)));
    let own = host.write("home/.netrc", "machine cache.example.com password own\n", 0o600);
    let named = host.write("named", "machine cache.example.com login me password named\n", 0o600);
    let host = host.with("HOME", own.parent().expect("a folder"));
    assert_eq!(text(host.provider(netrc(None)).get().await), "own");
    let host = host.with("NETRC", &named);
    assert_eq!(text(host.provider(netrc(None)).get().await), "named");
    assert_eq!(text(host.provider_of(netrc(None), Form::Login).get().await), "me:named");
    assert_eq!(text(host.provider_of(netrc(Some(own.clone())), Form::Login).get().await), ":own");
    assert_eq!(text(host.provider(netrc(Some(own))).get().await), "own");
    let others = host.write("others", "machine example.org password s3cret\n", 0o600);
    let error = host.provider(netrc(Some(others))).get().await.expect_err("not there");
    assert!(matches!(error, SecretError::NotInNetrc { .. }) && !shown(&error).contains("s3cret"), "{error}");
    let open = host.write("open", "machine cache.example.com password s3cret\n", 0o644);
    let error = host.provider(netrc(Some(open.clone()))).get().await.expect_err("readable by others");
    assert!(matches!(error, SecretError::Readable { .. }) && !shown(&error).contains("s3cret"), "{error}");
    let meant = Source::Netrc { path: Some(open), readable_by_others: true };
    assert_eq!(text(host.provider(meant).get().await), "s3cret");
}

#[tokio::test]
async fn a_command_runs_once_in_its_lifetime_whoever_asks() {
    let host = Host::new();
    host.write("answer", "first", 0o600);
    let provider = host.provider(host.script("echo >> $0/runs; cat $0/answer", LONG));
    let asked: Vec<_> =
        (0..8).map(|_| provider.clone()).map(|it| tokio::spawn(async move { it.get().await })).collect();
    for answer in asked {
        assert_eq!(text(answer.await.expect("no panic")), "first");
    }
    host.write("answer", "second", 0o600);
    let before = provider.fingerprint().await;
    let first = provider.get_at(later(100)).await.expect("kept");
    assert_eq!((first.expose(), host.runs()), ("first", 1));

    // Refused twice, as requests at the same time are: one run does for both.
    provider.refresh(&first).await;
    assert!(before != provider.fingerprint().await);
    provider.refresh(&first).await;
    assert_eq!((text(provider.get().await).as_str(), host.runs()), ("second", 2));
    assert_eq!((text(provider.get_at(later(1000)).await).as_str(), host.runs()), ("second", 3));
}

#[tokio::test]
async fn what_a_command_says_when_it_fails_is_not_shown() {
    let host = Host::new();
    let failure = async |script| host.provider(host.script(script, LONG)).get().await.expect_err("a failure");
    let expected = "/bin/sh failed (exit status: 3); what it said may have the secret in it and is not kept: run it by \
                    hand, as the service's user, to see that";
    for script in [
        "echo >> $0/runs; exit 3",
        "echo s3cret-token >&2; exit 3",
        "echo s3cret-token; echo got s3cret-token but >&2; exit 3",
        "set -x; echo s3cret-token; exit 3",
        "i=0; while [ $i -lt 3000 ]; do echo s3cret $i >&2; i=$((i+1)); done; exit 3",
    ] {
        let error = failure(script).await;
        assert_eq!(error.to_string(), expected, "{script}");
        assert!(!shown(&error).contains("s3cret"));
    }
    // A failure isn't kept as long as an answer is.
    let provider = host.provider(host.script("echo >> $0/runs; exit 1", LONG));
    let before = host.runs();
    assert!(provider.get().await.is_err() && provider.get_at(later(2)).await.is_err());
    assert_eq!(host.runs(), before + 2);
}

#[tokio::test]
async fn what_a_command_writes_is_no_secret_whatever_it_is() {
    let host = Host::new();
    let failure = async |script| host.provider(host.script(script, LONG)).get().await.expect_err("a failure");
    assert_eq!(failure("true").await.to_string(), "the command /bin/sh gives no secret: it is empty");
    for (script, expected) in [
        ("printf 's3cret\\377'", NoText::NotUtf8),
        ("printf 's3cret\\nother'", NoText::Control),
        ("while :; do echo s3cret; done", NoText::TooLong),
    ] {
        let error = failure(script).await;
        assert!(matches!(error, SecretError::NoText { problem, .. } if problem == expected), "{error}");
        assert!(!shown(&error).contains("s3cret"));
    }
    let source = Source::Command {
        argv: vec!["/nowhere/s".to_owned(), "s3cret".to_owned()],
        timeout: Duration::from_secs(LONG),
        lifetime: Duration::from_secs(LONG),
    };
    let error = host.provider(source.clone()).get().await.expect_err("no such program");
    assert!(shown(&error).starts_with("start /nowhere/s: No such file"), "{error}");
    assert!(!format!("{} {source} {source:?} {:?}", shown(&error), host.provider(source.clone())).contains("s3cret"));
}

/// Comes to an end when no process has that pipe open for writing any longer.
async fn closed(pipe: &Path) {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = fs::OpenOptions::new().read(true).custom_flags(flags).open(pipe).expect("a pipe");
    // Nothing is written into it: an end means that there are no writers, an error that there are.
    while pipe.read(&mut [0]).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let host = Host::new();
    let pipe = host.pipe();
    // Opened for both, so that it doesn't wait for a reader, and held by both processes.
    let hangs = "exec 3<>$0/pipe; sleep 1000 & echo s3cret; sleep 1000";
    let error = host.provider(host.script(hangs, 1)).get().await.expect_err("too long");
    assert!(matches!(&error, SecretError::TimedOut { program, .. } if program == "/bin/sh"), "{error}");
    assert!(!shown(&error).contains("s3cret"));
    closed(&pipe).await;
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_longer_is_killed() {
    let host = Host::new();
    let pipe = host.pipe();
    let provider = host.provider(host.script("exec 3>$0/pipe; sleep 1000 & echo s3cret; sleep 1000", LONG));
    let asked = tokio::spawn({
        let provider = provider.clone();
        async move { provider.get().await }
    });
    // Opening it waits until the command has it, too.
    let opened = spawn_blocking({
        let pipe = pipe.clone();
        move || fs::File::open(pipe)
    })
    .await;
    let held = opened.expect("no panic").expect("a pipe");
    asked.abort();
    assert!(asked.await.is_err_and(|ended| ended.is_cancelled()));
    closed(&pipe).await;
    drop(held);
    // Who asks next isn't kept waiting for it.
    assert!(provider.0.kept.try_lock().is_ok_and(|kept| kept.is_none()));
}

#[cfg(not(target_os = "macos"))]
#[tokio::test]
async fn only_macos_has_a_keychain() {
    let source = Source::Keychain { service: "attic".to_owned(), account: None };
    let error = Host::new().provider(source).get().await.expect_err("no keychain");
    assert!(matches!(error, SecretError::NoKeychain), "{error}");
}

/// As where it lies on a file system whose server is away.
#[tokio::test(start_paused = true)]
async fn what_hangs_is_not_waited_for_without_end() {
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let (held, reads) = (std::sync::Mutex::new(held), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&reads);
    let env: Env = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = held.lock().expect("not poisoned").recv();
        Some("s3cret".into())
    });
    let place = Place { real_store: PathBuf::from("/nix/store"), host: None, root: false, env: Arc::clone(&env) };
    let source = Source::Env { name: "TOKEN".to_owned() };
    let provider = Provider(Arc::new(Inner {
        source,
        form: Form::OneLine,
        place,
        kept: Mutex::default(),
        reading: Mutex::default(),
    }));
    // Each reading has its own, from when it is begun, whenever its thread comes to it.
    let at_rest = Arc::strong_count(&env);
    let (began, asks) = (Instant::now(), 3);
    for ask in 1..=asks {
        let provider = provider.clone();
        let asking = tokio::spawn(async move { provider.get_at(began + REREAD * 100 * ask).await });
        while reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(READING * 2).await;
        let error = asking.await.expect("no panic").expect_err("it hangs");
        assert!(matches!(error, SecretError::Hangs { .. }), "{error}");
    }
    assert_eq!(Arc::strong_count(&env), at_rest + 1, "each try has lost one more thread");
    drop(let_go);
    let again = provider.get_at(began + REREAD * 100 * (asks + 1)).await;
    assert_eq!(again.expect("it can be read again").expose(), "s3cret");
}
