//! Any lines as W3C logs: IIS, HTTP.sys, CloudFront, whose fields are told by a line of their own.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = common::choose(&["iis", "auto"], input) {
        common::check_access(format, lines);
    }
});
