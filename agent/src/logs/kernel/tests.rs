//! The stage against a pipe in the place of the device, and a script in the place of journalctl.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;
use wire::v1::Signal;

use super::*;
use crate::config::{ClientIp, SourceConfig};
use crate::discover::{LogSource, SiteRule};

/// Long enough for a busy machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(60);
const SOON: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
const OOM: &str = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";

/// A running stage, and the ends the test holds.
struct Stage {
    dir: tempfile::TempDir,
    observations: mpsc::Receiver<Observation>,
    config: watch::Sender<Arc<Config>>,
    discovery: watch::Sender<Arc<Discovery>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    kernel: Option<Kernel>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tx, observations) = mpsc::channel(2000);
        let (config_tx, config) = watch::channel(Arc::new(Config::default()));
        let (discovery_tx, discovery) = watch::channel(Arc::new(Discovery::default()));
        let kmsg = dir.path().join("kmsg");
        let journalctl = Some(dir.path().join("journalctl"));
        let outlet = Outlet::new(tx, Arc::new(AtomicU64::new(0)));
        let inputs = KernelInputs { root: dir.path().to_owned(), config, discovery };
        let kernel = Some(Kernel::new(kmsg, journalctl, inputs, outlet));
        let stop = CancellationToken::new();
        let (config, discovery) = (config_tx, discovery_tx);
        Self { dir, observations, config, discovery, stop, task: None, kernel }
    }

    /// Starts it; discovery has found nothing more than it was given.
    fn start(&mut self, found: Discovery) {
        self.discovery.send_replace(Arc::new(found));
        let kernel = self.kernel.take().expect("started once");
        self.task = Some(tokio::spawn(kernel.run(SOON, self.stop.clone())));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A pipe under the name of the device; the returned end keeps it open.
    fn pipe(&self) -> File {
        let path = self.path("kmsg");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    fn script(&self, text: &str) {
        // Written by another process: a file that is open for writing while another thread starts something
        // would be "Text file busy" to who runs it.
        let (written, program) = (self.path("text"), self.path("journalctl"));
        fs::write(&written, text).unwrap();
        let done = Command::new("install").args(["-m", "755"]).args([written, program]).status();
        assert!(done.unwrap().success());
    }

    async fn next(&mut self) -> Observation {
        timeout(LONG, self.observations.recv()).await.expect("an observation").unwrap()
    }

    async fn next_line(&mut self) -> LogEvidence {
        match self.next().await {
            Observation::Log(line) => line,
            other => panic!("{other:?}"),
        }
    }

    async fn stopped(mut self) {
        self.stop.cancel();
        timeout(LONG, self.task.take().unwrap()).await.expect("it ends").unwrap();
        assert!(self.observations.try_recv().is_err(), "nothing more came");
    }
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = clock::instant();
    while !is_so() {
        assert!(began.elapsed() < LONG, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn kern_log(path: PathBuf) -> LogSource {
    LogSource {
        path,
        kind: LogKind::Kernel,
        format: "auto".to_owned(),
        site: SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    }
}

/// A journal entry of the kernel.
fn entry(text: &str) -> String {
    format!(
        r#"{{"__REALTIME_TIMESTAMP":"1795176067042001","_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","PRIORITY":"3","MESSAGE":"{text}"}}"#
    )
}

#[tokio::test]
async fn packets_that_a_firewall_kept_from_a_backend_are_counted() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    let site = crate::discover::Site {
        upstream: Some("10.0.0.7:9000".to_owned()),
        ..crate::discover::Site::default()
    };
    stage.start(Discovery { sites: vec![site], ..Discovery::default() });
    let packet = |n: u32, facility: u32, target: &str| {
        format!(
            "{},{n},{n},-;[UFW BLOCK] IN= OUT=eth0 SRC=10.0.0.5 DST={target} LEN=60 PROTO=TCP SPT=4000 DPT=9000 SYN\n",
            facility * 8 + 4
        )
    };
    // Of a program, of another machine.
    device.write_all(packet(1, 1, "10.0.0.7").as_bytes()).unwrap();
    device.write_all(packet(2, 0, "10.0.0.8").as_bytes()).unwrap();
    // The last ones are told although nothing comes after them.
    let mut n = 0;
    for burst in [1, 3, 100] {
        for at in 0..burst {
            device.write_all(packet(3 + n + at, 0, "10.0.0.7").as_bytes()).unwrap();
        }
        let mut n_told = 0;
        while n_told < burst {
            let Observation::Dropped(told) = stage.next().await else { panic!("no packet") };
            assert_eq!(told.backend.to_string(), "10.0.0.7:9000");
            n_told += told.n;
        }
        assert_eq!(n_told, burst, "a burst was over a second or two");
        n += burst;
    }
    // What is counted when the agent stops is told as well.
    device.write_all(packet(3 + n, 0, "10.0.0.7").as_bytes()).unwrap();
    device.write_all(format!("3,{},1,-;{OOM}\n", 4 + n).as_bytes()).unwrap();
    assert_eq!(stage.next_line().await.signal, Some(Signal::Oom));
    stage.stop.cancel();
    let Observation::Dropped(last) = stage.next().await else { panic!("no packet") };
    assert_eq!(last.n, 1);
    stage.stopped().await;
}

#[tokio::test]
async fn packets_of_more_backends_than_are_counted_apart_are_all_told() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    let backend = |n: usize| format!("10.0.{}.{}", n / 100, n % 100 + 1);
    let site = |n: usize| crate::discover::Site {
        upstream: Some(format!("{}:9000", backend(n))),
        ..crate::discover::Site::default()
    };
    let n_backends = BACKENDS_MAX + 44;
    let sites = (0..n_backends).map(site).collect();
    stage.start(Discovery { sites, ..Discovery::default() });
    for at in 0..2 * n_backends {
        let target = backend(at % n_backends);
        let text = format!(
            "4,{at},{at},-;[UFW BLOCK] IN= OUT=eth0 SRC=10.9.0.5 DST={target} LEN=60 PROTO=TCP SPT=4000 DPT=9000 SYN\n"
        );
        device.write_all(text.as_bytes()).unwrap();
        // A pipe may cut a record in two where a read ends; the device does not.
        while at % 50 == 49 && rustix::io::ioctl_fionread(&device).unwrap() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut told: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    while told.values().sum::<u32>() < 2 * n_backends as u32 {
        let Observation::Dropped(dropped) = stage.next().await else { panic!("no packet") };
        *told.entry(dropped.backend).or_default() += dropped.n;
    }
    assert_eq!(told.len(), n_backends);
    assert!(told.values().all(|n| *n == 2), "{told:?}");
    stage.stopped().await;
}

#[tokio::test]
async fn records_of_the_device_become_evidence_and_gaps_are_counted() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    stage.start(Discovery::default());
    let before = clock::now();
    let records = format!(
        "6,10,1,-;eth0: Link is Down\n SUBSYSTEM=net\n DEVICE=+pci:x\n3,11,2,-;{OOM}\n11,12,3,-;{OOM}\n4,20,4,-;nf_conntrack: nf_conntrack: table full, dropping packet\n"
    );
    device.write_all(records.as_bytes()).unwrap();
    let line = stage.next_line().await;
    assert_eq!((line.source, &*line.message, line.signal), ("kernel", OOM, Some(Signal::Oom)));
    assert!(line.at >= before && line.at <= clock::now(), "filed under the time of reading");
    assert_eq!(stage.next().await, Observation::LinesLost(7), "13 to 19 were overwritten");
    assert_eq!(stage.next_line().await.signal, Some(Signal::ConntrackFull));
    stage.stopped().await;
}

#[tokio::test]
async fn a_flood_of_one_kind_is_cut_and_other_kinds_still_pass() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    stage.start(Discovery::default());
    let began = clock::now();
    for n in 0..200 {
        let record = format!("4,{n},1,-;nf_conntrack: table full, dropping packet\n");
        device.write_all(record.as_bytes()).unwrap();
    }
    device.write_all(format!("3,200,1,-;{OOM}\n").as_bytes()).unwrap();
    let mut n = 0;
    while stage.next_line().await.signal != Some(Signal::Oom) {
        n += 1;
    }
    // Five of each second in which the flood was read.
    let n_seconds = clock::now().second() - began.second() + 1;
    assert!((5..=5 * n_seconds).contains(&n), "{n} of 200 lines in {n_seconds} seconds");
    stage.stopped().await;
}

#[tokio::test]
async fn addresses_in_messages_are_as_private_as_the_operator_asks_now() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    stage.start(Discovery::default());
    for (client_ip, want) in [(ClientIp::Drop, "-"), (ClientIp::Full, "198.51.100.7")] {
        let mut config = Config::default();
        config.privacy.client_ip = client_ip;
        stage.config.send_replace(Arc::new(config));
        let text = "4,1,1,-;nf_conntrack: table full, dropping packet SRC=198.51.100.7\n";
        device.write_all(text.as_bytes()).unwrap();
        let line = stage.next_line().await;
        assert!(line.message.ends_with(&format!("SRC={want}")), "{}", line.message);
    }
    stage.stopped().await;
}

