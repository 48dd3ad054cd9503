//! kill -9 of the collector, over and over, while batches come, hours are sealed, late parts are added and
//! hot batches are deleted: nothing is lost, nothing is counted twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use harness::{AgentSpec, Cable, Fleet, eventually, pause};

use crate::farm::LIMIT;

/// Everything is sealed as soon as its hour is over; no day leaves because the disk of this machine is full.
pub(crate) const EAGER: &str = "[retention]\ndisk_bytes_max = \"1GiB\"\n[store]\nseal_after = \"0s\"\n\
                                late_after = \"0s\"\nseal_interval = \"1s\"\n";

/// What was written, by agent, site and status.
#[derive(Debug, Default)]
pub(crate) struct Truth(BTreeMap<String, BTreeMap<(String, String), u64>>);

impl Truth {
    /// Has so many requests end `hours` ago.
    pub(crate) fn write(&mut self, fleet: &mut Fleet, name: &str, hours: i64, n: u64, status: u16) {
        let site = format!("{}.example", char::from(b'a' + hours as u8));
        self.write_to(fleet, name, hours, &site, n, status);
    }

    /// The same for this site.
    pub(crate) fn write_to(
        &mut self,
        fleet: &mut Fleet,
        name: &str,
        hours: i64,
        site: &str,
        n: u64,
        status: u16,
    ) {
        fleet.log(name).shift_clock(-hours * 3600);
        fleet.log(name).requests(site, n, status);
        let counts = self.0.entry(name.to_owned()).or_default();
        *counts.entry((site.to_owned(), status.to_string())).or_default() += n;
    }

    /// What begins so is not told one by one any more.
    fn forget(&mut self, site: &str) {
        for counts in self.0.values_mut() {
            counts.retain(|(of, _), _| !of.starts_with(site));
        }
    }

    /// Waits until the collector counts that, and nothing else.
    pub(crate) fn is_counted(&self, fleet: &Fleet) {
        for (name, truth) in &self.0 {
            eventually(&format!("each line of {name} is counted once"), LIMIT, || {
                let mut counted = fleet.counted(name)?;
                counted.retain(|(_, status), _| status.parse::<u16>().is_ok());
                counted.retain(|key, _| truth.contains_key(key) || !key.0.starts_with("old-"));
                if counted == *truth {
                    Ok(())
                } else {
                    Err(format!("{counted:?} instead of {truth:?}"))
                }
            });
        }
    }
}

/// Waits until hours of the past are sealed, of which the collector says so in its metrics.
pub(crate) fn something_is_sealed(fleet: &Fleet) {
    eventually("hours are sealed", LIMIT, || {
        let blocks = fleet.data_dir().join("blocks");
        let n = std::fs::read_dir(&blocks).map_or(0, Iterator::count);
        if n > 0 { Ok(()) } else { Err(fleet.collector_log()) }
    });
}

/// Rows of `sealed` and those of more than one part, once the collector has sealed more than `before`.
fn more_is_sealed(fleet: &Fleet, before: (i64, i64)) -> (i64, i64) {
    eventually("hours are sealed, and what came late", LIMIT, || {
        let sealed = fleet.db().sealed()?;
        if sealed.0 >= before.0 && sealed.1 > before.1 {
            Ok(sealed)
        } else {
            Err(format!("{sealed:?} after {before:?}"))
        }
    })
}

#[test]
fn fifty_kills_of_the_collector_while_hours_are_sealed_lose_nothing_and_repeat_nothing() {
    let names = ["web-1", "web-2", "web-3"];
    let mut fleet = Fleet::builder().agents(names).batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    let mut noise = 7_u64;
    let mut sealed = (0, 0);
    for round in 0..50_i64 {
        for (ix, name) in names.into_iter().enumerate() {
            let hours = (round + ix as i64) % 4; // 0: the hour that is not over
            truth.write(&mut fleet, name, hours, 40, 200);
            truth.write(&mut fleet, name, hours, 2, 502); // sent at once
        }
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pause(Duration::from_millis((noise >> 33) % 600)); // each kill hits another moment
        fleet.kill9_collector();
        fleet.start_collector();
        if round % 10 == 9 {
            truth.is_counted(&fleet); // agents that wait long come too
            sealed = more_is_sealed(&fleet, sealed);
        }
    }
    truth.is_counted(&fleet);
    assert_eq!(fleet.db().n_gaps(), Ok(0));
    fleet.stop_collector();
    fleet.start_collector();
    truth.is_counted(&fleet);
}

