//! Limits and pauses: by hand, by a window, and by how the host is.

use crate::support::backend::write_program;
use crate::support::{CacheDir, Nix, Running, ScratchStore, Storewatch, eventually, expr};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Two directories, with more lines behind the first one's.
fn two_caches(team: &CacheDir, other: &CacheDir, more: &str) -> String {
    format!("version = 1\n[caches.team]\nurl = \"{}\"\n{more}\n[caches.other]\nurl = \"{}\"\n", team.url(), other.url())
}

/// Why a cache is paused, as `status` says it.
fn paused(storewatch: &Storewatch<'_>, cache: &str) -> Option<String> {
    storewatch.cache_status(cache)["bandwidth"]["paused"].as_str().map(str::to_owned)
}

#[test]
fn a_cache_that_is_paused_by_hand_is_given_nothing_until_it_is_resumed() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (team, other) = (storewatch.cache_at("team"), storewatch.cache_at("other"));
    storewatch.policy(&two_caches(&team, &other, ""));
    // Before there is a queue, and without a service.
    let said = storewatch.cmd(&["pause", "--cache", "team"]).ok();
    assert!(said.contains("team: paused by hand\n") && said.contains("nobody works the queue off now"), "{said}");

    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the other cache's", || other.has(&first));
    assert!(!team.has(&first));
    let jobs = storewatch.jobs("pending");
    let told = "by hand; `storewatch resume` ends that";
    assert_eq!((jobs.len(), &jobs[0]["cache"], &jobs[0]["paused"]), (1, &"team".into(), &told.into()));
    assert!(storewatch.cmd(&["queue", "list"]).ok().contains("paused by hand"));
    assert_eq!(paused(&storewatch, "team").as_deref(), Some(told));
    let status = storewatch.cache_status("team");
    assert_eq!(status["waiting_why"], Value::Null, "nothing is wrong with it");
    assert!(storewatch.cmd(&["status"]).ok().contains("  paused by hand"));
    running.kill9();

    // It outlives the service, and a crash.
    let mut running = storewatch.start();
    let second = store.build(&expr::many(2)).unwrap().remove(1);
    running.eventually("the other cache's", || other.has(&second));
    assert!(!team.has(&first) && !team.has(&second));
    assert!(storewatch.cmd(&["resume", "--cache", "other"]).ok().contains("nothing was paused by hand"));
    assert!(paused(&storewatch, "team").is_some(), "that was another's");
    // What keeps it paused though it was resumed is said.
    storewatch.cmd(&["pause"]).ok();
    let but_line = "itself is not paused by hand, but the whole line is: `storewatch resume`";
    for whose in [&["--cache", "team"][..], &["--backfill"]] {
        let said = storewatch.cmd(&[&["resume"], whose].concat()).ok();
        assert!(said.contains(but_line) && !said.contains("nothing was paused"), "{said}");
    }
    // Of two pauses the one that ends last is shown, wherever the other stands.
    storewatch.cmd(&["pause", "--cache", "team", "--for", "1h"]).ok();
    assert_eq!(paused(&storewatch, "team").as_deref(), Some(told));
    storewatch.cmd(&["resume"]).ok();
    running.eventually("its paths", || team.has(&first) && team.has(&second));
    assert_eq!(paused(&storewatch, "team"), None);
    running.stop();
    // Of several paths the jobs of any are meant, each once.
    let all = storewatch.cmd(&["queue", "drop", &first, &second, &first]).ok();
    assert_eq!(all, "4 jobs dropped\n");
    // Nobody is at work: what is paused is what is paused now.
    storewatch.cmd(&["pause"]).ok();
    let third = store.build(&expr::many(3)).unwrap().remove(2);
    assert_eq!(storewatch.cmd(&["push", "--timeout", "1s", "--to", "team", &third]).code, Some(4));
    assert!(
        storewatch.cmd(&["queue", "list"]).ok().contains("team is paused by hand; `storewatch resume` ends that\n")
    );
    storewatch.cmd(&["resume"]).ok();
    let list = storewatch.cmd(&["queue", "list"]).ok();
    assert!(list.starts_with("pending   team ") && !list.contains("paused"), "{list}");
    assert_eq!(storewatch.jobs("pending")[0]["paused"], Value::Null);
    storewatch.cmd(&["pause", "--cache", "team"]).ok();
    assert!(storewatch.cmd(&["queue", "list"]).ok().contains("team is paused by hand"), "before anybody has noted it");
    storewatch.cmd(&["resume"]).ok();
    storewatch.cmd(&["queue", "drop", &third]).ok();
    // With nothing to take back, nothing counts from then on.
    let said = storewatch.cmd(&["resume"]).ok();
    assert!(said.contains("nothing was paused by hand") && !said.contains("nobody works the queue off"), "{said}");
}

