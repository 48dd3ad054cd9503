//! Any bytes as what servers answer to the probes, as a schedule with its command, and as a
//! certificate: each is read as far as it makes sense, without a panic, and grows no memory.

#![no_main]

use gatewatch_agent::{changes, probes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    probes::fuzzing::read(bytes);
    changes::fuzzing::read(bytes);
});
