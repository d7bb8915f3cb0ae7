//! Reads tables of known keys and types out of a parsed TOML file, and says what is wrong with them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{Keys, TABLES};
use super::problems::Problems;

/// A list, and each of its elements with its place.
pub(super) type List = Spanned<Vec<Spanned<String>>>;

/// A table whose keys are known.
pub(super) struct Table<'t> {
    /// What messages call it: `[caches.team]`.
    what: String,
    keys: &'static Keys,
    entries: &'t DeTable<'t>,
    /// Its header, or all of it where it is written in one line.
    pub(super) span: Range<usize>,
}

impl<'t> Table<'t> {
    /// Takes a table and reports the keys that are unknown in it.
    pub(super) fn new(
        what: impl Into<String>,
        keys: &'static Keys,
        entries: &'t DeTable<'t>,
        span: Range<usize>,
        problems: &mut Problems<'_>,
    ) -> Self {
        let table = Self { what: what.into(), keys, entries, span };
        for key in entries.keys() {
            if !keys.names().any(|known| known == key.get_ref()) {
                problems.add(key.span(), table.unknown(key.get_ref()));
            }
        }
        table
    }

    fn unknown(&self, key: &str) -> String {
        let what = &self.what;
        let hint = suggestion(key, self.keys.names()).unwrap_or_else(|| {
            let home = TABLES.iter().find(|(_, keys)| keys.names().any(|known| known == key));
            match home {
                Some((table, _)) => format!("it belongs to {table}"),
                None => format!("known are {}", listed(self.keys.names())),
            }
        });
        format!("unknown key `{key}` in {what}: {hint}")
    }

