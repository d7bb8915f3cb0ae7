//! `[limits]` as it stands in the file, and windows, which caches have too.

use std::ops::Range;

use toml::Spanned;

use super::keys::{LIMITS, WINDOW};
use super::problems::Problems;
use super::reader::{List, Table};

#[derive(Default)]
pub(super) struct RawLimits {
    pub(super) uploads: Option<Spanned<i64>>,
    pub(super) priority: Option<Spanned<String>>,
    pub(super) bandwidth: Option<Spanned<String>>,
    pub(super) backfill_bandwidth: Option<Spanned<String>>,
    pub(super) windows: Vec<RawWindow>,
    pub(super) metered: Option<Spanned<String>>,
    pub(super) battery: Option<Spanned<String>>,
}

pub(super) struct RawWindow {
    pub(super) span: Range<usize>,
    pub(super) days: Option<List>,
    pub(super) from: Option<Spanned<String>>,
    pub(super) to: Option<Spanned<String>>,
    pub(super) bandwidth: Option<Spanned<String>>,
    pub(super) backfill_bandwidth: Option<Spanned<String>>,
}

impl RawLimits {
    pub(super) fn read(top: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        let Some(table) = top.table("limits", "[limits]", &LIMITS, problems) else { return Self::default() };
        Self {
            uploads: table.integer("uploads", problems),
            priority: table.string("priority", problems),
            bandwidth: table.text_or_number("bandwidth", problems),
            backfill_bandwidth: table.text_or_number("backfill_bandwidth", problems),
            windows: RawWindow::read_all(&table, problems),
            metered: table.text_or_number("metered", problems),
            battery: table.text_or_number("battery", problems),
        }
    }
}

impl RawWindow {
    /// The windows of a table.
    pub(super) fn read_all(table: &Table<'_>, problems: &mut Problems<'_>) -> Vec<Self> {
        let windows = table.tables("windows", "window", &WINDOW, problems);
        windows.iter().map(|window| Self::read(window, problems)).collect()
    }

    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        table.require("from", problems);
        table.require("to", problems);
        Self {
            span: table.span.clone(),
            days: table.one_or_list("days", problems),
            from: table.string("from", problems),
            to: table.string("to", problems),
            bandwidth: table.text_or_number("bandwidth", problems),
            backfill_bandwidth: table.text_or_number("backfill_bandwidth", problems),
        }
    }
}
