//! The loss ledger: each link from the log to the database is broken once, and what is lost stands in
//! the ledger of the agent and of the collector with its exact size.
//!
//! What a test wrote is the truth: written = counted + rejected + lost, in lines and in bytes.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use harness::{AgentSpec, Fleet, eventually, now_s, pause};
use rustix::process::Signal;
use serde_json::Value;

use crate::farm::LIMIT;

/// Bytes of every line of [`lines`].
const LINE: u64 = 120;

/// `n` requests, all of the same length.
fn lines(site: &str, n: u64, status: u16, user_agent: &str) -> Vec<u8> {
    let at = jiff::Timestamp::from_second(now_s()).expect("now is in range");
    let at = at.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let line = format!(
        "{site}:80 203.0.113.7 - - [{at}] \"GET / HTTP/1.1\" {status} 5 \"-\" \"{user_agent}\"\n"
    );
    assert!(line.len() as u64 <= LINE, "{line}");
    let padded = line.replace("GET /", &format!("GET /{}", "x".repeat(LINE as usize - line.len())));
    padded.repeat(n as usize).into_bytes()
}

/// Everything a test wrote, by what must have become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Truth {
    lines: [u64; 3],
    bytes: [u64; 3],
    n_bytes_recovered: u64,
    n_truncations: u64,
}

impl Truth {
    fn count(&mut self, n_lines: u64) {
        self.lines[0] += n_lines;
        self.bytes[0] += n_lines * LINE;
    }

    fn reject(&mut self, line: &[u8]) {
        self.lines[1] += 1;
        self.bytes[1] += line.len() as u64;
    }
}

const FATES: [&str; 3] = ["counted", "rejected", "lost"];

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_else(|| panic!("no {key} in {of}"))
}

/// What the collector says.
fn told_by_collector(fleet: &Fleet) -> Result<Truth, String> {
    let row = fleet.listed("web-1")?;
    let ledger = &row["ledger"];
    let lines = FATES.map(|fate| number(ledger, &format!("n_lines_{fate}")));
    let bytes = FATES.map(|fate| number(ledger, &format!("n_bytes_{fate}")));
    assert_eq!(number(ledger, "n_lines_seen"), lines.iter().sum::<u64>(), "{ledger}");
    assert_eq!(number(ledger, "n_bytes_seen"), bytes.iter().sum::<u64>(), "{ledger}");
    Ok(Truth {
        lines,
        bytes,
        n_bytes_recovered: number(&row["loss"], "n_bytes_recovered"),
        n_truncations: number(&row["loss"], "n_truncations"),
    })
}

/// Bytes of all logs as the agent tells them since its start; each file's equation holds.
fn told_by_agent(fleet: &Fleet) -> Result<[u64; 3], String> {
    let status = fleet.agent("web-1").status()?;
    let files = status["files"].as_array().expect("files are a list");
    for of in files.iter().chain([&status["ledger"]]) {
        let sum = FATES.iter().map(|fate| number(of, &format!("n_bytes_{fate}"))).sum::<u64>();
        assert_eq!(number(of, "n_bytes_seen"), sum, "{of}");
    }
    Ok(FATES.map(|fate| number(&status["ledger"], &format!("n_bytes_{fate}"))))
}

/// Waits until collector and agent tell the truth; `earlier` is what the agent's lives before this
/// one have seen.
fn balanced(fleet: &Fleet, what: &str, truth: &Truth, earlier: [u64; 3]) {
    eventually(&format!("{what}: the collector tells the truth"), LIMIT, || {
        let told = told_by_collector(fleet)?;
        if told == *truth { Ok(()) } else { Err(format!("{told:?} instead of {truth:?}")) }
    });
    eventually(&format!("{what}: the agent tells the truth"), LIMIT, || {
        let told = told_by_agent(fleet)?;
        let want = [0, 1, 2].map(|ix| truth.bytes[ix] - earlier[ix]);
        if told == want { Ok(()) } else { Err(format!("{told:?} instead of {want:?}")) }
    });
}

fn fleet(toml: &str) -> Fleet {
    let spec = AgentSpec::new("web-1").toml(toml);
    Fleet::builder().agent(spec).batch_interval("100ms").start()
}

