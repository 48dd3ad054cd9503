//! A log written in arbitrary pieces: the reader gives the lines that splitting the whole would,
//! whatever the pieces were, and accounts for each byte.
//!
//! Input: how the rest is cut (one byte), then what is written. `\x01` stands for 300 KiB of one
//! long line, which no buffer holds.

#![no_main]

use std::io::Write as _;

use gatewatch_agent::logs::fuzzing::{LINE_BYTES_MAX, Reader};
use libfuzzer_sys::fuzz_target;

const LONG: usize = 300 << 10;

/// What reading came to.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Lines that fit, without their newlines.
    lines: Vec<Vec<u8>>,
    n_too_long: u32,
    /// Bytes accounted for.
    offset: u64,
}

/// What it must come to: zeros that a truncation left before the first line are no part of it.
fn split(whole: &[u8]) -> Seen {
    let hole = whole.iter().take_while(|byte| **byte == 0).count();
    let end = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut seen = Seen { offset: end.max(hole) as u64, ..Seen::default() };
    for line in whole[hole.min(end)..end].split_inclusive(|byte| *byte == b'\n') {
        if line.len() > LINE_BYTES_MAX {
            seen.n_too_long += 1;
        } else {
            seen.lines.push(line[..line.len() - 1].to_vec());
        }
    }
    seen
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, input)) = input.split_first() else { return };
    if input.iter().filter(|byte| **byte == 1).count() > 3 {
        return; // slow, and says no more
    }
    let dir = std::path::Path::new("/dev/shm");
    let path = dir.join(format!("gatewatch-fuzz-{}.log", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("/dev/shm is writable");
    let mut reader = Reader::open(&path).expect("just made");
    let (mut whole, mut seen) = (Vec::new(), Seen::default());
    for piece in input.chunks(usize::from(*cut) + 1) {
        let mut written = Vec::new();
        for byte in piece {
            match byte {
                1 => written.extend(std::iter::repeat_n(b'x', LONG)),
                other => written.push(*other),
            }
        }
        file.write_all(&written).expect("/dev/shm has room");
        whole.extend_from_slice(&written);
        let mut n_calls = 0;
        while let Some((lines, n_too_long)) = reader.next_lines().expect("readable") {
            n_calls += 1;
            assert!(n_calls < 1000, "reading does not come to an end");
            assert!(lines.is_empty() || lines.ends_with(b"\n"), "half a line was given");
            // A line that fits the buffer but is longer than is looked at is told by the parser.
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                if line.len() > LINE_BYTES_MAX {
                    seen.n_too_long += 1;
                } else {
                    seen.lines.push(line[..line.len() - 1].to_vec());
                }
            }
            seen.n_too_long += n_too_long;
        }
        seen.offset = reader.offset();
    }
    assert_eq!(seen, split(&whole));
});