/// Failed requests that the collector counts, sealed or not.
fn n_failed(fleet: &Fleet) -> Result<u64, String> {
    let counted = fleet.counted("web-1")?;
    Ok(counted.iter().filter(|((_, status), _)| status == "502").map(|(_, n)| n).sum())
}

#[test]
fn partitions_in_which_acks_are_lost_lose_nothing_and_repeat_nothing() {
    let mut fleet = Fleet::builder().toml(EAGER).start();
    let cable = Cable::to(fleet.address());
    fleet.add_agent(AgentSpec::new("web-1").through(cable.address()), "200ms");
    let mut truth = Truth::default();
    for round in 0..12 {
        let before = n_failed(&fleet).expect("it answers");
        truth.write(&mut fleet, "web-1", round % 4, 60, 200);
        if round % 3 == 0 {
            cable.cut(); // in the middle of whatever is sent
        } else {
            cable.deafen();
            eventually("batches arrive whose acks do not", LIMIT, || {
                truth.write(&mut fleet, "web-1", 0, 1, 502);
                let n = n_failed(&fleet)?;
                if n > before { Ok(()) } else { Err(format!("{n}")) }
            });
            cable.cut();
        }
        truth.write(&mut fleet, "web-1", round % 4, 10, 200);
        cable.mend();
        truth.is_counted(&fleet);
    }
    something_is_sealed(&fleet);
    assert_eq!(fleet.db().n_gaps(), Ok(0));
}

/// Requests of a day that is over, and of today.
fn write_of_days(fleet: &mut Fleet, truth: &mut Truth, round: i64) {
    let (hours, site) = (72 + round % 3, format!("old-{}.example", round % 3));
    for (n, status) in [(40, 200), (2, 502)] {
        truth.write_to(fleet, "web-1", hours, &site, n, status);
    }
    truth.write(fleet, "web-1", round % 4, 20, 200);
}

fn files_of(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let is_file = |path: &Path| path.extension().is_some_and(|extension| extension == "db");
    let files = files.filter(|file| is_file(&file.path()));
    files.filter_map(|file| file.file_name().into_string().ok()).collect()
}

fn is_sound(fleet: &Fleet) {
    eventually("everything kept is sound", LIMIT, || fleet.cli(&["verify"]).good().map(drop));
}

#[test]
fn kills_while_days_are_summed_up_and_leave_lose_nothing_that_is_kept() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    let mut noise = 11_u64;
    let mut kill = |fleet: &mut Fleet| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pause(Duration::from_millis((noise >> 33) % 900)); // each kill hits another moment
        fleet.kill9_collector();
    };
    for round in 0..12 {
        write_of_days(&mut fleet, &mut truth, round);
        kill(&mut fleet);
        fleet.start_collector();
    }
    truth.is_counted(&fleet);
    let dir = fleet.data_dir();
    eventually("days that are over are summed up", LIMIT, || {
        let n = files_of(&dir.join("rollup")).len();
        if n > 0 { Ok(()) } else { Err(fleet.collector_log()) }
    });
    is_sound(&fleet);
    let before = files_of(&dir.join("blocks"));

    // From now on two days are kept: the oldest leave, under kills as well.
    fleet.stop_collector();
    let config = dir.with_file_name("collector.toml");
    let text = std::fs::read_to_string(&config).expect("the harness wrote it");
    let text = text.replace("[retention]\n", "[retention]\nraw = \"48h\"\n");
    std::fs::write(&config, text).expect("mine");
    // What waited to be packed when its day leaves is expired: of such sites only sums are left.
    truth.forget("old-");
    for round in 0..6 {
        fleet.start_collector();
        truth.write(&mut fleet, "web-1", round % 4, 20, 200);
        kill(&mut fleet);
    }
    fleet.start_collector();
    let old = before.iter().min().expect("three days ago").clone();
    eventually("the oldest day leaves", LIMIT, || {
        let left = files_of(&dir.join("blocks"));
        if left.contains(&old) { Err(fleet.collector_log()) } else { Ok(()) }
    });
    truth.is_counted(&fleet);
    assert!(!files_of(&dir.join("rollup")).is_empty(), "its sums stay");
    is_sound(&fleet);
    assert_eq!(fleet.db().n_gaps(), Ok(0));
}
