//! The gather thread on real files and a real spool, as the agent runs it.

use super::*;
use crate::config::{LogsConfig, SourceConfig};
use crate::logs::watch::Event;
use crate::spool::Seq;
use prost::Message as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use wire::v1;

/// One agent's data path in a temporary directory; every line counted is found in its spool.
struct Agent {
    dir: tempfile::TempDir,
    sources: Vec<SourceConfig>,
    spool_bytes_max: u64,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<()>,
    stop: CancellationToken,
    status: watch::Receiver<GatherStatus>,
    observations: mpsc::Sender<Observation>,
    interval: watch::Sender<Duration>,
    config: watch::Sender<Arc<Config>>,
    spool: Arc<Mutex<Spool>>,
    n_dropped: Arc<AtomicU64>,
}

fn source(path: &Path, kind: &str, site: Option<&str>) -> SourceConfig {
    SourceConfig {
        path: path.to_str().unwrap().to_owned(),
        kind: kind.to_owned(),
        format: "combined".to_owned(),
        site: site.map(str::to_owned),
        timezone: None,
    }
}

/// An access line of now.
fn line(status: u16, path: &str) -> String {
    let now = jiff::Zoned::now().strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
    format!("192.0.2.7 - - [{now}] \"GET {path} HTTP/1.1\" {status} 12 \"-\" \"test\"\n")
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

impl Agent {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            sources: Vec::new(),
            spool_bytes_max: 64 << 20,
            running: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Arc<Config> {
        let source = self.sources.clone();
        let root = self.path("root");
        let mut logs = LogsConfig { discover: false, source, ..LogsConfig::default() };
        if root.exists() {
            (logs.discover, logs.root) = (true, root);
        }
        Arc::new(Config { state_dir: self.path("state"), logs, ..Config::default() })
    }

    fn start(&mut self) {
        let config = self.config();
        fs::create_dir_all(&config.state_dir).unwrap();
        let (config_tx, reloaded) = watch::channel(Arc::clone(&config));
        let spool_dir = config.state_dir.join("spool");
        let (spool, _) = Spool::open(&spool_dir, self.spool_bytes_max, clock::now()).unwrap();
        let spool = Arc::new(Mutex::new(spool));
        let (observations, rx) = mpsc::channel(crate::window::OBSERVATIONS_MAX);
        let (status_tx, status) = watch::channel(GatherStatus::default());
        let (interval, batch_interval) = watch::channel(Duration::from_millis(50));
        let stop = CancellationToken::new();
        let n_dropped = Arc::new(AtomicU64::new(0));
        let thread = spawn(GatherInputs {
            config: Arc::clone(&config),
            reloaded,
            spool: Arc::clone(&spool),
            spooled: Arc::new(Notify::new()),
            observations: rx,
            n_observations_dropped: Arc::clone(&n_dropped),
            status: status_tx,
            discovery: watch::channel(Arc::new(Discovery::default())).0,
            batch_interval,
            is_memory_short: Arc::default(),
            stop: stop.clone(),
        });
        let thread = thread.unwrap();
        self.running = Some(Running {
            thread,
            stop,
            status,
            observations,
            interval,
            config: config_tx,
            spool,
            n_dropped,
        });
        self.eventually("every log was looked at", |agent| {
            (agent.status().files.len() >= agent.sources.len()).then_some(())
        });
    }

    /// SIGHUP with the sources as they are now.
    fn reload(&self) {
        self.running().config.send_replace(self.config());
    }

    fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        running.thread.join().unwrap();
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn status(&self) -> GatherStatus {
        self.running().status.borrow().clone()
    }

    /// All batches spooled so far.
    fn bodies(&self) -> Vec<(v1::Batch, v1::BatchBody)> {
        let mut spool = self.running().spool.lock().unwrap();
        let mut bodies = Vec::new();
        let mut seq = 1;
        while let Some(record) = spool.peek(Seq(seq)).unwrap() {
            seq = record.seq.0 + 1;
            let batch = v1::Batch::decode(record.payload.as_slice()).unwrap();
            let body = crate::batch::open(&batch).unwrap();
            bodies.push((batch, body));
        }
        bodies
    }

    /// Requests spooled with a status.
    fn n(&self, status: u32) -> u64 {
        let bodies = self.bodies();
        let seconds = bodies.iter().flat_map(|(_, body)| &body.seconds);
        let counts = seconds.flat_map(|second| second.status.iter().zip(&second.count));
        counts.filter(|(code, _)| **code == status).map(|(_, n)| u64::from(*n)).sum()
    }

    fn eventually<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        let began = clock::instant();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(found) = look(self) {
                return found;
            }
            let waited = rx.recv_timeout(Duration::from_millis(10));
            assert!(waited.is_err(), "nobody sends");
        }
        drop(tx);
        panic!("not in 60 s: {what}; status {:#?}", self.status());
    }

    fn eventually_n(&self, status: u32, n: u64) {
        let mut last = 0;
        self.eventually(&format!("{n} requests with {status}"), |agent| {
            last = agent.n(status);
            assert!(last <= n, "{last} requests with {status} counted, {n} written");
            (last == n).then_some(())
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            drop(running.thread.join());
        }
    }
}

