//! Any lines as W3C logs: IIS, HTTP.sys, CloudFront, whose fields are told by a line of their own.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = invariants::choose(&["iis", "auto"], input) {
        invariants::check_access(format, lines);
    }
});
