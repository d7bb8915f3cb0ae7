//! Which paths are pinned: as many as the budget allows, in the order in which they are offered.

/// What is left of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    whole: u64,
    left: u64,
}

/// What a budget says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is pinned.
    Pin,
    /// It is larger than all of the budget, and so no reason to do without the others.
    PassOver,
    /// The budget is spent: it and all behind it are released.
    Spent,
}

impl Budget {
    /// So many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self { whole: bytes, left: bytes }
    }

    /// Whether a path whose archive has so many bytes is pinned, too.
    pub(super) fn offer(&mut self, bytes: u64) -> Verdict {
        if bytes > self.whole {
            return Verdict::PassOver;
        }
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Verdict::Pin
            }
            None => Verdict::Spent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;

    #[test]
    fn the_first_ones_are_pinned_as_far_as_the_budget_goes() {
        for (budget, sizes, expected) in [
            (10, vec![4, 6, 0], vec![Pin, Pin, Pin]),
            (10, vec![4, 7, 1], vec![Pin, Spent, Pin]),
            (10, vec![11, 10], vec![PassOver, Pin]),
            (0, vec![0, 1], vec![Pin, PassOver]),
            (u64::MAX, vec![u64::MAX, 1], vec![Pin, Spent]),
        ] {
            let mut left = Budget::new(budget);
            let verdicts: Vec<_> = sizes.iter().map(|size| left.offer(*size)).collect();
            assert_eq!(verdicts, expected, "{budget} for {sizes:?}");
        }
    }
}