#[test]
fn lines_are_counted_once_over_rotation_and_restart() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, &line(200, "/history"));
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    append(&log, &line(201, "/1").repeat(3));
    agent.eventually_n(201, 3);
    fs::rename(&log, agent.path("access.log.1")).unwrap();
    append(&agent.path("access.log.1"), &line(201, "/late"));
    append(&log, &line(201, "/2"));
    agent.eventually_n(201, 5);
    agent.stop();

    append(&log, &line(201, "/3"));
    fs::rename(&log, agent.path("access.log.2")).unwrap();
    append(&log, &line(201, "/4"));
    agent.start();
    agent.eventually_n(201, 7);
    assert_eq!(agent.n(200), 0, "what was there before the first start is history");
    let files = agent.status().files;
    assert_eq!((files.len(), files[0].site.as_str()), (1, "a.example"));
}

/// The list of names in a folder ended the agent, again at each start: whoever may write into a folder
/// of logs could do that.
#[test]
fn a_name_that_is_no_utf8_beside_the_logs_does_not_end_the_agent() {
    let mut agent = Agent::new();
    append(&agent.dir.path().join(std::ffi::OsStr::from_bytes(b"m\xfcller.log")), "x\n");
    let log = agent.path("a.log");
    append(&log, "");
    agent.sources.push(source(&agent.path("*.log"), "access", Some("a.example")));
    agent.start();
    append(&log, &line(201, "/1").repeat(3));
    agent.eventually_n(201, 3);
}

#[test]
fn a_source_named_by_a_reload_is_followed() {
    let mut agent = Agent::new();
    let (first, second) = (agent.path("a.log"), agent.path("b.log"));
    append(&first, "");
    agent.sources = vec![source(&first, "access", Some("a.example"))];
    agent.start();
    agent.sources.push(source(&second, "access", Some("b.example")));
    agent.reload();
    agent.eventually("the new log is known", |agent| {
        agent.status().files.iter().any(|file| file.path == second).then_some(())
    });
    append(&second, &line(200, "/"));
    agent.eventually("its line is spooled", |agent| {
        let files = agent.status().files;
        files
            .iter()
            .any(|file| file.path == second && file.n_lines == 1 && file.spooled > 0)
            .then_some(())
    });
    agent.stop();
}