/// Waits until the agent has read all that is whole, and knows of `n_waiting` bytes more.
fn read_up_to(fleet: &Fleet, n_waiting: u64) {
    eventually("the agent has read what is whole", LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let file = &status["files"][0];
        let path = file["path"].as_str().ok_or_else(|| format!("no file yet: {status}"))?;
        let size = fs::metadata(path).expect("there").len();
        let (read, known) = (number(file, "read"), number(file, "size"));
        if (size - read, known) == (n_waiting, size) { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn what_a_log_loses_or_holds_in_vain_is_known_to_the_byte() {
    let mut fleet = fleet("[limits]\nsites_max = 2\n");
    let mut truth = Truth::default();

    fleet.log("web-1").raw(&lines("a.example", 20, 200, "-"));
    truth.count(20);
    balanced(&fleet, "sound lines", &truth, [0; 3]);

    // Truncated in place with a beginning that nobody has read: it is lost.
    fleet.log("web-1").raw(b"half a line of 24 bytes.");
    read_up_to(&fleet, 24);
    fs::File::options()
        .write(true)
        .open(fleet.log("web-1").path())
        .and_then(|file| file.set_len(0))
        .expect("the log can be truncated");
    fleet.log("web-1").raw(&lines("a.example", 3, 200, "-"));
    truth.count(3);
    truth.bytes[2] += 24;
    truth.n_truncations += 1;
    balanced(&fleet, "truncated in place", &truth, [0; 3]);

    // copytruncate behind the agent's back: the unread lines are in the copy.
    fleet.agent("web-1").process().freeze();
    fleet.log("web-1").raw(&lines("a.example", 50, 200, "-"));
    fleet.log("web-1").copytruncate();
    fleet.agent("web-1").process().signal(Signal::CONT);
    truth.count(50);
    truth.n_bytes_recovered += 50 * LINE;
    truth.n_truncations += 1;
    balanced(&fleet, "copytruncate", &truth, [0; 3]);

    // Lines that are no record, one of them of a mebibyte.
    let long = [b"x".repeat(1 << 20), b"\n".to_vec()].concat();
    for line in [&b"no record\n"[..], b"\0\xff\xfe\r\n", &long, b"a.example:80 \n"] {
        fleet.log("web-1").raw(line);
        truth.reject(line);
    }
    fleet.log("web-1").raw(&lines("a.example", 5, 200, "-"));
    truth.count(5);
    balanced(&fleet, "garbage", &truth, [0; 3]);
    let loss = fleet.db().loss("web-1");
    assert_eq!((loss["n_lines_rejected"], loss["n_lines_too_long"]), (4, 1), "{loss:?}");
    assert_eq!(loss["n_bytes_rejected"].cast_unsigned(), truth.bytes[1]);

    // More sites than may be named: counted, under `other`.
    for site in ["b.example", "c.example", "d.example"] {
        fleet.log("web-1").raw(&lines(site, 7, 200, "-"));
    }
    truth.count(21);
    balanced(&fleet, "too many sites", &truth, [0; 3]);
    let other = fleet.db().requests("web-1").get(&("other".to_owned(), 200)).copied();
    let n_other = fleet.db().loss("web-1").get("n_lines_other").copied();
    assert_eq!((other, n_other), (Some(14), Some(14)));

    let text = fleet.agent("web-1").run(&["status"]).good().expect("it runs");
    for part in
        ["seen = ", "24 B lost", "n_truncations 2", "n_lines_rejected 4", "[limits] sites_max"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let page = fleet.cli(&["agent", "show", "web-1"]).good().expect("it runs");
    let [counted, rejected, lost] = truth.bytes;
    let equation = format!("{} bytes = {counted} + {rejected} + {lost}", counted + rejected + lost);
    assert!(page.contains(&equation), "no {equation:?} in\n{page}");
}

#[test]
fn kills_between_read_and_ack_lose_nothing_and_count_nothing_twice() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("2s").start();
    let mut truth = Truth::default();

    // Read, in the windows, not spooled: the next life reads it again.
    for round in 1..=2 {
        eventually("lines are read that are not spooled", LIMIT, || {
            fleet.log("web-1").raw(&lines("a.example", 10, 200, "-"));
            truth.count(10);
            read_up_to(&fleet, 0);
            let status = fleet.agent("web-1").status()?;
            let file = &status["files"][0];
            let is_between = number(file, "read") > number(file, "spooled");
            if is_between { Ok(()) } else { Err(status.to_string()) }
        });
        fleet.kill9_agent("web-1");
        fleet.log("web-1").raw(&lines("a.example", round, 200, "-"));
        truth.count(round);
        fleet.restart_agent("web-1");
    }
    // Killed with batches on their way: stored and not acked, or not stored.
    for round in 0..3 {
        fleet.log("web-1").raw(&lines("a.example", 100, 200, "-"));
        fleet.log("web-1").raw(&lines("a.example", 2, 502, "-")); // sends at once
        truth.count(102);
        pause(Duration::from_millis(7 * round)); // each kill hits another moment of the work
        fleet.kill9_collector();
        fleet.start_collector();
    }
    eventually("every line is stored once", LIMIT, || {
        let told = told_by_collector(&fleet)?;
        if told == truth { Ok(()) } else { Err(format!("{told:?} instead of {truth:?}")) }
    });
    assert_eq!(fleet.db().n_requests("web-1"), truth.lines[0]);
    fleet.agent_mut("web-1").stop();
    assert_eq!(told_by_collector(&fleet), Ok(truth));
}

#[test]
fn a_log_that_is_gone_at_a_restart_is_told_and_the_lines_around_it_are_counted() {
    let mut fleet = fleet("");
    let mut truth = Truth::default();
    fleet.log("web-1").raw(&lines("a.example", 20, 200, "-"));
    truth.count(20);
    balanced(&fleet, "before", &truth, [0; 3]);
    let earlier = truth.bytes;
    fleet.agent_mut("web-1").stop();
    // Nobody saw these lines, so nobody can say how many they were; that there were some is told.
    fleet.log("web-1").raw(&lines("a.example", 9, 200, "-"));
    fleet.log("web-1").recreate();
    fleet.log("web-1").raw(&lines("a.example", 4, 200, "-"));
    truth.count(4);
    truth.n_truncations += 1;
    fleet.restart_agent("web-1");
    balanced(&fleet, "after", &truth, earlier);
}

/// Names as long as names may be that do not compress, so that a few batches fill a spool.
fn names(n: usize) -> Vec<String> {
    let mut noise = 1_u64;
    let mut letter = |ix: usize| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let letter = b"abcdefghijklmnopqrstuvwxyz012345"[(noise >> 33) as usize % 32];
        if ix % 60 == 59 { '.' } else { char::from(letter) }
    };
    (0..n).map(|_| (0..239).map(&mut letter).chain(".example".chars()).collect()).collect()
}

#[test]
fn a_full_spool_tells_lines_and_bytes_of_what_it_evicted() {
    let mut fleet = fleet("[limits]\nspool_bytes_max = \"8MiB\"\n");
    let path: PathBuf = fleet.log("web-1").path().to_owned();
    fleet.stop_collector();
    let (mut n_lines, mut n_bytes) = (0_u64, 0_u64);
    let names = names(1900);
    eventually("batches are evicted", LIMIT, || {
        let at = jiff::Timestamp::from_second(now_s()).expect("now is in range");
        let at = at.strftime("%d/%b/%Y:%H:%M:%S +0000");
        let mut text = Vec::new();
        for (ix, name) in names.iter().enumerate() {
            let path = "y".repeat(ix % 7);
            writeln!(
                text,
                "{name}:80 203.0.113.7 - - [{at}] \"GET /{path} HTTP/1.1\" 200 5 \"-\" \"-\""
            )
            .expect("to memory");
        }
        (n_lines, n_bytes) = (n_lines + names.len() as u64, n_bytes + text.len() as u64);
        fleet.log("web-1").raw(&text);
        let status = fleet.agent("web-1").status()?;
        let n = number(&status["loss"], "n_batches_evicted");
        if n > 2 { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(fs::metadata(path).expect("there").len(), n_bytes);
    fleet.start_collector();
    let told = eventually("seen at the collector is what was written", LIMIT, || {
        let told = told_by_collector(&fleet)?;
        let seen = (told.lines.iter().sum::<u64>(), told.bytes.iter().sum::<u64>());
        if seen == (n_lines, n_bytes) { Ok(told) } else { Err(format!("{told:?} {seen:?}")) }
    });
    assert!(told.lines[2] > 0 && told.bytes[2] > 0, "{told:?}");
    assert_eq!(told.lines[0], fleet.db().n_requests("web-1"), "what counts is stored");
    assert_eq!(told.bytes[1..2], [0], "{told:?}");
    // Batches may have been evicted on their way: lost until their ack comes.
    eventually("both ends tell the same", LIMIT, || {
        let loss = &fleet.agent("web-1").status()?["loss"];
        let lost = (number(loss, "n_lines_lost"), number(loss, "n_bytes_lost"));
        let evicted = number(loss, "n_bytes_evicted");
        let want = (told.lines[2], told.bytes[2]);
        if lost == want && evicted == want.1 { Ok(()) } else { Err(format!("{loss}, {told:?}")) }
    });
    assert_eq!(told_by_agent(&fleet), Ok([n_bytes, 0, 0]), "all was read");
}

#[test]
fn a_spool_damaged_while_the_agent_is_stopped_tells_lines_and_bytes_of_what_is_gone() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
        },
        |bytes| bytes.truncate(bytes.len() / 3),
        Vec::clear,
    ];
    let mut fleet = fleet("");
    let mut truth = Truth::default();
    for damage in damages {
        fleet.stop_collector();
        for n in 1..=4 {
            let batches = |fleet: &Fleet| {
                let status = fleet.agent("web-1").status()?;
                let file = &status["files"][0];
                let is_spooled = number(file, "read") == number(file, "spooled");
                let n = number(&status["spool"], "seq_last");
                if is_spooled { Ok(n) } else { Err(status.to_string()) }
            };
            let before = eventually("all is spooled", LIMIT, || batches(&fleet));
            fleet.log("web-1").raw(&lines("a.example", 10 * n, 200, "-"));
            truth.count(10 * n);
            eventually("one more batch is spooled", LIMIT, || match batches(&fleet)? {
                n if n > before => Ok(()),
                n => Err(format!("{n}")),
            });
        }
        fleet.agent_mut("web-1").stop();
        let spool = fleet.agent("web-1").dir().join("state/spool");
        let files = fs::read_dir(&spool).expect("there").map(|entry| entry.expect("there").path());
        let newest = files.filter(|path| path.extension().is_some_and(|e| e == "seg")).max();
        let newest = newest.expect("a spool that waits has a segment");
        let mut bytes = fs::read(&newest).expect("mine");
        damage(&mut bytes);
        fs::write(&newest, bytes).expect("mine");
        fleet.restart_agent("web-1");
        fleet.start_collector();
        let before = truth;
        truth = eventually("seen at the collector is what was written", LIMIT, || {
            let told = told_by_collector(&fleet)?;
            let n_written = before.lines.iter().sum::<u64>();
            if told.lines.iter().sum::<u64>() == n_written {
                Ok(told)
            } else {
                Err(format!("{told:?}, {n_written} written\n{}", fleet.agent("web-1").log_text()))
            }
        });
        assert!(truth.lines[2] > before.lines[2], "something is lost: {truth:?}");
        assert_eq!(truth.bytes, truth.lines.map(|n| n * LINE), "{truth:?}");
        assert_eq!(fleet.db().n_requests("web-1"), truth.lines[0], "what counts is stored");
    }
}

#[test]
fn errors_that_crawlers_saw_reach_the_counts_and_the_incident() {
    const BOT: &str = "Googlebot/2.1";
    let mut fleet = fleet("");
    fleet.log("web-1").raw(&lines("a.example", 30, 200, BOT));
    fleet.log("web-1").raw(&lines("a.example", 9, 503, BOT)); // nothing explains them
    let mut n = 0_u64;
    eventually("an incident opens", LIMIT, || {
        // Many at once: an incident counts from its first failure on, and failures that come one by
        // one on a busy machine are noise to it until there are enough within a while.
        for _ in 0..30 {
            n += 1;
            let user_agent = if n.is_multiple_of(3) { "-" } else { BOT };
            let line = String::from_utf8(lines("a.example", 1, 502, user_agent)).expect("text");
            let line = line.replace("203.0.113.7", &format!("203.0.{}.{}", n / 200, n % 200));
            fleet.log("web-1").raw(line.as_bytes());
        }
        if fleet.incidents()?.is_empty() { Err(format!("{n} failures")) } else { Ok(()) }
    });
    let n_crawler = n - n / 3;
    eventually("the crawler's errors are stored", LIMIT, || {
        let db = fleet.db();
        let stored = (db.n_status("web-1", wire::signal::counter::CRAWLER), db.n_requests("web-1"));
        if stored == (n_crawler, 39 + n) { Ok(()) } else { Err(format!("{stored:?} of {n}")) }
    });
    let incident = fleet.incident("the incident counts them", LIMIT, |incident| {
        let affected = &incident.json()["affected"];
        (number(affected, "n_502"), number(affected, "n_crawler")) == (n, n_crawler)
    });
    let page = fleet.cli(&["incident", "show", incident.id()]).good().expect("it runs");
    assert!(page.contains(&format!("of search engines saw {n_crawler} of these")), "{page}");
}
