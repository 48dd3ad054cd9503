//! Servers to which everything odd has happened, with samples out of dice: what reports must get right.
//!
//! One is plain, but sends some hours late and one instant twice; one was off for a week; one has a single
//! sample; one was installed anew and began its spool again; one was forgotten and another has its name;
//! one has never said anything.

use std::collections::BTreeMap;

use wire::UnixMillis;
use wire::v1::{BatchBody, Site, SiteSecond};

use crate::feeder::{Failed, Feeder, Joins};
use crate::machine::{Dice, Sampled, tick};
use crate::{HOUR_S, WAY_MS};

/// What became of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Plain,
    Gap,
    One,
    Again,
    Renewed,
    Silent,
}

const FATES: [(&str, Fate); 6] = [
    ("odd-plain", Fate::Plain),
    ("odd-gap", Fate::Gap),
    ("odd-one", Fate::One),
    ("odd-again", Fate::Again),
    ("odd-new", Fate::Renewed),
    ("odd-none", Fate::Silent),
];

/// Hours of the past after which a counter begins anew, and those that are sent late.
const RESET_EVERY_H: i64 = 37;
const LATE_EVERY_H: i64 = 29;
/// So late, hours.
const LATE_H: i64 = 5;

/// All of them, while their past is made.
pub(crate) struct Odd {
    servers: Vec<(usize, Fate, [f64; 4])>,
    /// What is sent later: when, whose, what, and up to when it says all.
    late: Vec<(i64, usize, BatchBody, i64)>,
    begin: i64,
    end: i64,
}

impl Odd {
    /// Lets them join at `begin`.
    pub(crate) async fn join(feeder: &mut Feeder, begin: i64, end: i64) -> Result<Self, Failed> {
        let mut servers = Vec::new();
        for (name, fate) in FATES {
            let no = feeder.join(joins(name, begin)).await?;
            servers.push((no, fate, [0.0; 4]));
        }
        Ok(Self { servers, late: Vec::new(), begin, end })
    }

    /// An hour of all of them.
    pub(crate) async fn hour(&mut self, feeder: &mut Feeder, hour: i64) -> Result<(), Failed> {
        let (passed, left) = ((hour - self.begin) / HOUR_S, (self.end - hour) / HOUR_S);
        let until = hour + HOUR_S;
        for server in &mut self.servers {
            let (no, fate, _) = *server;
            match fate {
                Fate::Silent => continue,
                Fate::Gap if (60..60 + 7 * 24).contains(&left) => continue,
                Fate::One if left != 30 => continue,
                Fate::Again if left == 50 => feeder.take_over(no).await?,
                Fate::Renewed if left == 70 => {
                    feeder.forget(no).await?;
                    server.0 = feeder.join(joins(name_of(fate), hour)).await?;
                }
                _ => {}
            }
            let no = server.0;
            let body = body(server, hour, passed);
            if fate == Fate::Plain && passed % LATE_EVERY_H == 7 && left > LATE_H {
                self.late.push((until + LATE_H * HOUR_S, no, body, until));
            } else {
                feeder.send(no, &body, until, UnixMillis(until * 1000 + WAY_MS)).await?;
            }
        }
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|l| l.0 <= until);
        self.late = later;
        for (at, no, body, until) in Vec::<(i64, usize, BatchBody, i64)>::from_iter(due) {
            feeder.send(no, &body, until, UnixMillis(at * 1000 + WAY_MS)).await?;
        }
        Ok(())
    }
}

fn name_of(fate: Fate) -> &'static str {
    FATES.iter().find(|(_, of)| *of == fate).map_or("", |(name, _)| name)
}

fn joins(name: &str, at: i64) -> Joins {
    let labels = BTreeMap::from([("team".to_owned(), "odd".to_owned())]);
    Joins { name: name.to_owned(), labels, n_cpu: 4, n_sites: 2, at: UnixMillis(at * 1000) }
}

/// What one of them sampled and counted in an hour.
fn body((no, fate, counters): &mut (usize, Fate, [f64; 4]), hour: i64, passed: i64) -> BatchBody {
    let site = |name: &str| Site {
        name: format!("{name}{no}.example"),
        pool: "www".to_owned(),
        owner: name.to_owned(),
        ..Site::default()
    };
    let mut body = BatchBody { sites: vec![site("first"), site("second")], ..Default::default() };
    let mut dice = Dice::new(5000 + *no as u64, hour);
    if passed % RESET_EVERY_H == 11 {
        *counters = [3.0; 4];
    }
    let mut at = hour + (dice.share() * 200.0) as i64;
    while at < hour + HOUR_S {
        let sampled = sampled(&mut dice, at, hour, counters);
        body.ticks.push(tick(&mut body.series, at, sampled));
        if *fate == Fate::One {
            return body;
        }
        requests(&mut body, at, &mut dice);
        // Mostly minutes apart, now and then some in one minute.
        at += if dice.share() < 0.2 { 7 } else { 60 + (dice.share() * 420.0) as i64 };
    }
    body
}

