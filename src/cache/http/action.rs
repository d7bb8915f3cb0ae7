//! What requests are for: what an answer means depends on it.

use std::fmt;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To learn whether it is there.
    Greeting,
    /// To learn what the cache is.
    Configuration,
    /// To learn what the cache lacks.
    Missing,
    /// To put a path there.
    Upload,
    /// To learn what an upstream cache has.
    Upstream,
    /// To read what a binary cache says of itself.
    Read,
    /// To read a file of a binary cache.
    Fetch,
    /// To learn whether a file of a binary cache is there.
    Look,
    /// To put a file of a binary cache there.
    Put,
    /// To take a file back that was put there: nice to have.
    Delete,
    /// To make a folder for files: nice to have.
    MakeFolder,
    /// To get credentials from the machine or the cloud that this runs in.
    Credentials,
}

impl Action {
    /// Whether it is about the files of a binary cache, which any server may have.
    pub(super) fn is_about_files(self) -> bool {
        matches!(self, Self::Read | Self::Fetch | Self::Look | Self::Put | Self::Delete | Self::MakeFolder)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "reach the server",
            Self::Configuration => "ask for the cache's configuration",
            Self::Missing => "ask what is missing",
            Self::Upload => "upload",
            Self::Upstream => "ask what an upstream cache has",
            Self::Read => "read the cache's description",
            Self::Fetch => "read a file",
            Self::Look => "look for what is there",
            Self::Put => "upload",
            Self::Delete => "delete a file",
            Self::MakeFolder => "make a folder",
            Self::Credentials => "ask for credentials",
        })
    }
}
