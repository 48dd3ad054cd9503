//! Day files with damage anywhere: what is read is what was written, or the reader says that it is not.

use std::fs;
use std::path::Path;

use wire::v1::{BatchBody, Loss};

use super::blocks::{BlockError, Column, DayFile, Place, ServerHour, SiteCount};
use super::hours::Day;
use crate::model::{ServerId, SiteId};

const T0: i64 = 1_795_176_000 / 3600 * 3600;
const N_DAMAGED: u64 = 400;

/// Splitmix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn hour(dice: &mut Dice) -> ServerHour {
    let column = |metric: i64, dice: &mut Dice| Column {
        metric,
        at: (0..360).map(|ix| ix * 10).collect(),
        values: (0..360).map(|_| dice.below(1 << (metric * 3)) as i64).collect(),
    };
    let counts = (0..40_u32).map(|ix| SiteCount {
        site: SiteId(i64::from(ix) / 4),
        status: 200 + (ix % 4) as u16,
        second: 0,
        n: 1 + dice.below(1000) as u64,
    });
    let counts: Vec<SiteCount> = counts.collect();
    let columns = (1..=8).map(|metric| column(metric, dice)).collect();
    let loss = Loss { n_lines_rejected: 1 + dice.below(100) as u64, ..Loss::default() };
    ServerHour { columns, counts, events: BatchBody { loss: Some(loss), ..BatchBody::default() } }
}

/// A file of a few hours and servers, one of them in two parts.
fn make(dir: &Path, day: Day) -> Vec<(Place, ServerHour)> {
    let mut dice = Dice(1);
    let mut all = Vec::new();
    let mut file = DayFile::create(dir, day).unwrap();
    for (t0, part) in [(T0, 0), (T0 + 3600, 0), (T0, 1)] {
        let servers = (1..=12).map(|id| Place { t0, server: ServerId(id), part });
        let hours: Vec<_> = servers.map(|place| (place, hour(&mut dice))).collect();
        file.put(&hours).unwrap();
        file.finish(t0, part, hours.len() as u64).unwrap();
        all.extend(hours);
    }
    all
}

/// Does to a file what disks and people do.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let at = dice.below(bytes.len());
    match dice.below(8) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let page = at / 16_384 * 16_384;
            bytes[page..page + 16_384].fill(0);
            format!("the page at {page} is empty")
        }
        2 => {
            let sector = at / 512 * 512;
            let other = dice.below(bytes.len()) / 512 * 512;
            bytes.copy_within(other..other + 512, sector);
            format!("512 bytes of {other} at {sector}")
        }
        _ => {
            let bit = dice.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} is flipped")
        }
    }
}

/// What a reader who looks for these hours says of them: hours with an error, and wrong ones.
fn look(dir: &Path, day: Day, all: &[(Place, ServerHour)]) -> (usize, Vec<Place>) {
    let Ok(Some(file)) = DayFile::open(dir, day) else { return (all.len(), Vec::new()) };
    let (mut n_told, mut wrong) = (0, Vec::new());
    for (place, hour) in all {
        let parts = file.parts(place.t0);
        let is_there = parts.map(|parts| place.part < parts);
        let read = match is_there {
            Ok(true) => file.server_hour(*place),
            Ok(false) => Err(BlockError::Bad("parts are missing".to_owned())),
            Err(error) => Err(error),
        };
        match read {
            Ok(read) if read == *hour => {}
            Ok(_) => wrong.push(*place),
            Err(_) => n_told += 1,
        }
    }
    (n_told, wrong)
}

#[test]
fn a_damaged_day_file_never_gives_a_wrong_number() {
    let day = Day::of(T0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let all = make(dir.path(), day);
    let path = dir.path().join(day.file());
    let sound = fs::read(&path).unwrap();
    assert_eq!(look(dir.path(), day, &all), (0, Vec::new()));
    let (mut n_told, mut n_served, mut wrong) = (0, 0, Vec::new());
    for seed in 0..N_DAMAGED {
        let mut bytes = sound.clone();
        let what = damage(&mut bytes, &mut Dice(seed));
        fs::write(&path, &bytes).unwrap();
        let (told, wrongly) = look(dir.path(), day, &all);
        n_told += usize::from(told > 0);
        n_served += all.len() - told;
        if !wrongly.is_empty() {
            wrong.push(format!("seed {seed}, {what}: {wrongly:?}"));
        }
    }
    println!("{n_told} of {N_DAMAGED} damages are told; {n_served} hours are served beside them");
    assert!(wrong.is_empty(), "{} of {N_DAMAGED}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(n_told > N_DAMAGED as usize / 3, "{n_told}");
    assert!(n_served > N_DAMAGED as usize * all.len() / 2, "{n_served}");
}

#[test]
fn a_day_file_whose_making_was_cut_off_is_none_and_can_be_made() {
    let day = Day::of(T0).unwrap();
    let check = |make: fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(day.file());
        fs::create_dir(path.parent().unwrap()).unwrap();
        make(&path);
        assert!(DayFile::open(dir.path(), day).unwrap().is_none());
        assert_eq!(make_in(dir.path(), day), (0, Vec::new()));
    };
    check(|path| fs::write(path, "").unwrap());
    check(|path| {
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.execute_batch("PRAGMA page_size=16384; PRAGMA journal_mode=WAL;").unwrap();
    });
}

fn make_in(dir: &Path, day: Day) -> (usize, Vec<Place>) {
    let all = make(dir, day);
    look(dir, day, &all)
}
