//! That caches are not in each other's way.

use crate::cache::{CacheUrl, is_own_folder};
use crate::config::problems::Problems;
use crate::config::raw_cache::RawCache;

/// Two caches in one place would each take what the other wrote for what is there, and sign it with another key. One in a folder
/// that another has for itself would be taken for a part of that.
pub(super) fn each_its_own(caches: &[RawCache], problems: &mut Problems<'_>) {
    let mut before: Vec<(&RawCache, Place)> = Vec::new();
    for raw in caches {
        let Some(text) = &raw.url else { continue };
        let place = CacheUrl::parse(text.get_ref()).ok().and_then(|url| Place::of(&url, text.get_ref()));
        let Some(place) = place else { continue };
        for (other, there) in &before {
            let (name, line) = (other.name.get_ref(), problems.line(&other.name.span()));
            let message = if there.at == place.at {
                format!("the cache `{name}` of line {line} is in the same place: leave one of the two out")
            } else if let Some(folder) = there.own_folder_of(&place) {
                format!(
                    "the cache `{name}` of line {line} has its folder `{folder}` for itself, and this one would lie in it: \
                     give this one another folder"
                )
            } else if let Some(folder) = place.own_folder_of(there) {
                format!(
                    "the cache `{name}` of line {line} lies in the folder `{folder}` of this one, which this one has for \
                     itself: give one of the two another folder"
                )
            } else {
                continue;
            };
            problems.add(text.span(), message);
            break;
        }
        before.push((raw, place));
    }
}

/// Where a cache is.
struct Place {
    /// What lies in a folder of it begins with the same and a slash.
    at: String,
    /// Whether its files lie there.
    has_files: bool,
}

impl Place {
    /// One program may serve several caches, by its arguments, and is no place.
    fn of(url: &CacheUrl, as_written: &str) -> Option<Self> {
        let at = match url {
            // Without a slash at its end.
            CacheUrl::File { dir, .. } => {
                format!("file:{}", dir.components().as_path().to_string_lossy().trim_end_matches('/'))
            }
            CacheUrl::Bucket { bucket, .. } => {
                let root = format!("{} {}/{}", bucket.scheme(), bucket.likely_endpoint(), bucket.bucket);
                if bucket.prefix.is_empty() { root } else { format!("{root}/{}", bucket.prefix) }
            }
            CacheUrl::Http { endpoint, .. } => endpoint.trim_end_matches('/').to_owned(),
            CacheUrl::Attic { .. } => url.normal(as_written),
            CacheUrl::Command { .. } => return None,
        };
        Some(Self { at, has_files: url.layout().is_some() })
    }

    /// The folder which this cache has for itself and in which another one lies, if it lies in one.
    fn own_folder_of<'o>(&self, other: &'o Self) -> Option<&'o str> {
        let below = other.at.strip_prefix(&*self.at)?.strip_prefix('/').filter(|_| self.has_files)?;
        below.split('/').next().filter(|folder| is_own_folder(folder))
    }
}
