//! Whether the Nix database is still the one in which the cursor was set.

use crate::nix::{Identity, RowMark};
use crate::queue::Cursor;

/// What the database shows, to be held against the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Device and inode.
    pub identity: Identity,
    /// The highest id ever given; a garbage collection doesn't lower it.
    pub last_id: i64,
    /// The row that the cursor is marked by, if it still exists.
    pub row: Option<RowMark>,
}

/// Says why the database is another one than the cursor's; `None` if it is the same.
///
/// Ids only grow, so a database whose last one lies below the cursor was restored or made anew. A row under the cursor's
/// number that isn't the cursor's says the same. A row that is gone says nothing, garbage collection takes rows; but
/// together with another file it means that nothing speaks for the same database, and so does a cursor without a mark.
/// Another file alone is no sign: device numbers change at a reboot.
#[must_use]
pub fn check(cursor: &Cursor, seen: &Seen) -> Option<&'static str> {
    let same_file = cursor.file == (seen.identity.dev, seen.identity.ino);
    if seen.last_id < cursor.row {
        return Some("the Nix database has gone back behind what was read of it");
    }
    match (&cursor.mark, &seen.row) {
        (Some(mark), Some(row)) if mark.is_other_than(row) => {
            Some("the Nix database holds another path where reading had stopped")
        }
        (None, _) if cursor.row > 0 && !same_file => {
            Some("the Nix database is another file, and nothing in it is known")
        }
        (Some(_), None) if !same_file => Some("the Nix database is another file, and what was read last is not in it"),
        _ => None,
    }
}

/// Whether the cursor, which belongs to this database, says so by what is there now. Else it has to be written anew, before
/// the next garbage collection, or a reboot, takes away what still speaks for the same database.
#[must_use]
pub fn is_current(cursor: &Cursor, seen: &Seen) -> bool {
    let same_file = cursor.file == (seen.identity.dev, seen.identity.ino);
    same_file && (seen.row.is_some() || cursor.row == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Mark;

    fn cursor(row: i64, path: Option<&str>) -> Cursor {
        let mark = path.map(|path| Mark { row, path: path.to_owned(), time: 100 });
        Cursor { row, mark, file: (1, 2), rescan_to: 0 }
    }

    fn seen(ino: u64, last_id: i64, path: Option<&str>) -> Seen {
        let row = path.map(|path| RowMark { path: path.to_owned(), registration_time: 100 });
        Seen { identity: Identity { dev: 1, ino }, last_id, row }
    }

    #[test]
    fn the_same_database_goes_on() {
        for (cursor, seen) in [
            (cursor(7, Some("a")), seen(2, 7, Some("a"))),
            (cursor(7, Some("a")), seen(2, 9, Some("a"))),
            // Collected meanwhile.
            (cursor(7, Some("a")), seen(2, 9, None)),
            // Copied to another disk, or the device has another number since the reboot.
            (cursor(7, Some("a")), seen(3, 9, Some("a"))),
            // Nothing was left to mark it by.
            (cursor(7, None), seen(2, 9, None)),
            // An empty store.
            (cursor(0, None), seen(2, 0, None)),
            (cursor(0, None), seen(3, 9, None)),
        ] {
            assert_eq!(check(&cursor, &seen), None, "{cursor:?} {seen:?}");
        }
    }

    #[test]
    fn another_database_is_noticed() {
        for (cursor, seen) in [
            (cursor(7, Some("a")), seen(2, 6, None)),
            (cursor(7, Some("a")), seen(2, 9, Some("b"))),
            (cursor(7, Some("a")), seen(3, 9, None)),
            (cursor(7, None), seen(3, 0, None)),
            (cursor(7, None), seen(3, 9, None)),
        ] {
            assert!(check(&cursor, &seen).is_some(), "{cursor:?} {seen:?}");
        }
    }
    #[test]
    fn what_speaks_for_the_same_database_is_kept_current() {
        assert!(is_current(&cursor(7, Some("a")), &seen(2, 7, Some("a"))));
        assert!(is_current(&cursor(0, None), &seen(2, 0, None)));
        for (cursor, seen) in [
            (cursor(7, Some("a")), seen(3, 7, Some("a"))),
            (cursor(7, Some("a")), seen(2, 7, None)),
            (cursor(7, None), seen(2, 7, None)),
        ] {
            assert_eq!(check(&cursor, &seen), None);
            assert!(!is_current(&cursor, &seen), "{cursor:?} {seen:?}");
        }
    }
}
