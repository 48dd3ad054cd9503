//! Any lines as the error log of a web server.

#![no_main]

use gatewatch_agent::discover::LogKind;
use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

const FORMATS: [&str; 4] = ["nginx_error", "apache_error", "lighttpd_error", "litespeed_error"];

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = invariants::choose(&FORMATS, input) {
        invariants::check_errors(LogKind::Error, format, lines);
    }
});
