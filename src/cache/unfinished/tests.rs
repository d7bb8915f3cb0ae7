//! Notes that are old, many, or of others.

use std::time::SystemTime;

use super::*;
use crate::cache::http::{Action, HttpError, ServerSays};

/// Deletes nothing, and counts how often it is asked to.
#[derive(Clone, Default)]
struct Refusing(Arc<AtomicUsize>);

impl Place for Refusing {
    fn name(&self) -> &str {
        "refusing"
    }

    fn address(&self) -> String {
        self.name().to_owned()
    }

    fn noted(&self, file: &str) -> String {
        file.to_owned()
    }

    async fn shown(&self, _: &str) -> Result<Option<String>, CacheError> {
        Ok(None)
    }

    async fn abort(&self, object: &str, _: &str) -> Result<(), CacheError> {
        self.delete(object).await
    }

    async fn delete(&self, _: &str) -> Result<(), CacheError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let error = HttpError::Status {
            action: Action::Delete,
            host: "https://h".to_owned(),
            status: 403,
            says: ServerSays::default(),
            retry_after: None,
            refused: String::new(),
        };
        Err(error.into())
    }
}

#[test]
fn what_is_left_elsewhere_is_told_of_for_a_while() {
    let dir = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str| fs::write(dir.path().join(name), "s3://b at https://h\nnar/a\na.narinfo\nid\n").expect("written");
    write("1.0");
    write("1.1");
    // Of this process, which takes it back by itself.
    write(&run::new_name());
    let old = File::options().write(true).open(dir.path().join("1.1")).expect("opened");
    old.set_modified(SystemTime::now() - REFUSED_KEPT_FOR).expect("made old");
    tell_of_cut_uploads(dir.path());
    let left = fs::read_dir(dir.path()).expect("a folder").flatten().map(|note| note.file_name());
    assert!(left.count() == 2 && !dir.path().join("1.1").exists());
}

#[tokio::test]
async fn notes_of_what_may_not_be_deleted_are_kept_within_bounds() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["1.0", "1.1", "1.2"] {
        fs::write(dir.path().join(name), format!("refusing\n{name}\na.narinfo\nid\n")).expect("written");
    }
    let old = File::options().write(true).open(dir.path().join("1.1")).expect("opened");
    old.set_modified(SystemTime::now() - REFUSED_KEPT_FOR).expect("made old");
    let left = || fs::read_dir(dir.path()).expect("a folder").count();
    let place = Refusing::default();
    let notes = Notes::open(dir.path()).expect("a folder");
    notes.clone().tidy_up(place.clone()).await;
    assert_eq!(place.0.load(Ordering::Relaxed), 3, "each is tried, and once");
    assert_eq!(left(), 2, "the old one is forgotten");
    notes.refused.store(REFUSED_KEPT, Ordering::Relaxed);
    notes.tidy_up(place).await;
    assert_eq!(left(), 0, "there are many");
}
