//! Any lines as JSON of every server that writes it, also under keys of one's own.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

const FORMATS: [&str; 7] = [
    "json",
    "caddy",
    "traefik",
    "envoy",
    "cloudflare",
    "json:status=response.code,host=vhost,time=ts,client=peer.ip,path=uri",
    "auto",
];

fuzz_target!(|input: &[u8]| {
    if let Some((format, lines)) = invariants::choose(&FORMATS, input) {
        invariants::check_access(format, lines);
    }
});
