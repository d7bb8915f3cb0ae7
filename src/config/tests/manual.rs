//! What docs/policy.md says is what the reader takes.

use super::good;
use crate::config::keys::TABLES;

/// What stands between ```` ```toml ```` and ```` ``` ````.
fn toml_blocks(markdown: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        match line.trim() {
            "```toml" => {
                inside = true;
                blocks.push(String::new());
            }
            "```" => inside = false,
            _ if inside => {
                let block = blocks.last_mut().expect("one was begun");
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

#[test]
fn examples_of_commands_are_right() {
    let blocks = toml_blocks(include_str!("../../../docs/commands.md"));
    assert!(blocks.len() >= 4);
    for block in &blocks {
        good(block);
    }
}

#[test]
fn the_manual_is_right() {
    let manual = include_str!("../../../docs/policy.md");
    let blocks = toml_blocks(manual);
    for block in &blocks {
        let config = good(block);
        assert!(config.warnings.is_empty(), "{block}");
    }
    for (table, keys) in TABLES {
        for key in keys.names() {
            assert!(
                manual.contains(&format!("`{key}`")) || manual.contains(&format!("[{key}")),
                "{table} {key} is missing"
            );
            let given = |line: &str| {
                line.starts_with(&format!("{key} ="))
                    || line.contains(&format!("{{ {key} ="))
                    || line.contains(&format!("[{key}"))
            };
            assert!(blocks.iter().any(|block| block.lines().any(given)), "{table} {key} has no example");
        }
    }
}