#[test]
fn a_mistake_in_the_policy_keeps_nobody_from_pausing() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (team, other) = (storewatch.cache_at("team"), storewatch.cache_at("other"));
    let good = two_caches(&team, &other, "");
    storewatch.policy(&good);
    let mut running = storewatch.start();
    storewatch.policy(&format!("{good}nonsense = 1\n"));
    let refused = storewatch.cmd(&["pause", "--cache", "tema"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("the queue has no cache `tema`; it has other, team"), "{refused:?}");
    for (arguments, told) in [
        (&["pause", "--cache", "team"][..], "bandwidth of cache team: paused by hand"),
        (&["limit", "1MiB/s"], "bandwidth of the line: 1.0 MiB/s by hand"),
        (&["resume"], "bandwidth of cache team: no limit by the policy"),
    ] {
        let said = storewatch.cmd(arguments).ok();
        assert!(said.contains("since the policy is bad"), "{said}");
        running.eventually_logs(told);
    }
    running.stop();
}

#[test]
fn what_is_said_for_a_while_ends_by_itself() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let said = storewatch.cmd(&["pause", "--for", "4s"]).ok();
    assert!(said.contains("line:     paused by hand, until 20"), "{said}");
    running.eventually_logs("bandwidth of the line: paused by hand, until");
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("its end and the path", || storewatch.cache().has(&path));
    running.eventually_logs("bandwidth of the line: no limit by the policy");
    running.stop();
    assert_eq!(
        storewatch.status()["line"],
        json!({ "bytes_per_second": null, "background": false, "by": "policy", "window": null, "until": null })
    );
}

/// A program that begins and does not end.
const ENDLESS: &str = "#!/bin/sh\necho $$ > \"$1/began.$$\"\nexec sleep 1000\n";

fn programs_begun(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("began.")).collect()
}

#[test]
fn what_is_under_way_is_given_back_and_not_counted_as_a_try() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let folder = store.root().join("program");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("endless");
    write_program(&program, ENDLESS);
    let folder_name = folder.to_str().unwrap();
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"command://{}\"\nargs = [\"{folder_name}\"]\n",
        program.display()
    ));
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    running.eventually("an upload under way", || {
        programs_begun(&folder).len() == 1 && storewatch.jobs("uploading").len() == 1
    });
    let pid = fs::read_to_string(&programs_begun(&folder)[0]).unwrap();
    running.eventually("that it is sent", || storewatch.jobs("uploading")[0]["step"] == "being sent");
    storewatch.cmd(&["pause"]).ok();
    running.eventually("the job's return", || storewatch.jobs("pending").len() == 1);
    assert_eq!(storewatch.jobs("pending")[0]["attempts"], 0);
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    eventually("the program's end", || !process.exists());
    assert_eq!(programs_begun(&folder).len(), 1, "it isn't begun again");
    storewatch.cmd(&["resume"]).ok();
    running.eventually("another try", || programs_begun(&folder).len() == 2);
}

#[test]
fn a_service_that_is_ending_is_paused_like_any_other() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let folder = store.root().join("program");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("endless");
    write_program(&program, ENDLESS);
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"command://{}\"\nargs = [\"{}\"]\n",
        program.display(),
        folder.display()
    ));
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    running.eventually("an upload under way", || {
        programs_begun(&folder).len() == 1 && storewatch.jobs("uploading").len() == 1
    });
    running.terminate();
    running.eventually_logs("ending: what is under way is finished or handed back");
    storewatch.cmd(&["pause"]).ok();
    // Not only once it has ended: it is told so while it works on.
    running.eventually_logs("bandwidth of the line: paused by hand");
    assert!(running.wait_exit().success());
    assert_eq!(storewatch.jobs("pending")[0]["attempts"], 0);
}