#[test]
fn every_file_of_a_glob_is_followed_and_a_new_one_too() {
    let mut agent = Agent::new();
    for site in ["a.example", "b.example"] {
        fs::create_dir_all(agent.path(site)).unwrap();
        append(&agent.path(site).join("access.log"), "");
    }
    agent.sources.push(source(&agent.path("*.example/access.log"), "access", Some("{1}.example")));
    agent.start();
    append(&agent.path("a.example/access.log"), &line(200, "/"));
    append(&agent.path("b.example/access.log"), &line(200, "/"));
    agent.eventually_n(200, 2);
    fs::create_dir_all(agent.path("c.example")).unwrap();
    append(&agent.path("c.example/access.log"), &line(200, "/first"));
    agent.eventually_n(200, 3);
    let names: std::collections::BTreeSet<_> =
        agent.bodies().into_iter().flat_map(|(_, body)| body.sites).map(|site| site.name).collect();
    assert!(names.is_superset(&["a.example", "b.example", "c.example"].map(str::to_owned).into()));
}

#[test]
fn bad_logs_are_told_and_stop_nothing_else() {
    let mut agent = Agent::new();
    let (good, dir, missing) = (agent.path("good.log"), agent.path("dir"), agent.path("missing"));
    append(&good, "");
    fs::create_dir(&dir).unwrap();
    agent.sources.push(source(&dir, "access", Some("dir.example")));
    agent.sources.push(source(&missing, "access", Some("missing.example")));
    agent.sources.push(source(&good, "access", Some("good.example")));
    agent.start();
    let mut file = fs::OpenOptions::new().append(true).open(&good).unwrap();
    file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    file.write_all(b"\n\0\0\0\n\xff\xfe\xfd\n").unwrap();
    append(&good, &line(200, "/after"));
    agent.eventually_n(200, 1);
    let problems = agent.eventually("both problems are told", |agent| {
        let files = agent.status().files;
        let problems: Vec<_> = files.iter().map(|file| file.problem.clone()).collect();
        (problems.iter().flatten().count() == 2).then_some(problems)
    });
    assert!(problems[0].as_ref().unwrap().contains("is a directory"), "{problems:?}");
    assert!(problems[1].as_ref().unwrap().contains("does not exist"), "{problems:?}");
    let loss = agent.eventually("the rejected lines are told", |agent| {
        let loss = agent.status().loss;
        (loss.n_lines_rejected > 0).then_some(loss)
    });
    assert_eq!(loss.n_lines_rejected, 3, "a mebibyte, NUL bytes, invalid UTF-8");
    append(&missing, &line(201, "/"));
    agent.eventually_n(201, 1);
}

#[test]
fn a_gateway_error_is_sent_at_once_and_the_rest_waits_for_the_interval() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    agent.running().interval.send(Duration::from_secs(3600)).unwrap();
    append(&log, &line(200, "/"));
    agent.eventually("the line is read", |agent| {
        agent.status().files.first().filter(|file| file.n_lines == 1).map(drop)
    });
    assert_eq!(agent.n(200), 0, "nothing fails: the batch waits");
    append(&log, &line(502, "/"));
    agent.eventually_n(502, 1);
    assert_eq!(agent.n(200), 1, "what waited goes with it");
    assert!(agent.status().gateway_error_at.is_some());
    let urgent: Vec<_> = agent.bodies().iter().map(|(batch, _)| batch.urgent).collect();
    assert_eq!(urgent.iter().filter(|urgent| **urgent).count(), 1, "{urgent:?}");
}

#[test]
fn a_spool_that_cannot_append_pauses_reading_and_loses_nothing() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.spool_bytes_max = 1;
    agent.start();
    append(&log, &line(200, "/1"));
    let blocked = agent.eventually("reading pauses", |agent| agent.status().blocked);
    assert!(blocked.contains("spool"), "{blocked}");
    append(&log, &line(200, "/2"));
    agent.stop();
    agent.spool_bytes_max = 64 << 20;
    agent.start();
    agent.eventually_n(200, 2);
}

