//! `storewatch policy edit`: a bad policy never takes the place of a good one, and nothing that was written is lost.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::{Config, ConfigError, read_policy};

use super::PolicyCommandError;
use super::check::good;
use super::copy::Copy;

/// What a new policy begins with.
const TEMPLATE: &str = "\
version = 1

# What storewatch uploads, and where to. Everything here is optional; `storewatch policy check` says what is wrong.
# Without any cache there is one below the state directory.

# [caches.team]
# url = \"file:///srv/cache/team\"

# The first rule that matches decides. Behind yours: skip derivations, skip what cache.nixos.org has, upload the rest.

# [[rules]]
# name = \"licensed, never leaves this host\"
# match = { name = \"cuda*\" }
# action = \"deny\"
";

/// Mode of a new policy: everybody may read it, as there is no secret in it.
const NEW_FILE_MODE: u32 = 0o644;

/// Everything that an edit needs.
pub struct Edit<'a> {
    /// The policy file; need not be there yet, and may be a symbolic link.
    pub file: &'a Path,
    /// The editor's command, as a shell takes it: see [`editor`].
    pub editor: &'a OsStr,
    /// The Nix store's directories, where nothing can be edited.
    pub store_dirs: &'a [PathBuf],
    /// Checks the text of a policy.
    pub check: &'a dyn Fn(&str) -> Result<Config, ConfigError>,
    /// Where answers come from.
    pub answers: &'a mut dyn BufRead,
    /// Where questions and results go.
    pub out: &'a mut dyn Write,
}

/// The editor that people set: `$VISUAL`, `$EDITOR`, `vi`.
pub fn editor(env: impl Fn(&str) -> Option<OsString>) -> OsString {
    let set = |name| env(name).filter(|value| !value.is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into())
}

impl Edit<'_> {
    /// Edits a copy until it is good or the author gives up, and puts it in the file's place.
    ///
    /// # Errors
    /// [`PolicyCommandError`]; the policy is as it was then.
    pub fn run(self) -> Result<(), PolicyCommandError> {
        let target = follow(self.file)?;
        if self.store_dirs.iter().any(|dir| target.starts_with(dir)) {
            return Err(PolicyCommandError::Managed { real: target });
        }
        let before = Before::read(&target)?;
        let copy = Copy::beside(&target, before.text())?;
        let Err(err) = self.edit_and_replace(&copy.path, &before, &target) else { return Ok(()) };
        if fs::read(&copy.path).is_ok_and(|written| written != before.text().as_bytes()) {
            return Err(PolicyCommandError::NotTaken { copy: copy.keep(), source: Box::new(err) });
        }
        Err(err)
    }

    fn edit_and_replace(mut self, copy: &Path, before: &Before, target: &Path) -> Result<(), PolicyCommandError> {
        let name = self.file.display();
        let Some(config) = self.edit_until_good(copy, before)? else {
            return Ok(writeln!(self.out, "{name}: unchanged")?);
        };
        if !before.still_holds(target)? {
            return Err(PolicyCommandError::ChangedMeanwhile { file: target.to_owned() });
        }
        before.give_mode_and_owner(copy)?;
        replace(copy, target)?;
        Ok(good(&name.to_string(), &config, self.out)?)
    }

    /// `None` where the author changed nothing.
    fn edit_until_good(&mut self, copy: &Path, before: &Before) -> Result<Option<Config>, PolicyCommandError> {
        loop {
            self.edit(copy)?;
            // An editor may have put another file under the name, so it is read by name.
            let err = match read_policy(copy) {
                Ok(text) if text == before.text() => return Ok(None),
                Ok(text) => match (self.check)(&text) {
                    Ok(config) => return Ok(Some(config)),
                    Err(err) => err,
                },
                Err(err) => err,
            };
            writeln!(self.out, "{err}")?;
            if !again(self.answers, self.out)? {
                return Err(PolicyCommandError::GivenUp);
            }
        }
    }

    fn edit(&self, copy: &Path) -> Result<(), PolicyCommandError> {
        let mut script = self.editor.to_owned();
        script.push(" \"$1\"");
        let editor = || self.editor.to_string_lossy().into_owned();
        let status = Command::new("sh").arg("-c").arg(script).arg("sh").arg(copy).status();
        let status = status.map_err(|source| system("start the editor", Path::new(&editor()), source))?;
        if status.success() { Ok(()) } else { Err(PolicyCommandError::Editor { editor: editor(), status }) }
    }
}

/// The policy as it was before.
struct Before(Option<(String, Metadata)>);

impl Before {
    fn read(target: &Path) -> Result<Self, PolicyCommandError> {
        match fs::metadata(target) {
            Ok(metadata) => Ok(Self(Some((read_policy(target)?, metadata)))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self(None)),
            Err(source) => Err(system("read", target, source)),
        }
    }

