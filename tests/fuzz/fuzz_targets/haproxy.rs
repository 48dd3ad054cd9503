//! Any lines as HAProxy writes them: requests, connections, messages about its servers.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = common::choose(&["haproxy", "auto"], input) {
        common::check_access(format, lines);
    }
});
