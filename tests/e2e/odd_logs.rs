//! Logs that are no logs, too many, too fast or out of reach: each bounded, counted and explained in
//! `status`, and the good log beside them is read on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use harness::{AgentSpec, Fleet, LogFeed, Root, eventually};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value;

use crate::bad_input::{one_agent, source};
use crate::farm::LIMIT;

/// What `status` says of one log, once it satisfies `probe`.
fn status_of(fleet: &Fleet, path: &Path, what: &str, probe: impl Fn(&Value) -> bool) -> Value {
    eventually(what, LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let files = status["files"].as_array().ok_or("no files")?;
        let file = files.iter().find(|file| file["path"] == path.to_str().expect("UTF-8"));
        let file = file.ok_or_else(|| format!("{} is not followed", path.display()))?;
        if probe(file) { Ok(file.clone()) } else { Err(file.to_string()) }
    })
}

/// The good log beside them is read.
fn good_log_is_read(fleet: &mut Fleet) {
    let stored = fleet.db().n_requests("web-1");
    fleet.log("web-1").requests("good.example", 3, 200);
    eventually("the good log is read", LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        if have >= stored + 3 { Ok(()) } else { Err(format!("{have}")) }
    });
}

fn number(file: &Value, key: &str) -> u64 {
    file[key].as_u64().unwrap_or_else(|| panic!("no {key} in {file}"))
}

#[test]
fn odd_lines_are_rejected_to_the_byte_and_half_a_line_waits_for_its_end() {
    let mut fleet = one_agent("");
    let path = fleet.log("web-1").path().to_owned();
    let log = fleet.log("web-1");
    let odd = [
        [vec![b'x'; 1 << 20], b"\n".to_vec()].concat(),
        b"\0\0\0 NUL \0\r\n".to_vec(),
        b"\xff\xfe\xc3\x28 no UTF-8\n".to_vec(),
        [vec![b'y'; 3 << 20], b"\r\n".to_vec()].concat(),
    ];
    for line in &odd {
        log.requests("a.example", 5, 200);
        log.raw(line);
    }
    // Line ends of the other world, alone and mixed.
    let now = jiff::Timestamp::from_second(harness::now_s()).expect("in range");
    let now = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let line = format!("a.example:80 203.0.113.9 - - [{now}] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"");
    log.raw(format!("{line}\r\n{line}\n\r\n\n{line}\r\n").as_bytes());
    log.raw(line.as_bytes());

    let n_rejected: usize = odd.iter().map(Vec::len).sum();
    let file = status_of(&fleet, &path, "all but half a line is read", |file| {
        number(file, "size") == number(file, "read") + line.len() as u64
            && number(file, "n_lines") == 20 + 4 + 5
    });
    assert_eq!(number(&file, "n_rejected"), 4, "{file}");
    assert_eq!(number(&file, "n_bytes_rejected"), n_rejected as u64, "{file}");
    assert_eq!(number(&file, "n_bytes_seen"), number(&file, "read"), "{file}");
    assert_eq!(file["rejected"], serde_json::json!({"malformed": 2, "too_long": 2}), "{file}");
    let samples = file["rejected_samples"].as_array().expect("a list");
    let lines: Vec<&str> = samples.iter().filter_map(|sample| sample["line"].as_str()).collect();
    assert!(lines[0].contains("NUL") && lines[1].contains("no UTF-8"), "{file}");
    assert!(samples.iter().all(|sample| sample["reason"] == "malformed"), "{file}");
    fleet.log("web-1").raw(b"\n");
    status_of(&fleet, &path, "the line is whole", |file| number(file, "n_lines") == 30);
    eventually("23 requests and the last one are stored", LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        if have == 24 { Ok(()) } else { Err(format!("{have}")) }
    });
}

#[test]
fn ten_rejected_lines_are_shown_with_their_reason_and_no_client() {
    let mut fleet = one_agent("");
    let path = fleet.log("web-1").path().to_owned();
    let log = fleet.log("web-1");
    log.requests("a.example", 5, 200);
    for n in 0..15 {
        log.raw(format!("no request {n} of 198.51.100.7 for /x?token=secret\n").as_bytes());
    }
    let file =
        status_of(&fleet, &path, "they are rejected", |file| number(file, "n_rejected") == 15);
    let samples = file["rejected_samples"].as_array().expect("a list");
    assert_eq!(samples.len(), 10, "{file}");
    let shown = "no request 0 of 198.51.100.0/24 for /x";
    assert!(samples[0]["line"].as_str().is_some_and(|line| line.starts_with(shown)), "{file}");
    assert!(!file.to_string().contains("secret"), "{file}");
    let text = fleet.agent("web-1").run(&["status"]).stdout;
    assert!(text.contains("15 rejected: 15 malformed"), "{text}");
    assert!(text.contains(&format!("malformed: {shown}")), "{text}");
}

