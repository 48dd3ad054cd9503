//! Any lines as HAProxy writes them: requests, connections, messages about its servers.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = invariants::choose(&["haproxy", "auto"], input) {
        invariants::check_access(format, lines);
    }
});
