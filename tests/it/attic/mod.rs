//! Attic as a cache, with a strict fake and with a real server.

mod harness;