#[test]
fn pipes_devices_directories_and_binary_files_are_named_and_block_nobody() {
    let dir = Root::new();
    let (pipe, device) = (dir.join("pipe.log"), dir.join("device.log"));
    let (directory, binary) = (dir.mkdir("directory.log"), dir.write("binary.log", ""));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe can be made");
    std::os::unix::fs::symlink("/dev/zero", &device).expect("a link can be made");
    let sources: String = [&pipe, &device, &directory, &binary].map(|path| source(path)).concat();
    let mut fleet = one_agent(&sources);
    for (path, what) in
        [(&pipe, "device or pipe"), (&device, "device or pipe"), (&directory, "directory")]
    {
        let says = |file: &Value| file["problem"].as_str().is_some_and(|text| text.contains(what));
        let file = status_of(&fleet, path, what, says);
        assert!(file["problem"].as_str().expect("just seen").contains("name the log file itself"));
    }
    // Nobody reads the pipe: a program that writes to it is not fooled.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let writer = OpenOptions::new().write(true).custom_flags(flags).open(&pipe);
    assert!(writer.is_err(), "the agent holds the pipe open");

    let bytes: Vec<u8> =
        (1..4_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    OpenOptions::new()
        .append(true)
        .open(&binary)
        .expect("mine")
        .write_all(&bytes)
        .expect("writable");
    let file = status_of(&fleet, &binary, "the binary file is rejected", |file| {
        number(file, "size") == bytes.len() as u64
            && number(file, "n_lines") + 1 >= bytes.split(|byte| *byte == b'\n').count() as u64
    });
    let n_blank = number(&file, "n_bytes_counted");
    assert!(number(&file, "n_bytes_rejected") + n_blank == number(&file, "read"), "{file}");
    assert!(n_blank < 1000, "blank lines at most: {file}");
    good_log_is_read(&mut fleet);
    assert_eq!(fleet.db().n_requests("web-1"), 3);
}

#[test]
fn a_directory_that_vanishes_and_comes_back_is_followed_again() {
    let dir = Root::new();
    let path = dir.mkdir("logs").join("access.log");
    let mut log = LogFeed::open(&path);
    let mut fleet = one_agent(&source(&path));
    let stored = |fleet: &Fleet, n: u64| {
        eventually(&format!("{n} requests are stored"), LIMIT, || {
            let have = fleet.db().n_requests("web-1");
            if have == n { Ok(()) } else { Err(format!("{have}")) }
        });
    };
    log.requests("a.example", 10, 200);
    stored(&fleet, 10);
    // Moved away, and written on there; another one takes its name.
    fs::rename(dir.join("logs"), dir.join("moved")).expect("mine");
    log.requests("a.example", 5, 200);
    stored(&fleet, 15);
    status_of(&fleet, &path, "the log is missing", |file| {
        file["problem"].as_str().is_some_and(|text| text.contains("does not exist"))
    });
    dir.mkdir("logs");
    let mut log = LogFeed::open(&path);
    log.requests("a.example", 7, 200);
    stored(&fleet, 22);
    // Deleted with all that is in it.
    fs::remove_dir_all(dir.join("logs")).expect("mine");
    status_of(&fleet, &path, "the log is missing again", |file| !file["problem"].is_null());
    dir.mkdir("logs");
    LogFeed::open(&path).requests("a.example", 4, 200);
    stored(&fleet, 26);
    status_of(&fleet, &path, "all is well again", |file| file["problem"].is_null());
    good_log_is_read(&mut fleet);
}

#[test]
fn permission_taken_away_and_given_back_loses_no_line_and_is_told_with_its_fix() {
    let dir = Root::new();
    let path = dir.write("access.log", "");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("mine");
    mode(&path, 0o644);
    let agent = AgentSpec::new("web-1").toml(&source(&path)).unprivileged();
    let mut fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let mut log = LogFeed::open(&path);
    log.requests("a.example", 10, 200);
    status_of(&fleet, &path, "ten lines", |file| number(file, "n_lines") == 10);
    mode(&path, 0o000);
    log.requests("a.example", 5, 200);
    status_of(&fleet, &path, "an open log is read on", |file| number(file, "n_lines") == 15);
    log.rotate();
    mode(&path, 0o000);
    log.requests("a.example", 7, 200);
    let file =
        status_of(&fleet, &path, "the new log is refused", |file| !file["problem"].is_null());
    let problem = file["problem"].as_str().expect("just seen");
    assert!(problem.contains("may not read") && problem.contains("setfacl"), "{problem}");
    mode(&path, 0o644);
    let file = status_of(&fleet, &path, "it is read from its start", |file| {
        file["problem"].is_null() && number(file, "n_lines") == 22
    });
    assert_eq!(number(&file, "n_bytes_lost"), 0, "{file}");
    good_log_is_read(&mut fleet);
}

#[test]
fn a_log_that_grows_faster_than_it_is_read_costs_no_memory_and_shows_its_backlog() {
    /// At least so much, and at most so much until a backlog was seen: a fast agent is hard to outrun.
    const N_BYTES: u64 = 96 << 20;
    const N_BYTES_MAX: u64 = 1 << 30;
    let dir = Root::new();
    let path = dir.write("access.log", "");
    let mut fleet = one_agent(&source(&path));
    let now = jiff::Timestamp::from_second(harness::now_s()).expect("in range");
    let now = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let line =
        format!("a.example:80 203.0.113.9 - - [{now}] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"\n");
    let block = line.repeat((1 << 20) / line.len());
    let mut file = OpenOptions::new().append(true).open(&path).expect("mine");
    let was_seen = AtomicBool::new(false);
    let write = || {
        let mut n_written = 0;
        while n_written < N_BYTES || !was_seen.load(Relaxed) && n_written < N_BYTES_MAX {
            file.write_all(block.as_bytes()).expect("writable");
            n_written += block.len() as u64;
        }
        n_written
    };
    let n_written = std::thread::scope(|scope| {
        let writer = scope.spawn(write);
        while !writer.is_finished() {
            let status = fleet.agent("web-1").status().expect("it answers");
            let files = status["files"].as_array().expect("a list");
            let file = files.iter().find(|file| file["path"] == path.to_str().expect("UTF-8"));
            let is_behind = file.is_some_and(|file| number(file, "read") < number(file, "size"));
            was_seen.fetch_or(is_behind, Relaxed);
        }
        writer.join().expect("it writes")
    });
    let mut rss_max = 0;
    eventually("all of it is read", LIMIT * 4, || {
        let status = fleet.agent("web-1").status()?;
        rss_max = rss_max.max(status["self"]["rss_bytes"].as_u64().unwrap_or_default());
        let files = status["files"].as_array().expect("a list");
        let file = files.iter().find(|file| file["path"] == path.to_str().expect("UTF-8"));
        let (read, size) =
            (number(file.expect("followed"), "read"), number(file.expect("followed"), "size"));
        was_seen.fetch_or(read < size, Relaxed);
        if read == n_written { Ok(()) } else { Err(format!("{read} of {n_written}")) }
    });
    assert!(rss_max < 64 << 20, "{rss_max} bytes of memory");
    assert!(was_seen.load(Relaxed), "a backlog of {n_written} bytes was never seen");
    good_log_is_read(&mut fleet);
}

#[test]
fn fifty_thousand_files_of_one_glob_are_followed_up_to_a_limit_and_the_rest_is_named() {
    const N: usize = 50_000;
    let dir = Root::new();
    let logs = dir.mkdir("logs");
    for n in 0..N {
        File::create(logs.join(format!("site-{n:05}.log"))).expect("writable");
    }
    let mut fleet = one_agent(&source(&logs.join("*.log")));
    let (n_followed, told) = eventually("the limit is told", LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let n_followed = status["files"].as_array().ok_or("no files")?.len();
        let told = status["unreadable"].as_array().ok_or("no list")?.clone();
        if told.is_empty() { Err(format!("{n_followed}")) } else { Ok((n_followed, told)) }
    });
    assert!((300..=10_000).contains(&n_followed), "{n_followed}");
    let [told] = told.as_slice() else { panic!("{told:?}") };
    let told = told.as_str().expect("a text");
    let n_more = N + 1 - n_followed - 1;
    assert!(told.contains(&format!("and {n_more} more logs are not followed")), "{told}");
    assert!(told.contains("name fewer logs"), "{told}");
    let rss = fleet.agent("web-1").status().expect("it answers")["self"]["rss_bytes"].as_u64();
    assert!(rss.is_some_and(|rss| rss < 128 << 20), "{rss:?} bytes of memory");
    LogFeed::open(&logs.join("site-00007.log")).requests("a.example", 5, 200);
    good_log_is_read(&mut fleet);
    eventually("a log of the many is read", LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        if have == 8 { Ok(()) } else { Err(format!("{have}")) }
    });
}
