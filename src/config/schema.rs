//! The JSON schema of the policy file, by which editors complete and check it.

/// The schema, JSON Schema draft 7: what Taplo and the TOML extensions of editors understand.
pub const SCHEMA: &str = include_str!("schema.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::keys::{CACHE, DISK, Keys, LIMITS, MATCH, RULE, SOURCE, STORE, TOP, UPSTREAMS, WINDOW};
    use super::*;

    #[test]
    fn the_schema_has_the_keys_that_the_reader_takes() {
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        for (pointer, keys) in [
            ("", &TOP),
            ("/properties/store", &STORE),
            ("/definitions/cache", &CACHE),
            ("/definitions/source", &SOURCE),
            ("/properties/upstreams", &UPSTREAMS),
            ("/properties/limits", &LIMITS),
            ("/definitions/window", &WINDOW),
            ("/properties/disk", &DISK),
            ("/definitions/rule", &RULE),
            ("/definitions/match", &MATCH),
        ] {
            let table = schema.pointer(pointer).expect(pointer);
            assert_keys(pointer, table, keys);
        }
    }

    fn assert_keys(pointer: &str, table: &Value, keys: &Keys) {
        let properties = table["properties"].as_object().expect(pointer);
        let described: BTreeSet<_> = properties.keys().map(String::as_str).collect();
        assert_eq!(described, keys.names().collect(), "{pointer}");
        assert_eq!(table["additionalProperties"], Value::Bool(false), "{pointer}");
        for (key, property) in properties {
            assert!(property["description"].is_string(), "{pointer}/{key} has no description");
        }
    }
}
