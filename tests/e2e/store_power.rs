//! The power fails under a real collector at any moment: it starts on what the disk holds then, has every
//! line that was acked before, and agents bring the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Fleet, Names, Recording, eventually, monotonic_ns, pause, recorded};

use crate::farm::LIMIT;
use crate::store_kills::{EAGER, Truth, something_is_sealed};

const N_CUTS: u64 = 12;

fn log_of(dir: &Path) -> PathBuf {
    dir.with_file_name("power.log")
}

/// Lines of the log that the collector has acked, as the agent knows it.
fn n_acked(fleet: &Fleet) -> Result<u64, String> {
    let status = fleet.agent("web-1").status()?;
    let file = &status["files"][0];
    let path = file["path"].as_str().ok_or_else(|| format!("no file yet: {status}"))?;
    let acked = file["acked"].as_u64().ok_or_else(|| status.to_string())? as usize;
    let text = fs::read(path).map_err(|e| e.to_string())?;
    Ok(text[..acked].split_inclusive(|byte| *byte == b'\n').count() as u64)
}

#[test]
fn a_collector_whose_power_failed_has_all_that_was_acked_and_gets_the_rest() {
    let mut fleet = Fleet::builder()
        .collector_wrapper(|dir| recorded(dir, &log_of(dir)))
        .agents(["web-1"])
        .batch_interval("200ms")
        .toml(EAGER)
        .start();
    let mut truth = Truth::default();
    let mut acks = vec![(0, 0)];
    for round in 0..20 {
        truth.write(&mut fleet, "web-1", round % 4, 25, 200);
        truth.write(&mut fleet, "web-1", round % 4, 1, 502);
        pause(Duration::from_millis(150)); // the pace of the lines: acks at many different moments
        // First the number, then the time: it was acked before.
        let n = n_acked(&fleet).expect("the agent runs");
        acks.push((n, monotonic_ns()));
    }
    truth.is_counted(&fleet);
    something_is_sealed(&fleet);
    fleet.agent_mut("web-1").stop();
    fleet.kill9_collector();

    let dir = fleet.data_dir();
    let recording = Recording::read(&dir, &log_of(&dir));
    let (first, last) = (acks[1].1, acks[acks.len() - 1].1);
    let moments: Vec<usize> =
        (1..=recording.len()).filter(|n| (first..=last).contains(&recording.time_of(*n))).collect();
    assert!(moments.len() > 100, "{} changes while lines came", moments.len());
    fs::rename(&dir, dir.with_file_name("whole")).expect("mine");
    for seed in 0..N_CUTS {
        let n = moments[seed as usize * moments.len() / N_CUTS as usize];
        let at = recording.time_of(n);
        let before = acks.iter().filter(|(_, ack)| *ack <= at).map(|(n, _)| *n).max().unwrap_or(0);
        fs::create_dir(&dir).expect("mine");
        let names = if seed % 3 == 2 { Names::Strict } else { Names::Journal };
        recording.cut(n, names, seed, &dir);
        fs::remove_file(log_of(&dir)).ok(); // what happens from here on is not asked about
        fleet.start_collector();
        let n_lines = eventually("it answers", LIMIT, || {
            let counted = fleet.counted("web-1")?;
            let is_status = |(_, status): &&(String, String)| status.parse::<u16>().is_ok();
            Ok(counted.iter().filter(|(key, _)| is_status(key)).map(|(_, n)| n).sum::<u64>())
        });
        assert!(n_lines >= before, "cut {seed} after {n}: {n_lines} of {before} acked lines");
        if seed % 4 == 3 {
            fleet.restart_agent("web-1");
            truth.is_counted(&fleet);
            fleet.agent_mut("web-1").stop();
        }
        fleet.kill9_collector();
        fs::remove_dir_all(&dir).expect("mine");
    }
}