fn requests(body: &mut BatchBody, second: i64, dice: &mut Dice) {
    for site in 0..2 {
        let n_200 = dice.count(if site == 0 { 9.0 } else { 1.2 });
        let n_502 = if dice.share() < 0.02 { 1 + dice.count(2.0) } else { 0 };
        let n_504 = u32::from(dice.share() < 0.01);
        let n_503 = if dice.share() < 0.01 { 2 } else { 0 };
        let some = [(200, n_200), (502, n_502), (503, n_503), (504, n_504), (1000, n_503.min(1))];
        let crawler = (1002, n_502.min(1));
        let (status, count) = some
            .into_iter()
            .chain([crawler])
            .filter(|(_, n)| *n > 0)
            .unzip::<_, _, Vec<_>, Vec<_>>();
        if !count.is_empty() {
            body.seconds.push(SiteSecond { site, second, status, count });
        }
    }
}

fn sampled(dice: &mut Dice, at: i64, hour: i64, counters: &mut [f64; 4]) -> Sampled {
    let level = 0.2 + 0.6 * Dice::new(91, hour.div_euclid(7 * HOUR_S)).share();
    let mut near = |middle: f64| (middle * (1.0 + 0.25 * dice.noise())).clamp(0.0, 1.0);
    let (cpu, memory, steal) = (near(level), near(level), near(0.04));
    let (root, srv, inodes, waits) = (near(0.5), near(0.88), near(0.1), near(0.08));
    for (counter, more) in counters.iter_mut().zip([0.02, 90_000.0, 40.0, 0.3]) {
        *counter += f64::from(dice.count(more * 60.0));
    }
    // Made larger in the middle of its life.
    let children = if at.div_euclid(86_400) % 11 < 6 { 10.0 } else { 16.0 };
    let active = f64::from(dice.count(children * 0.6)).min(children);
    let waiting = if active >= children { f64::from(dice.count(3.0)) } else { 0.0 };
    let limit = 8_589_934_592.0;
    let own = |metric, value| (metric, String::new(), value);
    let of = |metric, of: &str, value| (metric, of.to_owned(), value);
    let mount = "system.filesystem.mountpoint=";
    vec![
        own("system.cpu.utilization", cpu),
        own("system.cpu.steal", steal),
        own("system.cpu.iowait", waits / 2.0),
        own("system.cpu.logical.count", 4.0),
        own("system.processes.running", f64::from(dice.count(5.0))),
        own("system.memory.utilization", memory),
        own("system.memory.limit", limit),
        own("system.memory.available", (limit * (1.0 - memory)).round()),
        own("system.swap.utilization", waits),
        own("system.pressure.cpu", waits),
        own("system.pressure.memory", steal),
        own("system.pressure.io", waits),
        own("system.oom_kills", counters[0]),
        own("system.tcp.listen_overflows", counters[3]),
        own("system.tcp.established", f64::from(dice.count(40.0))),
        of("system.filesystem.utilization", &format!("{mount}/"), root),
        of("system.filesystem.utilization", &format!("{mount}/srv"), srv),
        of("system.filesystem.free", &format!("{mount}/"), ((1.0 - root) * 5e10).round()),
        of("system.filesystem.free", &format!("{mount}/srv"), ((1.0 - srv) * 2e11).round()),
        of("system.filesystem.inodes.utilization", &format!("{mount}/"), inodes),
        of("system.network.io.receive", "network.interface.name=eth0", counters[1]),
        of("system.disk.io_time", "system.device=vda", counters[2]),
        of("phpfpm.active_processes", "phpfpm.pool=www", active),
        of("phpfpm.max_children", "phpfpm.pool=www", children),
        of("phpfpm.listen_queue", "phpfpm.pool=www", waiting),
        of("phpfpm.total_processes", "phpfpm.pool=www", (active + 2.0).min(children)),
        of("phpfpm.memory_per_process", "phpfpm.pool=www", 6e7 + 1e6 * waits),
        of("phpfpm.max_children_reached", "phpfpm.pool=www", counters[3]),
    ]
}
