//! Arbitrary files where the spool's should be: opening never panics and never asks for memory
//! without bound, what it reads was written, and it works on afterwards.
//!
//! The first byte chooses: raw bytes as files, heads with sound checksums and unsound numbers, or a
//! real spool that is then damaged. Of a damaged one every record that comes back is the one
//! written at its place, and what is gone is declared.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use gatewatch_agent::spool::{Pos, Seq, Spool, SpoolError, Volume};
use libfuzzer_sys::fuzz_target;
use wire::UnixMillis;

const BYTES_MAX: u64 = 1 << 20;
const NOW: UnixMillis = UnixMillis(1_795_176_067_000);
/// Records looked at in one run; numbers in damaged files may promise any number of them.
const READS_MAX: usize = 2000;

/// Input, taken from its front; zeros when it is used up.
struct Bytes<'i>(&'i [u8]);

impl<'i> Bytes<'i> {
    fn take(&mut self, n: usize) -> &'i [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self, n: usize) -> u64 {
        self.take(n).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Small, or anything.
    fn position(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => self.number(1),
            1 => 1_795_176_067_000_000 + self.number(1),
            2 => u64::MAX - self.number(1),
            _ => self.number(8),
        }
    }
}

fn spool_dir() -> PathBuf {
    let dir = Path::new("/dev/shm").join(format!("gatewatch-fuzz-{}", std::process::id()));
    fs::remove_dir_all(&dir).ok(); // of the run before
    fs::create_dir_all(&dir).expect("/dev/shm is writable");
    dir
}

/// Files of any content under the names the spool looks for.
fn write_raw(dir: &Path, input: &mut Bytes<'_>) {
    for _ in 0..input.byte() % 4 {
        let pos = input.position();
        let n = input.number(2) as usize;
        fs::write(dir.join(format!("{pos:020}.seg")), input.take(n)).expect("writable");
    }
    if input.byte() % 2 == 1 {
        fs::write(dir.join("state"), input.take(4096)).expect("writable");
    }
}

/// Segments whose checksums are right and whose numbers are anything.
fn write_heads(dir: &Path, input: &mut Bytes<'_>) {
    for _ in 0..=input.byte() % 3 {
        let pos_first = input.position();
        let mut file = Vec::new();
        let is_old = input.byte() % 4 == 3;
        file.extend_from_slice(b"GWSPOOL\n");
        file.extend_from_slice(&if is_old { 1_u32 } else { 2 }.to_le_bytes());
        for number in [input.position(), pos_first, input.position()] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        if !is_old {
            file.extend_from_slice(&input.position().to_le_bytes());
        }
        seal(&mut file, 0);
        let mut pos = pos_first;
        for _ in 0..input.byte() % 32 {
            let start = file.len();
            let kind = input.byte();
            let payload = input.take(usize::from(kind / 2 % 16));
            pos = if kind % 2 == 0 { pos.wrapping_add(input.number(1)) } else { input.position() };
            file.extend_from_slice(if kind < 128 { b"GWr" } else { b"GWx" });
            file.push(if is_old { b'1' } else { b'2' });
            let len = if kind % 8 == 7 { input.number(4) as u32 } else { payload.len() as u32 };
            file.extend_from_slice(&len.to_le_bytes());
            file.extend_from_slice(&pos.to_le_bytes());
            for _ in 0..if is_old { 1 } else { 2 } {
                file.extend_from_slice(&input.position().to_le_bytes());
            }
            file.extend_from_slice(&input.number(3).to_le_bytes());
            file.extend_from_slice(&NOW.0.to_le_bytes());
            file.extend_from_slice(&(input.number(4) as u32).to_le_bytes());
            file.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
            if !is_old {
                file.extend_from_slice(&input.position().to_le_bytes());
            }
            seal(&mut file, start);
            file.extend_from_slice(payload);
        }
        fs::write(dir.join(format!("{pos_first:020}.seg")), file).expect("writable");
    }
    if input.byte() % 2 == 1 {
        let mut state = b"GWSPSTAT\x02\0\0\0".to_vec();
        for _ in 0..15 {
            state.extend_from_slice(&input.position().to_le_bytes());
        }
        let n = input.number(1);
        state.extend_from_slice(&(n as u32).to_le_bytes());
        for _ in 0..n {
            state.extend_from_slice(&(input.number(4) as u32).to_le_bytes());
            state.extend_from_slice(&input.position().to_le_bytes());
        }
        seal(&mut state, 0);
        fs::write(dir.join("state"), state).expect("writable");
    }
}