#[test]
fn observations_travel_and_a_stopped_agent_leaves_a_checkpoint() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    let values = vec![("system.cpu.steal", String::new(), 0.5)];
    let at = clock::now();
    agent.running().observations.try_send(Observation::Samples { at, values }).unwrap();
    agent.eventually("the sample is spooled", |agent| {
        agent.bodies().iter().any(|(_, body)| !body.ticks.is_empty()).then_some(())
    });
    agent.eventually("an idle agent vouches for now", |agent| {
        (agent.status().complete_until >= at).then_some(())
    });
    append(&log, &line(200, "/last"));
    agent.stop();
    let checkpoint = Checkpoint::load(&agent.path("state/checkpoint")).unwrap().unwrap();
    let size = fs::metadata(&log).unwrap().len();
    assert_eq!(checkpoint.positions.len(), 1);
    assert_eq!(checkpoint.positions[0].offset, size, "the last line is read before the end");
}

#[test]
fn a_lost_or_corrupt_checkpoint_is_made_up_by_the_spooled_batches() {
    for damage in [None, Some("garbage")] {
        let mut agent = Agent::new();
        let log = agent.path("access.log");
        append(&log, "");
        agent.sources.push(source(&log, "access", Some("a.example")));
        agent.start();
        append(&log, &line(200, "/1"));
        agent.eventually_n(200, 1);
        agent.stop();
        let checkpoint = agent.path("state/checkpoint");
        match damage {
            Some(garbage) => fs::write(&checkpoint, garbage).unwrap(),
            None => fs::remove_file(&checkpoint).unwrap(),
        }
        append(&log, &line(200, "/2"));
        agent.start();
        agent.eventually_n(200, 2);
    }
}

#[test]
fn a_kill_after_copytruncate_counts_the_copy_once() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    let checkpoint = agent.path("state").join("checkpoint");
    let at_start = fs::read(&checkpoint).unwrap();
    append(&log, &line(201, "/read").repeat(3));
    agent.eventually_n(201, 3);
    append(&log, &line(201, "/perhaps-unread").repeat(2));
    fs::copy(&log, agent.path("access.log.1")).unwrap();
    fs::OpenOptions::new().write(true).truncate(true).open(&log).unwrap();
    append(&log, &line(201, "/after"));
    agent.eventually_n(201, 6);
    agent.stop();

    // As after kill -9: only the spooled batches tell how far each file was read.
    fs::write(&checkpoint, at_start).unwrap();
    agent.start();
    append(&log, &line(201, "/new"));
    agent.eventually_n(201, 7);
    assert_eq!(agent.status().loss, Loss::default(), "nothing was lost by the restart");
}

#[test]
fn what_is_counted_but_not_kept_whole_is_told_with_its_number() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    agent.running().n_dropped.store(7, Ordering::Relaxed); // what a full queue refused
    // Of one second, and no more than 5 are kept; in one page, so that nobody sees half of them.
    append(&log, &line(502, "/").repeat(40));
    agent.eventually_n(502, 40);
    let losses =
        || agent.bodies().into_iter().filter_map(|(_, body)| body.loss).collect::<Vec<_>>();
    let sum = |number: fn(&v1::Loss) -> u64| losses().iter().map(number).sum::<u64>();
    assert_eq!((sum(|l| l.n_exemplars_dropped), sum(|l| l.n_events_dropped)), (35, 7));
    assert_eq!(agent.bodies().iter().map(|(_, body)| body.exemplars.len()).sum::<usize>(), 5);
    let file = agent.eventually("the file tells its bytes", |agent| {
        agent.status().files.first().filter(|file| file.n_lines == 40).cloned()
    });
    let n_bytes = 40 * line(502, "/").len() as u64;
    assert_eq!((file.n_bytes_seen, file.n_bytes_counted), (n_bytes, n_bytes));
    assert_eq!(agent.bodies().iter().map(|(batch, _)| batch.n_bytes).sum::<u64>(), n_bytes);
}