    fn text(&self) -> &str {
        self.0.as_ref().map_or(TEMPLATE, |(text, _)| text)
    }

    fn still_holds(&self, target: &Path) -> Result<bool, PolicyCommandError> {
        match (fs::read(target), &self.0) {
            (Ok(now), Some((before, _))) => Ok(now == before.as_bytes()),
            (Err(err), before) if err.kind() == io::ErrorKind::NotFound => Ok(before.is_none()),
            (Ok(_), None) => Ok(false),
            (Err(source), _) => Err(system("read", target, source)),
        }
    }

    fn give_mode_and_owner(&self, copy: &Path) -> Result<(), PolicyCommandError> {
        let mut mode = NEW_FILE_MODE;
        if let Some((_, before)) = &self.0 {
            let now = fs::metadata(copy).map_err(|source| system("read", copy, source))?;
            if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
                chown(copy, Some(before.uid()), Some(before.gid()))
                    .map_err(|source| system("keep the owner of", copy, source))?;
            }
            mode = before.mode() & 0o7777;
        }
        fs::set_permissions(copy, Permissions::from_mode(mode))
            .map_err(|source| system("keep the mode of", copy, source))
    }
}

/// Where the file really is; a link to nowhere is an error, as replacing it would change more than the policy.
fn follow(file: &Path) -> Result<PathBuf, PolicyCommandError> {
    match fs::canonicalize(file) {
        Ok(real) => Ok(real),
        Err(err) if err.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(file).is_err() => {
            std::path::absolute(file).map_err(|source| system("find", file, source))
        }
        Err(source) => Err(system("find", file, source)),
    }
}

fn replace(copy: &Path, target: &Path) -> Result<(), PolicyCommandError> {
    let synced = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    synced(copy).map_err(|source| system("write", copy, source))?;
    fs::rename(copy, target).map_err(|source| system("replace", target, source))?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    synced(folder).map_err(|source| system("write", folder, source))
}

