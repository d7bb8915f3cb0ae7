//! A host doesn't upload to its own server: the cache is off there, and every command says so.

use super::in_policy;
use crate::support::nix::skipped;
use crate::support::{Nix, ScratchStore, Storewatch, expr, write_secret};
use std::net::{IpAddr, UdpSocket};

#[test]
fn a_server_with_an_address_of_this_host_is_off_and_nobody_waits_for_it() {
    let Some(nix) = Nix::recent() else { return };
    let Some(own) = own_address() else { return skipped("this host has no address of its own beside loopback") };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let token_file = storewatch.policy_path().with_file_name("token");
    write_secret(&token_file, "a-token");
    let host = if own.is_ipv6() { format!("[{own}]") } else { own.to_string() };
    let archive = storewatch.cache_at("archive");
    // Nobody listens there, and nobody is asked.
    let team = in_policy("team", &format!("attic+https://{host}:9/team"), &token_file);
    let policy = format!("version = 1\n[caches.archive]\nurl = \"{}\"\n{team}", archive.url());
    storewatch.policy(&policy);
    let off = format!("off on this host: {own} is this host itself");

    // Before anybody has looked, who looks says so.
    let pinged = storewatch.cmd(&["cache", "ping", "--json", "team"]).json();
    assert_eq!(pinged[0]["state"], "off", "{pinged}");
    for command in [&["cache", "ping"][..], &["cache", "ping", "team"], &["doctor"], &["cache", "list"], &["status"]] {
        let said = storewatch.cmd(command);
        assert!(said.stdout.contains(&off) && !said.stdout.contains("onnection refused"), "{said:?}");
    }
    let paths = store.build(&expr::many(2)).unwrap();
    // A push is through when the other cache has it, and says what became of this one.
    let pushed = storewatch.cmd(&["push", &paths[0]]).ok();
    assert!(pushed.contains("uploaded         1 ("), "{pushed}");
    assert!(pushed.contains("still queued     1 for team, which is off on this host: "), "{pushed}");
    assert!(archive.has(&paths[0]));
    let alone = storewatch.cmd(&["push", "--to", "team", &paths[0]]);
    assert_eq!(alone.code, Some(4), "{alone:?}");
    let behind = storewatch.cmd(&["backfill", &paths[0]]);
    assert!(behind.stdout.contains("still queued     1 for team, which is off on this host: "), "{behind:?}");
    assert_eq!(behind.code, Some(4), "{behind:?}");

    let mut running = storewatch.start();
    running.eventually("the note", || storewatch.cache_status("team")["why_off"].is_string());
    let said = storewatch.cmd(&["push", &paths[1]]).ok();
    assert!(said.contains("1 for team, which is off on this host"), "{said}");
    assert!(!running.log().contains("once its server has told it"), "that is off here: {}", running.log());
    running.stop();
    let listed = storewatch.cmd(&["cache", "list", "--json"]).json();
    assert_eq!(listed[1]["state"], "off", "{listed}");
    for command in [&["cache", "list"][..], &["status"], &["policy", "explain", &paths[0]]] {
        let said = storewatch.cmd(command).ok();
        assert!(said.contains(&off) && !said.contains("takes nothing"), "{said}");
    }
    // What the policy allows isn't off, whatever was noted before.
    storewatch.policy(&format!("{policy}allow_self = true\n"));
    assert!(!storewatch.cmd(&["cache", "list"]).ok().contains("off"));
    assert!(!storewatch.cmd(&["policy", "explain", &paths[0]]).ok().contains("off on this host"));
}

#[test]
fn a_host_that_has_the_servers_name_says_so_when_it_explains() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"attic+https://cache.invalid/team\"\nserver_hostnames = [\"{host}\"]\n\
         [caches.archive]\nurl = \"{}\"\n",
        storewatch.cache_at("archive").url()
    ));
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    let off = format!("off on this host, {host}, which is the cache's own server by `server_hostnames`");
    let said = storewatch.cmd(&["policy", "explain", &path]).ok();
    assert_eq!(said.matches(&off).count(), 1, "{said}");
    let pushed = storewatch.cmd(&["push", &path]).ok();
    assert!(pushed.contains("uploaded         1 (") && pushed.contains("off here         1 for team"), "{pushed}");
    let behind = storewatch.cmd(&["backfill", &path]).ok();
    assert!(behind.contains("already there    1") && behind.contains("off here         1 for team"), "{behind}");
    let json = storewatch.cmd(&["policy", "explain", "--json", &path]).json();
    assert_eq!(
        (&json[0]["caches"]["team"]["why_off"], &json[0]["caches"]["archive"]["why_off"]),
        (&off.into(), &().into())
    );
}

#[test]
fn a_push_and_a_backfill_say_alike_that_a_cache_is_off_by_the_hosts_name() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"attic+https://cache.invalid/team\"\nserver_hostnames = [\"{host}\"]\n"
    ));
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    // Of what somebody wanted to be uploaded now nothing has arrived.
    for (command, code) in [(&["push", &path][..], 4), (&["backfill", &path], 0)] {
        let said = storewatch.cmd(command);
        assert!(said.stdout.contains("off here         1 for team, off on this host\n"), "{command:?}: {said:?}");
        assert_eq!(said.code, Some(code), "{command:?}: {said:?}");
    }
    let dry = storewatch.cmd(&["backfill", "--dry-run", &path]).ok();
    assert!(dry.contains("would leave out 1 for team, off on this host"), "{dry}");
}

/// An address of this host's, if it has one beside loopback. To connect a UDP socket sends nothing.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}