#[test]
fn a_log_written_all_the_time_and_then_hardly_ever_loses_no_line() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", None));
    agent.start();
    let mut n = 0;
    for burst in 0..3 {
        for round in 0..30 {
            append(&log, &line(200, "/"));
            n += 1;
            if burst == 1 && round == 15 {
                fs::rename(&log, agent.path("access.log.1")).unwrap();
                append(&agent.path("access.log.1"), &line(200, "/late"));
                n += 1;
            }
            let mut looks = 0;
            agent.eventually("the next write is due", |_| {
                looks += 1;
                (looks > 1).then_some(())
            });
        }
        agent.eventually_n(200, n);
    }
    for _ in 0..3 {
        append(&log, &line(200, "/alone"));
        n += 1;
        agent.eventually_n(200, n);
    }
}

/// Passes until all is read: one ends early where the machine stands still for a moment.
fn read_all(files: &mut Files, judge: &mut Judge, windows: &mut Windows, at: UnixMillis) {
    while files.read_pass(judge, windows, clock::instant(), at) != PassEnd::AllRead {}
}

/// Files as the gather thread has them, without the thread.
fn files_of(agent: &Agent) -> (Files, Judge, Windows) {
    let config = agent.config();
    let checkpoint = Checkpoint::default();
    let files = Files::new(&config.logs, &checkpoint, false);
    let zone = jiff::tz::TimeZone::UTC;
    let judge = Judge::new(files.discovery(), config.privacy, config.limits.sites_max, zone);
    (files, judge, Windows::default())
}

#[tokio::test]
async fn a_log_that_has_no_end_keeps_no_other_log_waiting() {
    let mut agent = Agent::new();
    let names = ["a.log", "b.log", "c.log"];
    for name in names {
        append(&agent.path(name), "");
        agent.sources.push(source(&agent.path(name), "access", None));
    }
    let (mut files, mut judge, mut windows) = files_of(&agent);
    let (now, at) = (clock::instant(), clock::now());
    files.look(true, now, at, &mut judge, &mut Watch::new());
    for name in names {
        append(&agent.path(name), &line(200, "/").repeat(40_000));
    }
    let n_reads = |files: &Files| files.status().iter().map(|file| file.read).collect::<Vec<_>>();
    // No time but for one round.
    let long_ago = now.checked_sub(Duration::from_secs(9)).unwrap();
    for _ in 0..names.len() {
        files.mark_all();
        let end = files.read_pass(&mut judge, &mut windows, long_ago, at);
        assert_eq!(end, PassEnd::TimeUp);
    }
    let read = n_reads(&files);
    assert!(read.iter().all(|n| *n > 0), "{read:?}");
}

