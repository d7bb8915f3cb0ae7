//! How storewatch stands back behind what else runs on this host.
//!
//! To be called before there are threads, which inherit it.

use tracing::{debug, warn};

use crate::config::Priority;

/// Niceness at low priority: below everything that people wait for, and yet enough to get on with on a host that is
/// always busy (at 19, a busy host leaves some hundredths of a processor). The kernel derives the I/O priority from it.
const LOW: i32 = 10;

/// Lowers this process's CPU priority, and with it its I/O priority.
pub fn set_priority(priority: Priority) {
    let nice = match priority {
        Priority::Low => LOW,
        Priority::Normal => return,
    };
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|now| if now >= nice { Ok(()) } else { rustix::process::setpriority_process(None, nice) });
    if let Err(errno) = lowered {
        warn!("the priority can't be lowered: {errno}");
    }
}

/// At low priority, leaves one of the processors of this process to others, if it has several.
///
/// A build is many processes that wait for each other. Whichever begins then finds a processor free at once, where a low
/// priority alone would let it wait for the scheduler to take one away from uploads: 100 trivial builds on two processors
/// take 3 or 4 % longer instead of up to 8. On a host with two, packing takes twice as long for it.
pub fn leave_a_processor(priority: Priority) {
    if let Priority::Low = priority
        && let Err(errno) = narrow()
    {
        // Where there are more processors than a set has places, one is not missed.
        debug!("no processor can be left to others: {errno}");
    }
}

/// Leaves the first one, to which most interrupts go, too.
#[cfg(target_os = "linux")]
fn narrow() -> rustix::io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let mut processors = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|number| processors.is_set(*number));
    match first {
        Some(first) if processors.count() > 1 => {
            processors.unset(first);
            sched_setaffinity(None, &processors)
        }
        _ => Ok(()),
    }
}

/// Elsewhere processors aren't handed out.
#[cfg(not(target_os = "linux"))]
fn narrow() -> rustix::io::Result<()> {
    Ok(())
}
