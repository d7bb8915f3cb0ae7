//! What the service goes by, the policy and the time zone, for those who look at the same meanwhile.

use super::{Queue, QueueError};

impl Queue {
    /// Notes the fingerprint of the policy file that is in force; `None` is the built-in policy.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_policy(&mut self, fingerprint: Option<&str>) -> Result<(), QueueError> {
        self.note("policy", Some(fingerprint.unwrap_or_default()), "note which policy is in force")
    }

    /// Whether a policy file of that fingerprint (`None`: there is no file) is what was noted last; `None` where nothing was.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn goes_by_policy(&self, fingerprint: Option<&str>) -> Result<Option<bool>, QueueError> {
        let noted = self.noted("policy", "ask which policy is in force")?;
        Ok(noted.map(|noted| noted == fingerprint.unwrap_or_default()))
    }

    /// Notes by what time zone windows open and close; `None` where that has no name.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_zone(&mut self, name: Option<&str>) -> Result<(), QueueError> {
        self.note("zone", name, "note which time zone is in force")
    }

    /// The time zone that was noted last; `None` where none was, or it has no name.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn zone(&self) -> Result<Option<String>, QueueError> {
        let noted = self.noted("zone", "ask which time zone is in force")?;
        Ok(noted.filter(|name| !name.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_in_force_is_told_from_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let beside = Queue::open_beside(dir.path()).expect("opened");
        let asked = |fingerprint| beside.goes_by_policy(fingerprint).expect("asked");
        assert_eq!(asked(None), None);
        for noted in [None, Some("a"), Some("b")] {
            queue.note_policy(noted).expect("noted");
            for other in [None, Some("a"), Some("b")] {
                assert_eq!(asked(other), Some(noted == other), "{noted:?} {other:?}");
            }
        }
    }
}
