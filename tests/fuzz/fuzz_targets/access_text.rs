//! Any lines in any text format of requests. Input: a byte that chooses the format (the last choice:
//! the first line is the format), then the lines.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

/// Names, and formats with all that the compiler treats apart: quoted and bare fields, lists, every
/// way to write a time.
const FORMATS: [&str; 16] = [
    "auto",
    "combined",
    "common",
    "vhost_combined",
    "nginx_ingress",
    "npm_access",
    "litespeed",
    "varnish",
    "traefik",
    "envoy",
    "alb",
    r#"$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#,
    r#"$remote_addr [$time_iso8601] $host "$request" $status $request_time "$upstream_addr" "$upstream_status" "$upstream_response_time""#,
    r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#,
    r"$time_local|$status|$server_name|$remote_addr|$upstream_addr",
    OWN,
];
/// The first line is the format.
const OWN: &str = "own";

fuzz_target!(|input: &[u8]| {
    let Some((format, lines)) = invariants::choose(&FORMATS, input) else { return };
    if format != OWN {
        return invariants::check_access(format, lines);
    }
    let end = lines.iter().position(|byte| *byte == b'\n').unwrap_or(lines.len());
    let format = String::from_utf8_lossy(&lines[..end]);
    invariants::check_access(&format, lines.get(end + 1..).unwrap_or_default());
});
