//! Hosts and links of all kinds, and how archives are packed for them.

use proptest::prelude::*;

use super::*;

/// A host and a link as they may be.
#[derive(Clone, Debug)]
struct Line {
    /// Seconds that a MiB takes to be packed, by level from [`FLOOR`] on.
    packing: Vec<f64>,
    /// Seconds that reading a MiB takes.
    reading: f64,
    /// MiB that the link takes in a second.
    link: f64,
    /// Whether an archive is sent while it is packed, or afterwards.
    overlaps: bool,
}

impl Line {
    fn upload(&self, effort: Effort, mib: f64) -> Measured {
        let (busy, sent) = match effort {
            Effort::AsItIs => (0.0, mib),
            Effort::Level(level) => {
                let busy = mib * self.packing[usize::try_from(level - FLOOR).expect("a level")];
                // Each level packs a little smaller.
                (busy, mib * 0.35 * 0.98_f64.powi(level))
            }
        };
        let (reading, sent) = (mib * self.reading, sent / self.link);
        let elapsed = reading + if self.overlaps { busy.max(sent) } else { busy + sent };
        Measured {
            effort,
            nar_size: (mib * 1_048_576.0) as u64,
            busy: Duration::from_secs_f64(busy),
            reading: Duration::from_secs_f64(if effort == Effort::AsItIs { 0.0 } else { reading }),
            elapsed: Duration::from_secs_f64(elapsed),
        }
    }

    /// The efforts of so many uploads, one after the other.
    fn efforts(&self, pace: &Pace, sizes: &[f64], uploads: usize) -> Vec<Effort> {
        let mut now = Instant::now();
        let next = |n: usize| {
            let mib = sizes[n % sizes.len()];
            let effort = pace.lock().next_effort((mib * 1_048_576.0) as u64, now);
            let upload = self.upload(effort, mib);
            now += upload.elapsed;
            let balance = pace.lock().after(upload, now);
            *pace.lock() = balance;
            effort
        };
        (0..uploads).map(next).collect()
    }
}

prop_compose! {
    fn lines()(
        first in 0.0005..0.02_f64,
        reading in 0.0..0.01_f64,
        steps in prop::collection::vec(1.0..2.9_f64, usize::try_from(CEILING - FLOOR).expect("levels")),
        link in prop::sample::select(vec![0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 1_000.0, 100_000.0]),
        overlaps in any::<bool>(),
    ) -> Line {
        let mut packing = vec![first];
        steps.iter().for_each(|step| packing.push(packing[packing.len() - 1] * step));
        Line { packing, reading, link, overlaps }
    }
}

fn paces() -> [Pace; 2] {
    [Pace::default(), Pace::over_a_line()]
}

proptest! {
    #[test]
    fn it_stays_within_bounds_and_comes_to_rest(line in lines(), sizes in prop::collection::vec(20.0..200.0_f64, 1..8)) {
        for (pace, packs_all) in paces().into_iter().zip([true, false]) {
            let efforts = line.efforts(&pace, &sizes, 5_000);
            let is_within = |effort: &Effort| match effort {
                Effort::AsItIs => !packs_all,
                Effort::Level(level) => (FLOOR..=CEILING).contains(level),
            };
            prop_assert!(efforts.iter().all(is_within));
            let at_rest = &efforts[4_000..];
            prop_assert!(at_rest.iter().all(|effort| *effort == at_rest[0]), "{:?}", &at_rest[..20]);
        }
    }

    #[test]
    fn another_line_is_followed(line in lines()) {
        for (pace, least) in paces().into_iter().zip([Effort::Level(FLOOR), Effort::AsItIs]) {
            line.efforts(&pace, &[50.0], 1_000);
            for _ in 0..2 {
                let slow = Line { link: 1e-4, ..line.clone() };
                let at_rest = slow.efforts(&pace, &[50.0], 1_000)[999];
                prop_assert_eq!(at_rest, Effort::Level(CEILING), "a slow link is worth all effort");
                // What is read in no time takes none.
                let fast = Line { link: 1e9, reading: 0.0, ..line.clone() };
                prop_assert_eq!(fast.efforts(&pace, &[50.0], 1_000)[999], least, "a fast one none");
            }
        }
    }

    // Whatever the line is like, nothing that rests takes twice as long as packing.
    #[test]
    fn what_is_sent_as_it_is_is_sent_faster(line in lines()) {
        let pace = Pace::over_a_line();
        if line.efforts(&pace, &[50.0], 5_000)[4_999] == Effort::AsItIs {
            let took = |effort| line.upload(effort, 50.0).elapsed;
            prop_assert!(took(Effort::AsItIs) * 2 <= took(Effort::Level(START)) + Duration::from_millis(1));
        }
    }
}

