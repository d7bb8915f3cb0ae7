//! One row of `ValidPaths`, made into a [`PathInfo`]. This is what a first scan of a million rows spends its time in.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use crate::nix::{NarHash, PathInfo, StoreDir, StorePath};

/// What is selected, in this order, by both statements; the columns that Nix before 2.0 didn't have come last.
const REQUIRED: [&str; 4] = ["id", "path", "hash", "registrationTime"];
const OPTIONAL: [&str; 5] = ["deriver", "narSize", "ultimate", "sigs", "ca"];

/// The two statements that read whole rows, with `NULL` for what an old schema lacks.
pub(super) struct Columns {
    batch_sql: String,
    path_sql: String,
}

impl Columns {
    /// Looks at the tables. The inner error says why they aren't Nix's.
    pub(super) fn look_up(connection: &Connection) -> rusqlite::Result<Result<Self, String>> {
        let valid_paths = columns_of(connection, "ValidPaths")?;
        if let Some(missing) = REQUIRED.iter().find(|column| !valid_paths.iter().any(|found| found == *column)) {
            return Ok(Err(format!("it has no column `ValidPaths.{missing}`")));
        }
        let refs = columns_of(connection, "Refs")?;
        if let Some(missing) =
            ["referrer", "reference"].iter().find(|column| !refs.iter().any(|found| found == *column))
        {
            return Ok(Err(format!("it has no column `Refs.{missing}`")));
        }
        let optional =
            OPTIONAL.iter().map(|column| if valid_paths.iter().any(|found| found == column) { column } else { "NULL" });
        let selected = REQUIRED.into_iter().chain(optional).collect::<Vec<_>>().join(", ");
        Ok(Ok(Self {
            batch_sql: format!("SELECT {selected} FROM ValidPaths WHERE id > ?1 ORDER BY id"),
            path_sql: format!("SELECT {selected} FROM ValidPaths WHERE path = ?1"),
        }))
    }

    /// Rows behind an id, ascending.
    pub(super) fn batch_sql(&self) -> &str {
        &self.batch_sql
    }

    /// The row of one full path.
    pub(super) fn path_sql(&self) -> &str {
        &self.path_sql
    }
}

fn columns_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// Reads a row of one of the statements above; the error says what is wrong with it.
pub(super) fn path_info(row: &Row<'_>, id: i64, store_dir: &StoreDir) -> Result<PathInfo, String> {
    let path = store_path(row, 1, store_dir)?;
    let hash = text(row, 2, "hash")?.ok_or("hash: missing")?;
    let nar_hash = nar_hash(hash).ok_or_else(|| format!("hash: `{hash}` is no SHA-256"))?;
    let deriver = match text(row, 4, "deriver")? {
        None => None,
        // A rule may deny by deriver, so an unreadable one isn't none.
        Some(full) => Some(store_dir.parse(full).map_err(|error| format!("deriver: {error}"))?),
    };
    Ok(PathInfo {
        id: Some(id),
        path,
        nar_hash,
        nar_size: u64::try_from(integer(row, 5)).unwrap_or(0),
        registration_time: integer(row, 3),
        deriver,
        ultimate: integer(row, 6) == 1,
        sigs: text(row, 7, "sigs")?
            .map_or_else(Vec::new, |sigs| sigs.split_ascii_whitespace().map(str::to_owned).collect()),
        ca: text(row, 8, "ca")?.map(str::to_owned),
        references: None,
    })
}

/// Reads a column that holds a full store path.
pub(super) fn store_path(row: &Row<'_>, column: usize, store_dir: &StoreDir) -> Result<StorePath, String> {
    let full = text(row, column, "path")?.ok_or("path: missing")?;
    store_dir.parse(full).map_err(|error| format!("path: {error}"))
}

/// A text column; `None` for NULL and for the empty text, which some versions of Nix wrote instead.
fn text<'r>(row: &'r Row<'_>, column: usize, name: &str) -> Result<Option<&'r str>, String> {
    match row.get_ref(column).map_err(|error| error.to_string())? {
        ValueRef::Null | ValueRef::Text(b"") => Ok(None),
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).map(Some).map_err(|_| format!("{name}: `{}` is not UTF-8", bytes.escape_ascii()))
        }
        other => Err(format!("{name}: {}, not text", other.data_type())),
    }
}

/// An integer column, 0 for NULL and anything else.
fn integer(row: &Row<'_>, column: usize) -> i64 {
    row.get_ref(column).ok().and_then(|value| value.as_i64_or_null().ok().flatten()).unwrap_or(0)
}

/// Takes `sha256:` and 64 hexadecimal digits, as every Nix of the last decade writes it, or 52 of base 32, which Nix reads too.
fn nar_hash(text: &str) -> Option<NarHash> {
    NarHash::from_hex(text).ok().or_else(|| from_nix32(text.strip_prefix("sha256:")?))
}

/// The reverse of [`NarHash::to_nix32`].
fn from_nix32(digits: &str) -> Option<NarHash> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    if digits.len() != 52 {
        return None;
    }
    let mut hash = [0_u8; 32];
    for (n, digit) in digits.bytes().rev().enumerate() {
        let value = ALPHABET.iter().position(|letter| *letter == digit)?;
        let (index, shift) = (n * 5 / 8, n * 5 % 8);
        let bits = value << shift;
        hash[index] |= (bits & 0xff) as u8;
        match hash.get_mut(index + 1) {
            Some(next) => *next |= (bits >> 8) as u8,
            // 52 digits carry 260 bits; the uppermost four must be 0.
            None if bits >> 8 != 0 => return None,
            None => {}
        }
    }
    Some(NarHash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_hash_are_one() {
        let hex = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let nix32 = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(nar_hash(hex), NarHash::from_hex(hex).ok());
        assert_eq!(nar_hash(nix32), nar_hash(hex));
        // The first digit stands for the last bit and four that don't exist.
        assert_eq!(nar_hash(&nix32.replacen(":0", ":2", 1)), None);
        assert_eq!(nar_hash(&nix32.replacen(":0", ":e", 1)), None);
    }

    #[test]
    fn base_32_reads_what_it_wrote() {
        for seed in 0..=255_u8 {
            let hash =
                NarHash(std::array::from_fn(|n| seed.wrapping_mul(37).wrapping_add((n as u8).wrapping_mul(seed))));
            assert_eq!(from_nix32(&hash.to_nix32()), Some(hash));
        }
    }
}