/// Yes by Enter; no by the end of the input, too.
fn again(answers: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<bool> {
    write!(out, "Edit again? [Y/n] ")?;
    out.flush()?;
    let mut answer = String::new();
    let ended = answers.read_line(&mut answer)? == 0;
    if ended {
        writeln!(out)?;
    }
    Ok(!ended && !answer.trim().to_lowercase().starts_with('n'))
}

pub(super) fn system(action: &'static str, path: &Path, source: io::Error) -> PolicyCommandError {
    PolicyCommandError::System { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    use crate::cli::setup::check_url;
    use crate::config::Defaults;

    /// A folder with `policy.toml`; what stands in `new` is what the editor writes.
    struct Desk {
        dir: TempDir,
    }

    impl Desk {
        fn new(old: Option<&str>, new: &str) -> Self {
            let desk = Self { dir: tempfile::tempdir().expect("a folder") };
            if let Some(old) = old {
                fs::write(desk.path("policy.toml"), old).expect("written");
            }
            fs::write(desk.path("new"), new).expect("written");
            desk
        }

        fn path(&self, name: &str) -> PathBuf {
            // Not through a symbolic link, as temporary folders are on macOS.
            fs::canonicalize(self.dir.path()).expect("it is there").join(name)
        }

        /// The answer, and what was written to the terminal.
        fn edit(&self, editor: &str, answers: &str) -> (Result<(), PolicyCommandError>, String) {
            let mut out = Vec::new();
            let defaults = Defaults { state_dir: "/state".into() };
            let editor = editor.replace("DESK/", &self.path("").display().to_string());
            let edit = Edit {
                file: &self.path("policy.toml"),
                editor: OsStr::new(&editor),
                store_dirs: &[self.path("store")],
                check: &|text| Config::parse(text, "policy.toml", &defaults, &check_url),
                answers: &mut answers.as_bytes(),
                out: &mut out,
            };
            let done = edit.run();
            (done, String::from_utf8(out).expect("UTF-8").replace(&self.path("").display().to_string(), ""))
        }

        fn policy(&self) -> String {
            fs::read_to_string(self.path("policy.toml")).expect("it is there")
        }

        fn copies(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(self.dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
            entries.filter(|path| path.to_string_lossy().contains(".policy-")).collect()
        }
    }

    const OLD: &str = "version = 1\n";
    const GOOD: &str = "version = 1\nbuiltin_rules = false\n";
    const BAD: &str = "version = 1\nrules = 1\n";
    const WRITE: &str = "cp DESK/new";

    #[test]
    fn a_good_policy_takes_the_place_with_mode_and_by_its_link() {
        let desk = Desk::new(None, GOOD);
        fs::write(desk.path("real.toml"), OLD).expect("written");
        fs::set_permissions(desk.path("real.toml"), Permissions::from_mode(0o640)).expect("set");
        symlink("real.toml", desk.path("policy.toml")).expect("linked");
        let (done, said) = desk.edit(WRITE, "");
        done.expect("edited");
        assert_eq!(said, "policy.toml: good: 1 cache, 0 rules\n");
        assert_eq!(desk.policy(), GOOD);
        assert!(fs::symlink_metadata(desk.path("policy.toml")).expect("it is there").is_symlink());
        assert_eq!(fs::metadata(desk.path("real.toml")).expect("it is there").mode() & 0o7777, 0o640);
        assert!(desk.copies().is_empty());
    }

    #[test]
    fn a_bad_policy_is_edited_again() {
        let desk = Desk::new(Some(OLD), BAD);
        let good_at_second = format!("f() {{ cp DESK/new \"$1\"; printf '{}' > DESK/new; }}; f", GOOD.escape_default());
        let (done, said) = desk.edit(&good_at_second, "\n");
        done.expect("edited");
        assert_eq!(
            said,
            "policy.toml:2:9: `rules` is a whole number, expected a list of tables: write `[[rules]]`\n\
             Edit again? [Y/n] policy.toml: good: 1 cache, 0 rules\n"
        );
        assert_eq!(desk.policy(), GOOD);
    }

    #[test]
    fn giving_up_keeps_both() {
        for answers in ["n\n", ""] {
            let desk = Desk::new(Some(OLD), BAD);
            let (done, _) = desk.edit(WRITE, answers);
            let Err(PolicyCommandError::NotTaken { copy, source }) = done else { panic!("given up") };
            assert!(matches!(*source, PolicyCommandError::GivenUp));
            assert_eq!((desk.policy().as_str(), fs::read_to_string(copy).expect("kept").as_str()), (OLD, BAD));
        }
    }

    #[test]
    fn nothing_happens_without_a_change() {
        let desk = Desk::new(Some(OLD), GOOD);
        let (done, said) = desk.edit("true", "");
        done.expect("nothing to do");
        assert_eq!((said.as_str(), desk.policy().as_str(), desk.copies().len()), ("policy.toml: unchanged\n", OLD, 0));
        let (done, _) = desk.edit("false", "");
        assert!(matches!(done, Err(PolicyCommandError::Editor { .. })), "{done:?}");
        assert!(desk.copies().is_empty());
    }

    #[test]
    fn changes_of_others_are_not_lost() {
        let desk = Desk::new(Some(OLD), GOOD);
        let (done, _) = desk.edit("echo '# mine' >> DESK/policy.toml; cp DESK/new", "");
        let Err(PolicyCommandError::NotTaken { copy, source }) = done else { panic!("not taken") };
        assert!(matches!(*source, PolicyCommandError::ChangedMeanwhile { .. }));
        assert_eq!(desk.policy(), format!("{OLD}# mine\n"));
        assert_eq!(fs::read_to_string(copy).expect("kept"), GOOD);
    }

    #[test]
    fn a_managed_policy_is_left_alone() {
        let desk = Desk::new(None, GOOD);
        fs::create_dir(desk.path("store")).expect("made");
        fs::write(desk.path("store/policy.toml"), OLD).expect("written");
        symlink("store/policy.toml", desk.path("policy.toml")).expect("linked");
        let (done, _) = desk.edit(WRITE, "");
        assert!(matches!(done, Err(PolicyCommandError::Managed { .. })), "{done:?}");
        fs::remove_file(desk.path("store/policy.toml")).expect("removed");
        let (done, _) = desk.edit(WRITE, "");
        assert!(matches!(done, Err(PolicyCommandError::System { action: "find", .. })), "{done:?}");
    }

    #[test]
    fn a_new_policy_begins_with_a_good_template() {
        let desk = Desk::new(None, GOOD);
        let (done, _) = desk.edit("echo '# mine' >>", "");
        done.expect("edited");
        assert_eq!(desk.policy(), format!("{TEMPLATE}# mine\n"));
        assert_eq!(fs::metadata(desk.path("policy.toml")).expect("it is there").mode() & 0o7777, NEW_FILE_MODE);
        // Its examples are good too.
        let uncommented: Vec<_> = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|line| line.contains(['=', '['])).unwrap_or(line))
            .collect();
        fs::write(desk.path("new"), uncommented.join("\n")).expect("written");
        let (done, said) = desk.edit(WRITE, "");
        done.expect("edited");
        assert_eq!(said, "policy.toml: good: 1 cache, 1 rule\n");
    }

    #[test]
    fn the_editor_that_people_set() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            editor(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("VISUAL", "code -w"), ("EDITOR", "ed")]), "code -w");
        assert_eq!(with(&[("VISUAL", ""), ("EDITOR", "ed")]), "ed");
        assert_eq!(with(&[]), "vi");
    }
}