#[tokio::test]
async fn an_error_log_that_no_event_named_is_read_before_its_request_is_judged() {
    let mut agent = Agent::new();
    let (log, errors) = (agent.path("access.log"), agent.path("error.log"));
    append(&log, "");
    append(&errors, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    let auto = "auto".to_owned();
    agent.sources.push(SourceConfig { format: auto, ..source(&errors, "error", None) });
    let (mut files, mut judge, mut windows) = files_of(&agent);
    let at = clock::now();
    files.look(true, clock::instant(), at, &mut judge, &mut Watch::new());
    read_all(&mut files, &mut judge, &mut windows, at);
    let now = jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S").to_string();
    append(
        &errors,
        &format!(
            "{now} [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to \
             upstream, client: 192.0.2.7, server: a.example, request: \"GET /x HTTP/1.1\", \
             upstream: \"http://127.0.0.1:9/x\", host: \"a.example\"\n"
        ),
    );
    append(&log, &line(503, "/x"));
    let ix = files.status().iter().position(|file| file.path == log).unwrap();
    files.mark(&Event::Written(ix));
    read_all(&mut files, &mut judge, &mut windows, at);
    let closed = windows.close();
    let [(_, exemplar)] = &closed.exemplars[..] else { panic!("one error: {closed:?}") };
    assert_eq!(exemplar.signal, Some(v1::Signal::ConnectRefused), "{exemplar:?}");
}

#[tokio::test]
async fn an_error_log_or_a_line_that_has_no_end_stops_no_pass() {
    let mut agent = Agent::new();
    let (errors, endless) = (agent.path("error.log"), agent.path("endless.log"));
    append(&errors, "");
    append(&endless, "");
    agent.sources.push(source(&errors, "error", None));
    agent.sources.push(source(&endless, "access", None));
    let (mut files, mut judge, mut windows) = files_of(&agent);
    let (now, at) = (clock::instant(), clock::now());
    files.look(true, now, at, &mut judge, &mut Watch::new());
    append(&errors, &"no error line that anybody knows\n".repeat(100_000));
    append(&endless, &"x".repeat(8 << 20));
    files.mark_all();
    let long_ago = now.checked_sub(Duration::from_secs(9)).unwrap();
    let end = files.read_pass(&mut judge, &mut windows, long_ago, at);
    assert_eq!(end, PassEnd::TimeUp);
    let waits = |file: &FileStatus| file.size == 0 || file.size > file.read;
    assert!(files.status().iter().all(waits), "{:?}", files.status());
    files.mark_all();
    read_all(&mut files, &mut judge, &mut windows, at);
    append(&endless, "\n");
    files.mark_all();
    read_all(&mut files, &mut judge, &mut windows, at);
    let n_lines: Vec<u64> = files.status().iter().map(|file| file.n_lines).collect();
    assert_eq!(n_lines, [100_000, 1]);
}

#[tokio::test]
async fn a_directory_named_as_a_log_takes_no_watch_from_the_logs_in_it() {
    let mut agent = Agent::new();
    // Its parent is watched too: not one where others make files.
    let logs = agent.path("logs");
    fs::create_dir(&logs).unwrap();
    let log = logs.join("access.log");
    append(&log, "");
    agent.sources.push(source(&logs, "access", None));
    agent.sources.push(source(&log, "access", None));
    let (mut files, mut judge, _) = files_of(&agent);
    let mut watch = Watch::new();
    let (now, at) = (clock::instant(), clock::now());
    for _ in 0..2 {
        files.look(true, now, at, &mut judge, &mut watch);
    }
    fs::rename(&log, logs.join("access.log.1")).unwrap();
    let mut n_names = 0;
    watch.drain(|event| {
        n_names += u32::from(matches!(event, crate::logs::watch::Event::Name { .. }));
    });
    assert_eq!(n_names, 2, "the old name and the new one");
}

/// Its stamps were taken after it was written, so nothing told that it had been read before.
#[test]
fn discovery_runs_once_more_when_a_file_was_written_in_the_moment_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("etc/nginx")).unwrap();
    let conf = dir.path().join("etc/nginx/nginx.conf");
    let config = LogsConfig { root: dir.path().to_owned(), ..LogsConfig::default() };
    let (now, at) = (clock::instant(), clock::now());
    let is_read_again = || {
        append(&conf, "http { server { server_name a.example; } }\n");
        let mut files = Files::new(&config, &Checkpoint::default(), false);
        files.refresh(&config, now, at).is_some()
    };
    // A machine that stands still between the writing and the reading shows nothing.
    assert!((0..100).any(|_| is_read_again()));
}