#[tokio::test]
async fn without_device_and_files_the_journal_is_asked_with_fixed_arguments() {
    let mut stage = Stage::new();
    let dir = stage.dir.path().display().to_string();
    // The shell itself sets PWD and the like; nothing of the agent's environment is among it.
    stage.script(&format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > {dir}/arguments\nexport -p > {dir}/environment\nread -r line || echo closed > {dir}/stdin\necho '{}'\necho '{}'\necho $$ > {dir}/process\nexec /bin/sleep 1000\n",
        entry("eth0: Link is Down"),
        entry(OOM),
    ));
    stage.start(Discovery::default());
    let line = stage.next_line().await;
    let want = format!("kernel: {OOM}");
    assert_eq!((line.source, &*line.message, line.signal), ("kernel", &*want, Some(Signal::Oom)));
    assert!(line.at <= clock::now());
    let read = |name: &str| fs::read_to_string(stage.path(name)).unwrap_or_default();
    let arguments = "--follow\n--lines=0\n--output=json\n--no-pager\n--quiet\n_TRANSPORT=kernel\n";
    assert_eq!(read("arguments"), arguments);
    assert_eq!(read("stdin"), "closed\n");
    for name in ["HOME", "CARGO", "USER", "LANG"] {
        assert!(!read("environment").contains(&format!(" {name}")), "{}", read("environment"));
    }
    eventually("it tells its process", || read("process").ends_with('\n')).await;
    let process = read("process").trim().to_owned();
    stage.stopped().await;
    eventually("the program has ended", || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn a_journal_that_dies_is_started_again_for_ever() {
    let mut stage = Stage::new();
    stage.script(&format!("#!/bin/sh\necho '{}'\nexit 1\n", entry(OOM)));
    stage.start(Discovery::default());
    for _ in 0..5 {
        assert_eq!(stage.next_line().await.signal, Some(Signal::Oom));
    }
    // As soon as the device may be read it is, although the program is still there.
    let mut device = stage.pipe();
    loop {
        device.write_all(b"3,1,1,-;php-fpm[7]: segfault at 8 ip 55d0 sp 7ffc error 4\n").unwrap();
        if stage.next_line().await.signal == Some(Signal::Segfault) {
            break;
        }
    }
    stage.stop.cancel();
    timeout(LONG, stage.task.take().unwrap()).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn where_a_file_has_the_messages_no_program_is_started() {
    let mut stage = Stage::new();
    let started = stage.path("started");
    stage.script(&format!("#!/bin/sh\necho x > {}\n", started.display()));
    let path = stage.path("kern.log");
    fs::write(&path, "").unwrap();
    stage.start(Discovery { logs: vec![kern_log(path)], ..Discovery::default() });
    sleep(Duration::from_millis(300)).await;
    assert!(!started.exists());
    // The file is gone, and a newer discovery knows: the journal is next.
    stage.discovery.send_replace(Arc::new(Discovery::default()));
    eventually("the program is started", || started.exists()).await;
    stage.stopped().await;
}

#[tokio::test]
async fn a_file_found_later_takes_the_place_of_the_journal() {
    let mut stage = Stage::new();
    let dir = stage.dir.path().display().to_string();
    stage.script(&format!("#!/bin/sh\necho $$ > {dir}/process\nexec /bin/sleep 1000\n"));
    stage.start(Discovery::default());
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let process = stage.path("process");
    eventually("the program is started", || read(process.clone()).ends_with('\n')).await;
    let process = read(process).trim().to_owned();
    let path = stage.path("kern.log");
    fs::write(&path, "").unwrap();
    stage
        .discovery
        .send_replace(Arc::new(Discovery { logs: vec![kern_log(path)], ..Discovery::default() }));
    eventually("the program has ended", || {
        let stat = read(format!("/proc/{process}/stat").into());
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
    stage.stopped().await;
}

#[tokio::test]
async fn a_device_that_can_no_longer_be_read_gives_way_to_the_journal() {
    let mut stage = Stage::new();
    let mut device = stage.pipe();
    stage.script(&format!("#!/bin/sh\necho '{}'\nexec /bin/sleep 1000\n", entry(OOM)));
    stage.start(Discovery::default());
    device.write_all(b"3,1,1,-;php-fpm[7]: segfault at 8 ip 55d0 sp 7ffc error 4\n").unwrap();
    assert_eq!(stage.next_line().await.signal, Some(Signal::Segfault));
    // Nobody holds the pipe open any more, so reading it ends.
    drop(device);
    assert_eq!(stage.next_line().await.signal, Some(Signal::Oom));
    stage.stopped().await;
}

#[tokio::test]
async fn a_file_that_the_configuration_names_counts_too() {
    let mut stage = Stage::new();
    let started = stage.path("started");
    stage.script(&format!("#!/bin/sh\necho x > {}\n", started.display()));
    let path = stage.path("messages");
    fs::write(&path, "").unwrap();
    let source = SourceConfig {
        path: path.display().to_string(),
        kind: "syslog".to_owned(),
        format: "auto".to_owned(),
        site: None,
        timezone: None,
    };
    let mut config = Config::default();
    config.logs.source.push(source);
    stage.config.send_replace(Arc::new(config));
    stage.start(Discovery::default());
    sleep(Duration::from_millis(300)).await;
    assert!(!started.exists());
    stage.stopped().await;
}

#[test]
fn only_the_device_itself_or_a_pipe_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "3,1,1,-;x\n").unwrap();
    for path in [&file, Path::new("/dev/null"), &dir.path().join("none"), dir.path()] {
        assert!(kmsg::open(path).is_err(), "{}", path.display());
    }
    assert!(!is_kmsg_readable(dir.path()));
}
