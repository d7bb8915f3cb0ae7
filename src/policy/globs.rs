//! Globs over names of store paths.

use std::fmt;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// One or several globs, compiled: `*`, `?`, `[a-z]`, `[!a-z]`, `{one,other}`; a backslash takes the next character as
/// it is. A name matches when the whole of it matches one of them, with upper and lower case told apart.
#[derive(Clone, Debug)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

/// A glob that doesn't compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is no glob: {reason}")]
pub struct BadGlob {
    /// The pattern at fault.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Globs {
    /// Compiles the patterns; none at all match nothing.
    ///
    /// # Errors
    /// [`BadGlob`] for the first that doesn't compile.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadGlob> {
        let bad = |pattern: &str, err: &globset::Error| BadGlob {
            pattern: pattern.to_owned(),
            reason: err.kind().to_string(),
        };
        let (mut kept, mut set) = (Vec::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).backslash_escape(true).build().map_err(|err| bad(pattern, &err))?;
            set.add(glob);
            kept.push(pattern.to_owned());
        }
        let set = set.build().map_err(|err| bad(&kept.join(" "), &err))?;
        Ok(Self { patterns: kept, set })
    }

    /// Whether one of them matches the name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.set.is_match_candidate(&Candidate::new(name))
    }
}

impl fmt::Display for Globs {
    /// As it stands in the policy: `"cuda*"`, or `["cuda*", "nvidia*"]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.patterns.as_slice() {
            [one] => write!(f, "{one:?}"),
            several => write!(f, "{several:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook matcher for `*` and `?`, slow and plain.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => naive(rest, name) || (!name.is_empty() && naive(pattern, &name[1..])),
            ([b'?', rest @ ..], [_, tail @ ..]) => naive(rest, tail),
            ([literal, rest @ ..], [byte, tail @ ..]) => literal == byte && naive(rest, tail),
            _ => false,
        }
    }

    proptest! {
        // File names are what the library is for; names of store paths have dots and question marks in other places.
        #[test]
        fn globs_mean_what_they_say(pattern in "[a.?*+-]{1,6}", name in "[ab.?=+-]{1,6}") {
            // No store path has these names, and the library takes them for folders.
            prop_assume!(name != "." && name != "..");
            let globs = Globs::new([pattern.as_str()]).expect("compiles");
            prop_assert_eq!(globs.matches(&name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn sets_classes_and_alternatives() {
        let globs = Globs::new(["cuda*", "{gcc,clang}-[0-9]*", r"what\?"]).expect("compiles");
        for name in ["cuda", "cuda-12", "gcc-13.2", "clang-1", "what?"] {
            assert!(globs.matches(name), "{name}");
        }
        for name in ["libcuda", "gcc-wrapper", "CUDA", "whats", ""] {
            assert!(!globs.matches(name), "{name}");
        }
        assert_eq!(globs.to_string(), r#"["cuda*", "{gcc,clang}-[0-9]*", "what\\?"]"#);
    }

    #[test]
    fn a_bad_glob_is_named() {
        let err = Globs::new(["fine", "[a-"]).expect_err("unclosed");
        assert_eq!(err.to_string(), "`[a-` is no glob: unclosed character class; missing ']'");
    }
}