#[test]
fn what_is_under_way_is_told_from_what_waits_for_its_turn() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let folder = store.root().join("program");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("endless");
    write_program(&program, ENDLESS);
    storewatch.policy(&format!(
        "version = 1\n[limits]\nuploads = 1\n[caches.team]\nurl = \"command://{}\"\nargs = [\"{}\"]\n",
        program.display(),
        folder.display()
    ));
    let mut running = storewatch.start();
    store.build(&expr::many(6)).unwrap();
    let told = |step: &str| storewatch.jobs("uploading").iter().filter(|job| job["step"] == step).count();
    // Small ones needn't stand behind what takes long: two more than are told are begun.
    running
        .eventually("all of them", || told("being sent") >= 1 && told("being sent") + told("waits for its turn") == 6);
    assert!(told("waits for its turn") >= 3);
    let text = storewatch.cmd(&["queue", "list"]).ok();
    assert!(text.matches("  waits for its turn\n").count() >= 3, "{text}");
    running.kill9();
    assert_eq!(told("being sent"), 0, "nobody is at work");
}

#[test]
fn who_waits_for_a_path_is_told_that_all_is_paused() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    let line = "local is paused by hand; `storewatch resume` ends that";
    let mut running = Some(storewatch.start());
    storewatch.cmd(&["pause"]).ok();
    running.iter_mut().for_each(|running| running.eventually_logs("bandwidth of the line: paused by hand"));
    for service_runs in [true, false] {
        let said = storewatch.cmd(&["push", &path, "--timeout", "1s"]);
        assert_eq!(said.code, Some(4), "{said:?}");
        assert!(said.stderr.contains(line), "with the service: {service_runs}: {}", said.stderr);
        assert!(said.stdout.contains("for local, which is paused by hand"), "{}", said.stdout);
        running.take().into_iter().for_each(Running::stop);
    }
    // A push that works alone notices by itself that it may go on.
    let mut push = storewatch.spawn(&["push", &path]);
    push.eventually_logs(line);
    storewatch.cmd(&["resume"]).ok();
    assert_eq!(push.wait_exit().code(), Some(0));
    assert!(storewatch.cache().has(&path));
}

#[test]
fn a_backfill_can_be_paused_while_fresh_paths_go_on() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let old = store.build(&expr::many(1)).unwrap().remove(0);
    let mut running = storewatch.start();
    storewatch.cmd(&["pause", "--backfill"]).ok();
    let mut backfill = storewatch.spawn(&["backfill"]);
    backfill.eventually_logs("local is paused for backfill by hand");
    let fresh = store.build(&expr::many(2)).unwrap().remove(1);
    running.eventually("the fresh path", || storewatch.cache().has(&fresh));
    assert!(!storewatch.cache().has(&old));
    storewatch.cmd(&["resume", "--backfill"]).ok();
    assert_eq!(backfill.wait_exit().code(), Some(0));
    assert!(storewatch.cache().has(&old));
    running.stop();
}

