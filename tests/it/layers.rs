//! The floors of the house: a room uses what stands on a lower floor or its own things, never a neighbour or what is above.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the ground up. A room that is missing here is added together with the drawing in
/// `docs/architecture.md`.
const FLOORS: [&[&str]; 6] = [
    &["nix", "program", "report", "times"],
    &["policy", "limit", "disk", "secret"],
    &["cache", "queue"],
    &["config", "watch", "upload", "pins"],
    &["daemon"],
    &["cli"],
];

/// Files that belong to no room: they name them all.
const FRONT_DOORS: [&str; 2] = ["lib.rs", "main.rs"];

#[test]
fn rooms_use_only_what_stands_below_them() {
    let floor_of = floors();
    let mut violations = Vec::new();
    for file in sources() {
        let Some(room) = room(&file) else { continue };
        let text = fs::read_to_string(source_dir().join(&file)).unwrap();
        for (number, used) in uses(&text) {
            let place = format!("src/{}:{number}", file.display());
            match (floor_of.get(room.as_str()), floor_of.get(used.as_str())) {
                _ if used == room => {}
                (Some(own), Some(its)) if its < own => {}
                (Some(own), Some(its)) => {
                    violations.push(format!("{place}: {room} (floor {own}) uses {used} (floor {its})"));
                }
                _ => violations.push(format!("{place}: {room} uses {used}, and one of them stands on no floor")),
            }
        }
    }
    assert!(violations.is_empty(), "these lines lean on a neighbour or on what is above:\n{}", violations.join("\n"));
}

#[test]
fn every_room_stands_on_a_floor_and_every_floor_has_its_rooms() {
    let rooms: BTreeSet<String> = sources().iter().filter_map(|file| room(file)).collect();
    let drawn: BTreeSet<String> = floors().into_keys().map(str::to_owned).collect();
    assert_eq!(rooms, drawn);
}

#[test]
fn uses_are_found_wherever_they_stand() {
    let text = "//! [`crate::cli`]\nuse crate::nix::{A, B};\nuse crate::{limit, queue::{Job, now}};\n\
                let a = crate::policy::decide(); // as crate::daemon does\n    crate::watch!();\n";
    let found: Vec<(usize, String)> = uses(text);
    let expected = [(2, "nix"), (3, "limit"), (3, "queue"), (4, "policy"), (5, "watch")];
    assert_eq!(found, expected.map(|(line, room)| (line, room.to_owned())));
}

fn floors() -> BTreeMap<&'static str, usize> {
    FLOORS.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor))).collect()
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All source files, relative to `src`.
fn sources() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![source_dir()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(source_dir()).unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > FLOORS.len(), "where are the sources?");
    found.sort();
    found
}

/// The top-level module that a file belongs to: `nix/nar/mod.rs` to `nix`, `report.rs` to `report`.
fn room(file: &Path) -> Option<String> {
    let first = file.iter().next()?.to_str()?;
    (!FRONT_DOORS.contains(&first)).then(|| first.trim_end_matches(".rs").to_owned())
}

/// The rooms that a source names as `crate::ROOM` or within `crate::{…}`, with their lines. Comments don't count.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for behind in code.split("crate::").skip(1) {
            let names = match behind.strip_prefix('{') {
                Some(group) => of_group(group),
                None => vec![identifier(behind)],
            };
            found.extend(names.into_iter().map(|name| (number + 1, name)));
        }
    }
    found
}

/// The first names of what stands between the braces of `{limit, queue::{Job, now}}`, on one line, as rustfmt leaves it.
fn of_group(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (1, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => start = true,
            c if start && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}
