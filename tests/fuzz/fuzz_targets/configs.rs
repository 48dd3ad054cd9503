//! Any bytes as the configuration of every server whose sites are found: they are read as far as they
//! make sense, and what is found can be shown and followed.

#![no_main]

use gatewatch_agent::config::PrivacyConfig;
use gatewatch_agent::discover::{fuzzing, render};
use gatewatch_agent::logs::join::Judge;
use gatewatch_agent::logs::parse::Parser;
use libfuzzer_sys::fuzz_target;

/// Sites made of one configuration file: no reader makes more of a byte than a vhost or two.
const SITES_PER_BYTE_MAX: usize = 2;

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let at = usize::from(choice.wrapping_sub(b'a')) % fuzzing::READERS.len();
    let found = fuzzing::read(fuzzing::READERS[at], bytes);
    assert!(found.sites.len() <= SITES_PER_BYTE_MAX * (bytes.len() + 1), "{}", found.sites.len());
    let json = render::render_json(&found);
    assert_eq!(json["sites"].as_array().map(Vec::len), Some(found.sites.len()));
    assert!(!render::render_text(&found).is_empty());
    assert!(found.sites.iter().all(|site| !site.name.is_empty()), "{:?}", found.sites);
    assert!(found.unreadable.iter().all(|one| !one.fix.is_empty()), "{:?}", found.unreadable);
    let zone = jiff::tz::TimeZone::UTC;
    let mut judge = Judge::new(&found, PrivacyConfig::default(), 100, zone);
    for log in &found.logs {
        judge.add_source(log);
        // A format of its own is compiled as it was found.
        let mut parser = Parser::for_source(log, &[]);
        parser.parse(bytes);
    }
});