#[test]
fn a_window_pauses_a_cache_and_is_taken_back_with_the_policy() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (team, other) = (storewatch.cache_at("team"), storewatch.cache_at("other"));
    let always = "windows = [{ from = \"00:00\", to = \"24:00\", bandwidth = 0 }]\nbandwidth = \"1 MiB/s\"";
    storewatch.policy(&two_caches(&team, &other, always));
    let mut running = storewatch.start();
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the other cache's", || other.has(&path));
    assert!(!team.has(&path));
    let why = "by the window 00:00 to 24:00; `storewatch limit none --cache team --for 1h` goes on all the same";
    assert_eq!(paused(&storewatch, "team").as_deref(), Some(why));
    let ruling = &storewatch.cmd(&["limit", "--json"]).json()["caches"]["team"];
    assert_eq!(
        ruling,
        &json!({ "bytes_per_second": 0, "background": false, "by": "window", "window": "00:00 to 24:00", "until": null, "paused": why })
    );
    storewatch.policy(&two_caches(&team, &other, "bandwidth = \"1 MiB/s\""));
    running.eventually("its paths", || team.has(&path));
    assert_eq!(storewatch.cache_status("team")["bandwidth"]["bytes_per_second"], 1 << 20);

    // By hand wins.
    storewatch.policy(&two_caches(&team, &other, always));
    running.eventually_logs_times("the policy has changed and is in force", 2);
    storewatch.cmd(&["limit", "5MiB/s", "--cache", "team"]).ok();
    let path = store.build(&expr::many(2)).unwrap().remove(1);
    running.eventually("its path", || team.has(&path));
    let shown = storewatch.cmd(&["limit", "--clear", "--cache", "team"]).ok();
    assert!(shown.contains("team: paused by the window"), "{shown}");
    running.stop();
}

#[test]
fn windows_go_by_the_time_zone_of_the_host() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch
        .policy("version = 1\n[limits]\nwindows = [{ from = \"10:00\", to = \"14:00\", bandwidth = \"1 MiB/s\" }]\n");
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hour = i64::try_from(since_1970 / 3600 % 24).unwrap();
    // As POSIX writes it: hours to the west. It is past noon in the one and past midnight in the other.
    for (zone, by) in [(format!("XXX{}", hour - 12), "window"), (format!("XXX{hour}"), "policy")] {
        let said = storewatch.command().args(["limit", "--json"]).env("TZ", &zone).output().unwrap();
        let shown: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(shown["line"]["by"], by, "{zone}: {shown}");
        assert!(shown["line"]["until"].as_i64() > Some(i64::try_from(since_1970).unwrap() * 1000), "{shown}");
    }
    // Who looks at it from elsewhere sees what the service does, and by whose clock.
    let (noon, midnight) = (format!("XXX{}", hour - 12), format!("XXX{hour}"));
    let mut running = storewatch.start_with(|command| {
        command.env("TZ", &noon);
    });
    running.eventually_logs("started");
    let said = storewatch.command().arg("limit").env("TZ", &midnight).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let offset = format!(" 14:00 {}{:02}:00\n", if hour > 12 { '-' } else { '+' }, (hour - 12).abs());
    assert!(said.contains("by the window 10:00 to 14:00, until ") && said.contains(&offset), "{said}");
    running.stop();
    // One that nobody knows is said.
    let mut running = storewatch.start_with(|command| {
        command.env("TZ", "Nowhere/Atall");
    });
    running.eventually_logs("time zone: not known, so windows go by UTC");
    let doctor = storewatch.command().args(["doctor"]).env("TZ", "Nowhere/Atall").output().unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("warning  time zone: not known"), "{doctor:?}");
    running.stop();
}

/// Says what a file beside it says, and notes that it was asked.
const BUSCTL: &str = "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/asked\"\ncat \"$(dirname \"$0\")/says\"\n";

#[test]
fn a_metered_connection_pauses_what_goes_over_the_line() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let bin = store.root().join("bin");
    fs::create_dir(&bin).unwrap();
    write_program(&bin.join("busctl"), BUSCTL);
    write_program(&bin.join("take"), "#!/bin/sh\ntouch \"$1/taken\"\n");
    let says = |number: u8| {
        fs::write(bin.join("new"), format!("u {number}\n")).unwrap();
        fs::rename(bin.join("new"), bin.join("says")).unwrap();
    };
    says(3);
    let disk = storewatch.cache_at("disk");
    storewatch.policy(&format!(
        "version = 1\n[limits]\nmetered = \"pause\"\n[caches.team]\nurl = \"command://{0}/take\"\nargs = [\"{0}\"]\n\
         [caches.disk]\nurl = \"{1}\"\n",
        bin.display(),
        disk.url()
    ));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", bin.display());
    let mut running = storewatch.start_with(|command| {
        command.env("PATH", &path);
    });
    running.eventually_logs("bandwidth of the line: paused on a metered connection");
    let built = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the disk's", || disk.has(&built));
    assert!(!bin.join("taken").exists());
    let asked = fs::read_to_string(bin.join("asked")).unwrap();
    assert!(asked.lines().all(|line| line.contains("org.freedesktop.NetworkManager Metered")), "{asked}");
    let doctor = storewatch.command().args(["doctor"]).env("PATH", &path).output().unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("connection: metered"), "{doctor:?}");
    // The service looks again by itself.
    says(4);
    running.eventually("the path", || bin.join("taken").exists());
    running.stop();
}

