//! The file that the system writes of a process that has crashed.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the system write no core file of this process, should it crash: its memory has secrets in it, and such files are kept
/// for long, and sent to others. What systemd or another program would collect goes by the same limit. Programs that this
/// process runs may raise it for themselves.
pub fn leave_no_core_file() {
    let limits = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    // To lower a limit of one's own is always allowed.
    let _ = setrlimit(Resource::Core, limits);
}