/// A cache over a line for which packers are waited, a MiB a second.
fn waited_for() -> Balance {
    Balance { as_it_is: AsItIs::Untried, ..Balance::default() }.after_uploads(Effort::Level(START), Instant::now())
}

fn mib(effort: Effort) -> Measured {
    let second = Duration::from_secs(1);
    Measured { effort, nar_size: MEASURED_FROM, busy: second, reading: Duration::ZERO, elapsed: second }
}

impl Balance {
    /// As many uploads later as say what an effort is like.
    fn after_uploads(self, effort: Effort, now: Instant) -> Self {
        (0..ENOUGH.0).fold(self, |balance, _| balance.after(mib(effort), now))
    }
}

const LEAST: Effort = Effort::Level(FLOOR);

#[test]
fn a_small_archive_is_not_tried_as_it_is_since_it_would_say_nothing() {
    let (mut balance, now) = (waited_for(), Instant::now());
    assert_eq!(balance.next_effort(MEASURED_FROM - 1, now), LEAST);
    assert_eq!([0, 1].map(|_| balance.next_effort(MEASURED_FROM, now)), [Effort::AsItIs, LEAST], "one is");
}

#[test]
fn an_archive_that_is_sent_as_it_is_and_never_arrives_is_followed_by_another() {
    let (mut balance, begun) = (waited_for(), Instant::now());
    assert_eq!(balance.next_effort(MEASURED_FROM, begun), Effort::AsItIs);
    balance = balance.after_uploads(LEAST, begun);
    assert_eq!(balance.next_effort(MEASURED_FROM, begun), LEAST, "it may still be under way");
    let later = begun + TRIED_FOR;
    assert_eq!(balance.next_effort(MEASURED_FROM, later), LEAST, "not before packers are waited for again");
    balance = balance.after_uploads(LEAST, later);
    assert_eq!(
        [balance.next_effort(MEASURED_FROM, later), balance.next_effort(MEASURED_FROM, later)],
        [Effort::AsItIs, LEAST]
    );
    // It arrives, and took as long.
    let mut tried = balance.after(mib(Effort::AsItIs), later).after_uploads(LEAST, later + TRIED_FOR);
    assert_eq!(tried.next_effort(MEASURED_FROM, later + TRIED_FOR), LEAST, "the link has said what it is like");
    let fast = Measured { elapsed: Duration::from_millis(400), ..mib(Effort::AsItIs) };
    assert_eq!(balance.after(fast, later).effort, Effort::AsItIs);
}

#[test]
fn what_says_nothing_of_the_level_changes_nothing() {
    let pace = Pace::default();
    let idle = Measured {
        effort: Effort::Level(START),
        nar_size: 64 << 20,
        busy: Duration::from_millis(1),
        reading: Duration::ZERO,
        elapsed: Duration::from_secs(9),
    };
    let effort = || pace.lock().effort;
    for _ in 0..100 {
        pace.note(Measured { effort: Effort::Level(START + 1), ..idle });
        pace.note(Measured { nar_size: MEASURED_FROM - 1, ..idle });
    }
    assert_eq!(effort(), Effort::Level(START));
    for _ in 0..ENOUGH.0 {
        pace.note(idle);
    }
    assert_eq!(effort(), Effort::Level(START + 1));
    // One that seems to be packed for longer than it took is no reason to panic.
    pace.note(Measured { effort: Effort::Level(START + 1), busy: Duration::from_secs(99), ..idle });
    assert_eq!(effort(), Effort::Level(START + 1));
}
