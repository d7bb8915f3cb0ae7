//! What every binary cache has to stand, in one table: the same cases for a directory, a program, nginx with WebDAV, Garage,
//! and strict fakes of S3 with and without conditional PUT, of Google's interface and of Azure's.

mod arriving;
mod cut;
mod killed;
mod refused;
mod slow;

use crate::support::backend::Backend;
use crate::support::nix::Key;
use crate::support::{Nix, Reader, Running, ScratchStore, Storewatch, write_secret};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Why a case can't come to a backend.
enum Never {
    /// It is a directory of this host: there is nobody who could refuse, ask for a pause or a length, or be slow.
    NoServer,
    /// One exit code says it, whatever it was that credentials lack; the row of the wrong secret has it.
    OneCode,
    /// There is one secret, a token or an account's key, and no name beside it that could be wrong.
    OneSecret,
    /// The program speaks to its server by itself, and what is sent and left there is its own affair.
    ItsOwn,
    /// Between its two renames there is nothing to wait for. `crash` makes by hand what a kill leaves then.
    TooShort,
}

/// Makes a test of each case and backend, `CASE::BACKEND`, or has the word for why there is none.
macro_rules! table {
    ($($module:ident::$case:ident: $file:ident $program:ident $nginx:ident $garage:ident $fake_s3:ident $only_overwrites:ident
       $google:ident $azure:ident;)+) => {$(
        mod $case {
            use super::*;

            table!(@cell $module $case file $file);
            table!(@cell $module $case program $program);
            table!(@cell $module $case nginx $nginx);
            table!(@cell $module $case garage $garage);
            table!(@cell $module $case fake_s3 $fake_s3);
            table!(@cell $module $case fake_s3_that_only_overwrites $only_overwrites);
            table!(@cell $module $case fake_google $google);
            table!(@cell $module $case fake_azure $azure);
        }
    )+};
    (@cell $module:ident $case:ident $backend:ident tried) => {
        #[test]
        fn $backend() {
            let (Some(nix), Some(backend)) = (Nix::recent(), Backend::$backend()) else { return };
            $module::$case(&backend, &ScratchStore::new(&nix));
        }
    };
    (@cell $module:ident $case:ident $backend:ident $never:ident) => {
        const _: Never = Never::$never;
    };
}

// The columns: file, program, nginx, Garage, S3, S3 that only overwrites, Google, Azure.
table! {
    // Missing, uploaded, and uploaded again.
    arriving::a_closure_arrives_and_is_not_sent_again:
        tried    tried   tried tried tried tried tried     tried;
    arriving::two_at_once_end_with_one_good_narinfo:
        tried    tried   tried tried tried tried tried     tried;
    arriving::a_limit_holds_for_what_is_sent:
        NoServer ItsOwn  tried tried tried tried tried     tried;
    cut::what_is_cut_in_the_middle_arrives_later_and_leaves_nothing:
        tried    tried   tried tried tried tried tried     tried;
    // A reader that stands still for a while, one that is slow, and one that stops.
    cut::a_server_that_takes_nothing_for_a_while_gets_everything_in_the_end:
        NoServer ItsOwn  tried tried tried tried tried     tried;
    slow::a_reader_that_is_slower_than_a_time_out_is_waited_for_while_it_reads:
        NoServer tried   tried tried tried tried tried     tried;
    slow::a_reader_that_stops_is_given_up_and_nothing_is_left:
        NoServer ItsOwn  tried tried tried tried tried     tried;
    // Wrong credentials: the name, and the secret.
    refused::who_is_unknown_waits_to_be_known:
        NoServer OneCode tried tried tried tried OneSecret OneSecret;
    refused::a_wrong_secret_waits_for_the_right_one:
        NoServer tried   tried tried tried tried tried     tried;
    // Read-only.
    refused::who_may_only_read_waits_for_the_right_to_write:
        tried    OneCode tried tried tried tried tried     tried;
    // 503 SlowDown: at the opening, an archive, a part and a narinfo.
    refused::a_pause_that_is_asked_for_is_made_and_nothing_fails:
        NoServer tried   tried tried tried tried tried     tried;
    // 411.
    refused::who_wants_to_be_told_lengths_is_told:
        NoServer ItsOwn  tried tried tried tried tried     tried;
    // Killed by `kill -9`, and started again.
    killed::what_a_killed_upload_left_is_gone_after_the_next_start:
        tried    tried   tried tried tried tried tried     tried;
    killed::an_archive_that_was_not_shown_before_the_kill_is_gone_after_the_next_start:
        TooShort ItsOwn  tried tried tried tried tried     tried;
    killed::an_archive_whose_narinfo_was_on_its_way_is_named_after_the_next_start:
        TooShort ItsOwn  tried tried tried tried tried     tried;
}

/// A key that signs, in a file as the policy wants it, and its public half.
fn signing_key(storewatch: &Storewatch<'_>, key: &Key) -> PathBuf {
    let file = storewatch.state_dir().with_file_name("signing");
    write_secret(&file, std::fs::read_to_string(&key.secret).unwrap());
    file
}

/// Waits until nothing is left to do, and everything is done.
#[track_caller]
pub(crate) fn eventually_done(running: &mut Running, storewatch: &Storewatch<'_>, jobs: usize) {
    running
        .eventually("the queue's end", || storewatch.jobs_left().is_empty() && storewatch.jobs("done").len() >= jobs);
}

/// Waits until the cache takes nothing, for a reason with these words.
#[track_caller]
fn eventually_waits_because(running: &mut Running, storewatch: &Storewatch<'_>, words: &str) {
    running.eventually(&format!("the reason {words:?} in the status"), || {
        let status = storewatch.cache_status("team");
        assert_eq!(status["failed"], 0, "{status}");
        status["waiting_why"].as_str().is_some_and(|why| why.contains(words))
    });
}

/// Nix, which wants signatures, gets these paths and everything they need, and finds what was built; and what it doesn't look
/// at is true.
#[track_caller]
fn assert_read_back(backend: &Backend, store: &ScratchStore, key: &str, paths: &[String]) {
    let closure: Vec<String> =
        paths.iter().flat_map(|path| store.query_closure(path)).collect::<BTreeSet<_>>().into_iter().collect();
    let reader = Reader::empty(store);
    reader.copy_from(&backend.substituter(), key, paths).unwrap();
    assert!(reader.all_valid(&closure));
    assert_eq!(reader.contents(&closure), store.contents(&closure));
    backend.assert_true(&closure);
}
