//! Nix expressions that build with `/bin/sh` alone, without nixpkgs. Each call's derivations are new ones.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// One derivation that runs a shell script, which makes `$out`.
pub fn script(name: &str, script: &str) -> String {
    let (name, script, salt) = (quoted(name), quoted(&format!("PATH=/bin:/usr/bin; {script}")), salt());
    format!(
        r#"derivation {{
             name = {name}; builder = "/bin/sh"; args = [ "-c" {script} ];
             system = builtins.currentSystem; salt = "{salt}";
           }}"#
    )
}

/// A chain of `length` derivations, `chain-0` to `chain-{length - 1}`, each of which references the one before it.
pub fn chain(length: usize) -> String {
    let (last, salt) = (length - 1, salt());
    format!(
        r#"let link = n: derivation {{
             name = "chain-${{toString n}}"; builder = "/bin/sh"; args = [ "-c" "echo $before $salt > $out" ];
             system = builtins.currentSystem; salt = "{salt}";
             before = if n == 0 then "nothing" else link (n - 1);
           }}; in link {last}"#
    )
}

/// Derivations of these names, each of which references the one before it; the last one is built.
pub fn named_chain(names: &[&str]) -> String {
    let salt = salt();
    names.iter().fold("\"nothing\"".to_owned(), |before, name| {
        let name = quoted(name);
        format!(
            r#"(derivation {{
                 name = {name}; builder = "/bin/sh"; args = [ "-c" "echo $before $salt > $out" ];
                 system = builtins.currentSystem; salt = "{salt}"; before = {before};
               }})"#
        )
    })
}

/// Content-addressed derivations of these names, each of which references the one before it; the last one is built. Each
/// leaves a line in the file `mark` when it is built, and fails where it can't.
pub fn content_addressed(names: &[&str], mark: &Path) -> String {
    let (salt, mark) = (salt(), mark.display());
    names.iter().fold("\"nothing\"".to_owned(), |before, name| {
        let name = quoted(name);
        format!(
            r#"(derivation {{
                 name = {name}; builder = "/bin/sh"; args = [ "-c" "echo $name >> {mark} || exit 1; echo $before $salt > $out" ];
                 system = builtins.currentSystem; salt = "{salt}"; before = {before};
                 __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
               }})"#
        )
    })
}

/// `count` derivations, `lattice-0` and so on, each of which references the two before it; the last one is built. The
/// first two are of `heavy` bytes that don't compress, so that what refers to them is packed before they are.
pub fn lattice(count: usize, heavy: u64) -> String {
    let (last, salt) = (count - 1, salt());
    format!(
        r#"let nodes = builtins.genList node {count}; at = builtins.elemAt nodes;
             node = n: derivation {{
             name = "lattice-${{toString n}}"; builder = "/bin/sh"; system = builtins.currentSystem; salt = "{salt}";
             args = [ "-c" (if n < 2 then "PATH=/bin:/usr/bin; head -c {heavy} /dev/urandom > $out"
                            else "echo $before $salt > $out") ];
             before = if n < 2 then "nothing" else [ (at (n - 1)) (at (n - 2)) ];
           }}; in at {last}"#
    )
}

/// `count` small derivations that know nothing of each other, `small-0` and so on.
pub fn many(count: usize) -> String {
    let salt = salt();
    format!(
        r#"builtins.genList (n: derivation {{
             name = "small-${{toString n}}"; builder = "/bin/sh"; args = [ "-c" "echo $name $salt > $out" ];
             system = builtins.currentSystem; salt = "{salt}";
           }}) {count}"#
    )
}

/// A derivation, `wide`, that references `count` others.
pub fn wide(count: usize) -> String {
    let salt = salt();
    format!(
        r#"derivation {{
             name = "wide"; builder = "/bin/sh"; args = [ "-c" "echo $them $salt > $out" ];
             system = builtins.currentSystem; salt = "{salt}"; them = {};
           }}"#,
        many(count)
    )
}

/// A derivation that writes its output and fails then.
pub fn failing() -> String {
    script("failing", "echo half > $out; exit 1")
}

/// A derivation whose output is one file of so many bytes that don't compress.
pub fn sized(bytes: u64) -> String {
    script("sized", &format!("head -c {bytes} /dev/urandom > $out"))
}

/// A derivation, `user`, that references a path of the store.
pub fn user_of(path: &str) -> String {
    let salt = salt();
    format!(
        r#"derivation {{
             name = "user"; builder = "/bin/sh"; args = [ "-c" "echo $it $salt > $out" ];
             system = builtins.currentSystem; salt = "{salt}"; it = builtins.storePath "{path}";
           }}"#
    )
}

/// Different at each call, also in tests that run at once.
fn salt() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed))
}

/// A string literal of the Nix language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}
