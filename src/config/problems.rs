//! What is wrong with a policy file, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// One thing that is wrong, or odd: `FILE:LINE:COLUMN: what, and what to write instead`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as the caller calls it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and what to write instead, in one line.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read; running on without the rules that are in it could upload what they deny.
    #[error("can not read the policy `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is read but not understood; all that is wrong with it, in the order of the file, one a line.
    #[error("{}", one_a_line(.0))]
    Problems(Vec<Problem>),
}

impl ConfigError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        let Self::Io { source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::NotFound => Some(
                "`storewatch policy edit` writes one; without --config and STOREWATCH_CONFIG a missing policy means the \
                 built-in one",
            ),
            io::ErrorKind::PermissionDenied => Some("the user that storewatch runs as must be able to read it"),
            io::ErrorKind::IsADirectory => Some("name the file, not its folder: …/policy.toml"),
            _ => None,
        }
    }
}

fn one_a_line(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

/// Gathers what is wrong while a file is read, so that all of it is said at once.
pub(super) struct Problems<'t> {
    file: &'t str,
    text: &'t str,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Something is wrong at those bytes of the file.
    pub(super) fn add(&mut self, at: Range<usize>, message: impl Into<String>) {
        let problem = self.problem(at, message.into());
        self.errors.push(problem);
    }

    /// Something is odd there, but can be lived with.
    pub(super) fn warn(&mut self, at: Range<usize>, message: impl Into<String>) {
        let problem = self.problem(at, message.into());
        self.warnings.push(problem);
    }

    fn problem(&self, at: Range<usize>, message: String) -> Problem {
        let (line, column) = line_and_column(self.text.as_bytes(), at.start);
        Problem { file: self.file.to_owned(), line, column, message }
    }

    /// The line, from 1, in which something stands, for who is told of two places.
    pub(super) fn line(&self, at: &Range<usize>) -> usize {
        line_and_column(self.text.as_bytes(), at.start).0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// All that is wrong, in the order of the file; what is odd, where nothing is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, ConfigError> {
        let place = |problem: &Problem| (problem.line, problem.column);
        self.errors.sort_by_key(place);
        self.warnings.sort_by_key(place);
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(ConfigError::Problems(self.errors)) }
    }
}

/// Line and column, both from 1, of a byte; the column counts characters. Also for a text that is no UTF-8.
pub(super) fn line_and_column(text: &[u8], byte: usize) -> (usize, usize) {
    let before = &text[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}