#[tokio::test]
async fn a_vhost_that_comes_or_goes_is_noticed_by_the_event_of_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let sites = dir.path().join("etc/nginx/sites");
    fs::create_dir_all(&sites).unwrap();
    append(&dir.path().join("etc/nginx/nginx.conf"), "http { include /etc/nginx/sites/*; }\n");
    let vhost = |name: &str| {
        let text = format!("server {{ server_name {name}; access_log /var/log/{name}.log; }}\n");
        append(&sites.join(name), &text);
    };
    vhost("a.example");
    let config = LogsConfig { root: dir.path().to_owned(), ..LogsConfig::default() };
    let mut files = Files::new(&config, &Checkpoint::default(), false);
    let (mut watch, at) = (Watch::new(), clock::now());
    files.watch_configs(&mut watch);
    let mut now = clock::instant();
    // Until nothing was written in the moment before it is read.
    while files.refresh(&config, now, at).is_some() {
        now += Duration::from_secs(60);
    }
    let mut names_after = |change: &dyn Fn()| {
        change();
        watch.drain(|event| files.mark(event));
        let due = files.touched_due().expect("an event told of the change");
        assert!(due <= now + Duration::from_secs(1), "soon enough to be followed within 2 s");
        now = due;
        let found = files.refresh(&config, now, at).expect("the configuration changed");
        found.sites.iter().map(|site| site.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names_after(&|| vhost("b.example")), ["a.example", "b.example"]);
    let edited = || append(&sites.join("a.example"), "server { server_name c.example; }\n");
    assert_eq!(names_after(&edited), ["a.example", "b.example", "c.example"]);
    let removed = || fs::remove_file(sites.join("a.example")).unwrap();
    assert_eq!(names_after(&removed), ["b.example"]);
}

#[tokio::test]
async fn a_w3c_log_is_resumed_with_the_columns_that_are_in_force_there() {
    let mut agent = Agent::new();
    let log = agent.path("u_ex261120.log");
    let row = |status: u16| {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        format!("{now} GET /a a.example {status} 203.0.113.7\n")
    };
    append(
        &log,
        "#Version: 1.0\n#Fields: date time cs-method cs-uri-stem cs-host sc-status c-ip\n",
    );
    append(&log, &row(200));
    let auto = "auto".to_owned();
    agent.sources.push(SourceConfig { format: auto, ..source(&log, "access", None) });
    // Joined at its end: what it holds is history, but for the names of its columns.
    let (_, mut judge, mut windows) = files_of(&agent);
    let mut files = Files::new(&agent.config().logs, &Checkpoint::default(), true);
    let (now, at) = (clock::instant(), clock::now());
    files.look(true, now, at, &mut judge, &mut Watch::new());
    read_all(&mut files, &mut judge, &mut windows, at);
    append(&log, &row(502).repeat(3));
    append(&log, "#Fields: date time cs-method cs-uri-stem sc-status cs-host c-ip\n");
    append(&log, &row(404).replace("a.example 404", "404 a.example"));
    files.mark_all();
    read_all(&mut files, &mut judge, &mut windows, at);
    let status = files.status();
    assert_eq!((status[0].n_lines, status[0].n_rejected), (5, 0), "{status:?}");
    assert_eq!(status[0].format, "iis");
    assert_eq!(windows.close().exemplars.len(), 3);
}

#[test]
fn a_flood_from_one_network_is_told_with_its_share_and_its_crawler() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    agent.start();
    let from = |client: &str| line(200, "/x").replace("192.0.2.7", client);
    let mut text = String::new();
    for n in 0..400 {
        if n % 4 == 3 {
            text.push_str(&from(&format!("203.0.{}.9", n % 250)));
        } else {
            let bot = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";
            text.push_str(&from(&format!("198.51.100.{}", n % 250)).replace("test", bot));
        }
    }
    append(&log, &text);
    let mut n_polls = 0;
    let values = agent.eventually("shares", |agent| {
        if n_polls % 20 == 0 {
            append(&log, &line(200, "/more")); // what is at rest tells nothing
        }
        n_polls += 1;
        let bodies = agent.bodies();
        let body = bodies.iter().map(|(_, body)| body).find(|body| !body.series.is_empty())?;
        let value_of = |at: usize| body.ticks[0].value[at] as f64 / 10_000.0;
        let series = body.series.iter().enumerate();
        Some(series.map(|(at, s)| (s.attribute.clone(), value_of(at))).collect::<Vec<_>>())
    });
    let share = |attribute: &str| {
        let found = values.iter().find(|(of, _)| of == attribute);
        found.unwrap_or_else(|| panic!("no {attribute} in {values:?}")).1
    };
    let network = share("client.prefix=198.51.100.0/24");
    assert!((0.2..0.85).contains(&network), "{values:?}");
    assert!(share("gatewatch.crawler=openai") > 0.2, "{values:?}");
    assert!(share("server.address=a.example") >= network, "of the site as of the server");
    let n = agent.n(200);
    assert!(n >= 400, "what was looked at is counted as ever: {n}");
    agent.stop();
}