    /// What is there, key by key in the order of the file, each with the key's place.
    pub(super) fn given(&self) -> Vec<(&'static str, Range<usize>)> {
        let place = |key| Some((key, self.entries.get_key_value(key)?.0.span()));
        let mut given: Vec<_> = self.keys.names().filter_map(place).collect();
        given.sort_by_key(|(_, place)| place.start);
        given
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.keys.names().any(|known| known == key), "`{key}` is not in the list of keys");
        self.entries.get(key)
    }

    /// What to write for a key.
    pub(super) fn example(&self, key: &str) -> &'static str {
        self.keys.example(key)
    }

    /// Reports a key that must be there and isn't.
    pub(super) fn require(&self, key: &str, problems: &mut Problems<'_>) {
        if self.get(key).is_none() {
            let example = self.keys.example(key);
            problems.add(self.span.clone(), format!("{} has no `{key}`: write `{example}`", self.what));
        }
    }

    pub(super) fn wrong_type(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        problems: &mut Problems<'_>,
    ) {
        let (found, example) = (type_of(value.get_ref()), self.keys.example(key));
        problems.add(value.span(), format!("`{key}` is {found}, expected {expected}: write `{example}`"));
    }

    pub(super) fn string(&self, key: &str, problems: &mut Problems<'_>) -> Option<Spanned<String>> {
        let value = self.get(key)?;
        let string = as_string(value);
        if string.is_none() {
            self.wrong_type(key, value, "a string", problems);
        }
        string
    }

    /// A string, or a whole number as it is written.
    pub(super) fn text_or_number(&self, key: &str, problems: &mut Problems<'_>) -> Option<Spanned<String>> {
        let value = self.get(key)?;
        let number = || value.get_ref().as_integer().map(|int| Spanned::new(value.span(), int.as_str().to_owned()));
        let text = as_string(value).or_else(number);
        if text.is_none() {
            self.wrong_type(key, value, "a string", problems);
        }
        text
    }

    pub(super) fn boolean(&self, key: &str, problems: &mut Problems<'_>) -> Option<Spanned<bool>> {
        let value = self.get(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false", problems);
        }
        boolean.map(|boolean| Spanned::new(value.span(), boolean))
    }

    pub(super) fn integer(&self, key: &str, problems: &mut Problems<'_>) -> Option<Spanned<i64>> {
        let value = self.get(key)?;
        let integer = value.get_ref().as_integer().and_then(|int| i64::from_str_radix(int.as_str(), int.radix()).ok());
        match integer {
            Some(_) => {}
            None if value.get_ref().is_integer() => {
                let example = self.keys.example(key);
                problems.add(value.span(), format!("`{key}` is a number that is too large: write `{example}`"));
            }
            None => self.wrong_type(key, value, "a whole number", problems),
        }
        integer.map(|integer| Spanned::new(value.span(), integer))
    }

    /// A list of strings.
    pub(super) fn list(&self, key: &str, problems: &mut Problems<'_>) -> Option<List> {
        let value = self.get(key)?;
        if value.get_ref().as_array().is_none() {
            self.wrong_type(key, value, "a list of strings", problems);
            return None;
        }
        self.one_or_list(key, problems)
    }

    /// A string, or a list of strings.
    pub(super) fn one_or_list(&self, key: &str, problems: &mut Problems<'_>) -> Option<List> {
        let value = self.get(key)?;
        if let Some(one) = as_string(value) {
            return Some(Spanned::new(value.span(), vec![one]));
        }
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a string or a list of strings", problems);
            return None;
        };
        let mut strings = Vec::new();
        for element in elements.iter() {
            match as_string(element) {
                Some(string) => strings.push(string),
                None => {
                    let found = type_of(element.get_ref());
                    problems.add(element.span(), format!("`{key}` has {found} in its list, expected strings only"));
                }
            }
        }
        Some(Spanned::new(value.span(), strings))
    }

    /// A table in this one; an empty one stands in where it isn't there.
    pub(super) fn table(
        &self,
        key: &str,
        what: &str,
        keys: &'static Keys,
        problems: &mut Problems<'_>,
    ) -> Option<Table<'t>> {
        let value = self.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table", problems);
            return None;
        };
        Some(Table::new(what, keys, entries, value.span(), problems))
    }

    /// What a table holds whose keys are names that people choose, in the order of the file.
    pub(super) fn named(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> Vec<(Spanned<String>, &'t Spanned<DeValue<'t>>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table", problems);
            return Vec::new();
        };
        let name = |name: &Spanned<DeString<'_>>| Spanned::new(name.span(), name.get_ref().clone().into_owned());
        let mut entries: Vec<_> = entries.iter().map(|(key, value)| (name(key), value)).collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
    }

    /// Tables by names that people choose, in the order of the file: name, and the table.
    pub(super) fn named_tables(
        &self,
        key: &str,
        keys: &'static Keys,
        problems: &mut Problems<'_>,
    ) -> Vec<(Spanned<String>, Table<'t>)> {
        let mut tables = Vec::new();
        for (name, value) in self.named(key, problems) {
            let what = format!("[{key}.{}]", name.get_ref());
            match value.get_ref().as_table() {
                Some(entries) => tables.push((name, Table::new(what, keys, entries, value.span(), problems))),
                None => {
                    let found = type_of(value.get_ref());
                    problems.add(value.span(), format!("{what} is {found}, expected a table: write `{what}`"));
                }
            }
        }
        tables
    }

    /// Tables in a list: `[[rules]]`. Messages call each by `what` and its number.
    pub(super) fn tables(
        &self,
        key: &str,
        what: &str,
        keys: &'static Keys,
        problems: &mut Problems<'_>,
    ) -> Vec<Table<'t>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", problems);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (at, element) in elements.iter().enumerate() {
            match element.get_ref().as_table() {
                Some(entries) => {
                    let what = format!("{what} {}", at + 1);
                    tables.push(Table::new(what, keys, entries, element.span(), problems));
                }
                None => self.wrong_type(key, element, "a table", problems),
            }
        }
        tables
    }
}

pub(super) fn as_string(value: &Spanned<DeValue<'_>>) -> Option<Spanned<String>> {
    value.get_ref().as_str().map(|text| Spanned::new(value.span(), text.to_owned()))
}

pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `did you mean …?`, where one of the known words is near.
pub(super) fn suggestion<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    // A third of the letters may be wrong: `uplods` is meant, `skip` for `ship` too, but `to` for `no` is a guess.
    let near = |other: &str| word.chars().count().max(other.chars().count()) / 3;
    known
        .map(|other| (strsim::damerau_levenshtein(&word.to_lowercase(), other), other))
        .filter(|(distance, other)| *distance <= near(other))
        .min()
        .map(|(_, other)| format!("did you mean `{other}`?"))
}

/// `` `a`, `b`, `c` ``
pub(super) fn listed<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