fn seal(bytes: &mut Vec<u8>, from: usize) {
    let crc = crc32c::crc32c(&bytes[from..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

/// Volume and payload of each record appended, by position.
type Written = Vec<(Pos, Volume, Vec<u8>)>;

/// A spool with some records, some of them acked, over a few starts.
fn write_real(dir: &Path, input: &mut Bytes<'_>) -> Written {
    let mut written = Written::new();
    for _ in 0..=input.byte() % 3 {
        let (mut spool, _) = Spool::open(dir, BYTES_MAX, NOW).expect("a sound spool opens");
        for _ in 0..input.byte() % 8 {
            let n = 1 + usize::from(input.byte());
            let volume = Volume { n_lines: input.number(1), n_bytes: input.number(2) };
            let mut payload = input.take(n).to_vec();
            payload.resize(n, written.len() as u8);
            let pos = spool.append(&payload, volume).expect("there is room");
            written.push((pos, volume, payload));
        }
        spool.ack(Seq(input.number(1) / 16)).expect("writable");
        spool.close().expect("writable");
    }
    written
}

/// One spot of some files: a few bytes changed, a stretch of zeros, or the end cut off. Changes of
/// more than 32 bits in a row could by chance be sound again.
fn damage(dir: &Path, input: &mut Bytes<'_>) {
    let entries = fs::read_dir(dir).expect("readable").flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.collect();
    paths.sort();
    for path in paths {
        let mut bytes = fs::read(&path).expect("readable");
        let kind = input.byte();
        let at = input.number(2) as usize % bytes.len().max(1);
        match kind % 8 {
            1 => bytes.truncate(at),
            2 => bytes[at..].fill(0),
            3 => {
                let end = bytes.len().min(at + input.number(2) as usize);
                bytes[at..end].fill(0);
            }
            4 => {
                let patch = input.take(4);
                bytes[at..].iter_mut().zip(patch).for_each(|(byte, patch)| *byte ^= patch);
            }
            5 => {
                fs::remove_file(&path).expect("writable");
                continue;
            }
            _ => continue,
        }
        fs::write(&path, bytes).expect("writable");
    }
}

/// What comes back is what was written at its place.
fn check_damaged(spool: &mut Spool, written: &Written) {
    for record in spool.records_after(Pos(0)).take(READS_MAX) {
        let (pos, payload) = record.expect("readable");
        let origin = written.iter().find(|(of, ..)| *of == pos);
        let (_, _, original) = origin.unwrap_or_else(|| panic!("nothing was written at {pos:?}"));
        assert_eq!(&payload, original, "another record at {pos:?}");
    }
}

fn check_any(dir: &Path, spool: &mut Spool) {
    let files: Vec<Vec<u8>> = fs::read_dir(dir)
        .expect("readable")
        .flatten()
        .filter_map(|entry| fs::read(entry.path()).ok())
        .collect();
    for record in spool.records_after(Pos(0)).take(READS_MAX) {
        let (pos, payload) = record.expect("readable");
        let is_there = |file: &Vec<u8>| file.windows(payload.len()).any(|part| part == payload);
        assert!(files.iter().any(is_there), "{pos:?} was invented: {payload:?}");
    }
}

/// The spool still takes records, gives them back, also after another start.
fn check_usable(dir: &Path, mut spool: Spool) {
    let stats = spool.stats();
    assert!(stats.seq_acked <= stats.seq_last, "{stats:?}");
    let mut seq = Seq(stats.seq_acked + 1);
    for _ in 0..READS_MAX {
        let Some(record) = spool.peek(seq).expect("readable") else { break };
        assert!(record.seq >= seq, "{record:?}");
        assert_eq!(record.evicted_before.n_batches, record.seq.0 - seq.0);
        seq = Seq(record.seq.0 + 1);
    }
    let payload = b"one more, after all that".to_vec();
    let seven = Volume { n_lines: 7, n_bytes: 700 };
    let Ok(pos) = spool.append(&payload, seven) else { return };
    assert_eq!(spool.last(), pos);
    let last = spool.stats().seq_last;
    let record = spool.peek(Seq(last)).expect("readable").expect("just written");
    assert_eq!((record.payload, record.volume), (payload.clone(), seven));
    spool.close().expect("writable");
    drop(spool);
    let (mut again, found) = Spool::open(dir, BYTES_MAX, NOW).expect("it was in use");
    assert_eq!(found.n_bytes_torn, 0, "nothing was torn: {found:?}");
    let before = Pos(pos.0 - 1);
    let mut after = again.records_after(before);
    let (at, back) = after.next().expect("the new record is there").expect("readable");
    assert_eq!((at, back), (pos, payload));
}

fuzz_target!(|input: &[u8]| {
    let dir = spool_dir();
    let mut input = Bytes(input);
    let mut written = None;
    match input.byte() % 4 {
        0 => write_raw(&dir, &mut input),
        1 => write_heads(&dir, &mut input),
        _ => {
            written = Some(write_real(&dir, &mut input));
            damage(&dir, &mut input);
        }
    }
    match Spool::open(&dir, BYTES_MAX, NOW) {
        Ok((mut spool, _)) => {
            match &written {
                Some(written) => check_damaged(&mut spool, written),
                None => check_any(&dir, &mut spool),
            }
            check_usable(&dir, spool);
        }
        Err(SpoolError::Version { .. }) => assert!(written.is_none(), "we wrote it"),
        Err(SpoolError::Io { .. }) => assert!(written.is_none(), "we can read what we wrote"),
        Err(error @ SpoolError::Full { .. }) => panic!("{error}"),
    }
});