#[test]
fn what_cannot_be_told_of_the_connection_is_said_once_and_by_the_doctor() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let bin = store.root().join("bin");
    fs::create_dir(&bin).unwrap();
    write_program(&bin.join("busctl"), "#!/bin/sh\necho 'no such name' >&2\nexit 1\n");
    storewatch.policy("version = 1\n[limits]\nmetered = \"pause\"\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut running = storewatch.start_with(|command| {
        command.env("PATH", &path);
    });
    let built = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the path", || storewatch.cache().has(&built));
    let told = "NetworkManager doesn't tell whether the connection is metered: `busctl` failed: no such name";
    assert_eq!(running.log().matches(told).count(), 1);
    let doctor = storewatch.command().args(["doctor"]).env("PATH", &path).output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains(&format!("warning  connection: {told}; it counts as not metered")), "{said}");
    running.stop();
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_write() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    for (arguments, told) in [
        (&["limit", "20"][..], "`20` has no unit: write `20 MiB/s`"),
        (&["limit", "20MB"], "`20MB` doesn't say in which time"),
        (&["limit", "0"], "to send nothing at all, write `storewatch pause`"),
        (&["limit", "-5MiB/s"], "`-5MiB/s` is less than nothing"),
        (&["limit", "99999999999999999999 B/s"], "more than any line carries"),
        (&["limit", "1MiB/s", "--for", "0s"], "it must be from 1s to 52w"),
        (&["limit", "1MiB/s", "--for", "0"], "`0` is no length of time"),
        (&["limit", "1MiB/s", "--for", "99999w"], "it must be from 1s to 52w"),
        (&["limit", "1MiB/s", "--cache", "tema"], "the policy has no cache `tema`; it has local"),
        (&["limit", "1MiB/s", "--cache", "local", "--backfill"], "cannot be used with"),
        (&["limit", "--cache", "local"], "say how much, such as 5MiB/s"),
        (&["limit", "99999999999999MiB/s"], "more than any line carries: write `none` for no limit"),
        (&["limit", "--for", "2h"], "required"),
        (&["pause", "--for=-1h"], "no length of time"),
        (&["pause", "--cache", "tema"], "the policy has no cache `tema`"),
        (&["resume", "--cache", "tema"], "the policy has no cache `tema`"),
    ] {
        let said = storewatch.cmd(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(told), "{arguments:?}: {}", said.stderr);
    }
    assert!(!storewatch.state_dir().join("queue.sqlite").exists(), "something was begun");
    // The one cache is a directory.
    let idle = "it limits nothing for now";
    for (arguments, is_idle) in [
        (&["limit", "1MiB/s"][..], true),
        (&["limit", "1MiB/s", "--backfill"], true),
        (&["limit", "1MiB/s", "--cache", "local"], false),
        (&["limit", "none"], false),
        (&["limit", "--clear"], false),
    ] {
        let said = storewatch.cmd(arguments).ok();
        assert_eq!(said.contains(idle), is_idle, "{arguments:?}: {said}");
    }
    storewatch.policy("version = 1\n[caches.team]\nurl = \"attic+http://127.0.0.1:9/team\"\n");
    assert!(!storewatch.cmd(&["limit", "1MiB/s"]).ok().contains(idle));
    storewatch.policy("version = 1\n[caches.team]\nurl = \"command:///bin/true\"\n");
    let said = storewatch.cmd(&["limit", "1MiB/s", "--cache", "team"]);
    assert!(said.code == Some(2) && said.stderr.contains("sends them by itself, so it can't be limited"), "{said:?}");
}