#[test]
fn requests_that_modsecurity_refused_are_counted_and_told_in_one_line() {
    let mut agent = Agent::new();
    let log = agent.path("error.log");
    append(&log, "");
    let mut errors = source(&log, "error", Some("a.example"));
    errors.format = "apache_error".to_owned();
    let access = agent.path("access.log");
    append(&access, "");
    agent.sources = vec![errors, source(&access, "access", Some("a.example"))];
    agent.start();
    append(&access, &line(403, "/x"));
    agent.eventually_n(403, 1);
    let now = jiff::Zoned::now().strftime("%a %b %d %H:%M:%S.000000 %Y").to_string();
    let refused = format!(
        "[{now}] [security2:error] [pid 7:tid 8] [client 198.51.100.7:5] [client 198.51.100.7] \
         ModSecurity: Access denied with code 403 (phase 2). Operator GE matched 5 at TX:score. \
         [file \"x.conf\"] [line \"94\"] [id \"949110\"] [hostname \"a.example\"] [uri \"/x\"]\n"
    );
    append(&log, &refused.repeat(41));
    agent.eventually_n(wire::signal::counter::BLOCKED, 41);
    agent.stop();
    agent.start();
    let bodies = agent.bodies();
    let lines: Vec<_> = bodies.iter().flat_map(|(_, body)| &body.log_lines).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0].source, "modsecurity");
    let said = "41 requests to a.example blocked by ModSecurity rule 949110 within 1 s";
    assert_eq!(lines[0].message, said);
    agent.stop();
}

/// A line of a request of this machine with the name of the agent's own requests, or another.
fn own_line(request: &str, status: u16, agent: &str) -> String {
    let now = jiff::Zoned::now().strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
    format!("127.0.0.1 - - [{now}] \"{request} HTTP/1.0\" {status} 12 \"-\" \"{agent}\"\n")
}

#[test]
fn own_questions_keep_nobody_in_haste_and_those_for_status_pages_are_no_visits() {
    let mut agent = Agent::new();
    let log = agent.path("access.log");
    append(&log, "");
    agent.sources.push(source(&log, "access", Some("a.example")));
    fs::create_dir_all(agent.path("root/etc/nginx")).unwrap();
    append(
        &agent.path("root/etc/nginx/nginx.conf"),
        "http { server { listen 127.0.0.1:8080; location = /server-status { stub_status; } } }\n",
    );
    agent.start();
    let own = crate::own_requests::user_agent();
    append(&log, &own_line("HEAD /", 502, own));
    append(&log, &own_line("GET /other", 204, own));
    append(&log, &own_line("GET /server-status?auto", 200, own));
    append(&log, &own_line("GET /server-status?auto", 503, own));
    append(&log, &own_line("GET /", 201, "gatewatch-probe/0000000000000000"));
    agent.eventually_n(502, 1);
    agent.eventually_n(201, 1);
    agent.eventually_n(204, 1); // no status page: a site knows the name from its own `HEAD`
    assert_eq!(agent.n(200) + agent.n(503), 0, "they are no visits");
    agent.eventually("both are told as skipped", |agent| {
        let files = agent.status().files;
        (files.first()?.rejects.n_skipped.get("own_request") == Some(&2)).then_some(())
    });
    assert_eq!(agent.status().gateway_error_at, None, "only its own request failed");
    append(&log, &own_line("HEAD /", 502, "gatewatch-probe/0000000000000000"));
    agent.eventually_n(502, 2);
    assert!(agent.status().gateway_error_at.is_some(), "nobody hides behind its name");
}
