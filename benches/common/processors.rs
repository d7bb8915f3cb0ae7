//! Where a server is at work, and where its clients are.

/// Which processors each of them may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processors {
    /// The server the first one, its clients the others, as if it were on another machine.
    Apart,
    /// All of them all.
    Shared,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::LazyLock;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::Processors;

    static ALL: LazyLock<CpuSet> = LazyLock::new(|| sched_getaffinity(None).unwrap());

    impl Processors {
        /// What this thread starts from now on runs where servers do.
        pub fn of_servers(self) {
            self.take(|number, first| number == first);
        }

        /// What this thread starts from now on runs where clients do.
        pub fn of_clients(self) {
            self.take(|number, first| number != first);
        }

        fn take(self, is_theirs: impl Fn(usize, usize) -> bool) {
            let mut some = *ALL;
            if self == Self::Apart && some.count() > 1 {
                let all: Vec<_> = (0..CpuSet::MAX_CPU).filter(|number| ALL.is_set(*number)).collect();
                all.iter().filter(|number| !is_theirs(**number, all[0])).for_each(|number| some.unset(*number));
            }
            sched_setaffinity(None, &some).unwrap();
        }
    }
}

/// Elsewhere processors aren't handed out.
#[cfg(not(target_os = "linux"))]
impl Processors {
    pub fn of_servers(self) {}

    pub fn of_clients(self) {}
}
