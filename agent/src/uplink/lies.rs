//! The uplink against a collector that lies: whatever it says, the agent stays within its bounds, loses
//! no batch that was not committed, and writes nothing outside of its own directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use wire::v1::collector_message::Message as Down;
use wire::v1::{Ack, Rewind, Throttle, Welcome};

use super::fake_collector::FakeCollector;
use super::tests::{Agent, delivered, eventually};

/// What is no number of any use.
const ODD: [f64; 6] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e308, 0.0];

fn welcome(epoch: u64, seq_durable: u64, retry_jitter_s: f64, server: &str) -> Welcome {
    let (server, clock_unix_ms) = (server.to_owned(), i64::MIN);
    Welcome { protocol_version: 1, server, epoch, seq_durable, retry_jitter_s, clock_unix_ms }
}

/// Every file and directory below, by its path.
fn tree(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut queue = vec![root.to_owned()];
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push(path);
            }
        }
    }
    found
}

/// The agent's own files: what may be there whatever a collector says.
fn is_own(path: &str) -> bool {
    matches!(path, "identity.json" | "refused" | "spool") || path.starts_with("spool/")
}

#[tokio::test]
async fn a_lying_collector_moves_nothing_but_the_agents_own_numbers() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 3);
    let epoch = super::lock(&agent.spool).stats().epoch;
    collector.with(|c| {
        // The last one is said first.
        c.lies = [
            Some(Down::Throttle(Throttle { batch_interval_ms: u32::MAX })),
            Some(Down::Throttle(Throttle { batch_interval_ms: 1 })),
            Some(Down::Throttle(Throttle { batch_interval_ms: 0 })),
            Some(Down::Ack(Ack { epoch: u64::MAX, seq: u64::MAX })),
            Some(Down::Ack(Ack { epoch: 0, seq: 0 })),
            Some(Down::Welcome(welcome(0, u64::MAX, f64::NAN, "../../etc/passwd"))),
            None,
        ]
        .into_iter()
        .rev()
        .collect();
    });
    agent.start();
    let heard = |n: usize| collector.with(|c| c.lies.len() <= n);
    let interval = agent.interval.clone();
    let allowed = [1, 10, 60].map(Duration::from_secs);
    eventually("every lie was heard", || {
        let now = *interval.borrow();
        assert!(allowed.contains(&now), "batches each {now:?}");
        heard(0)
    })
    .await;
    agent.append(4, 6);
    eventually("batches go on", || delivered(&collector) == [1, 2, 3, 4, 5, 6]).await;
    assert_eq!(super::lock(&agent.spool).stats().epoch, epoch, "nothing was numbered anew");
    agent.drained().await;
}

#[tokio::test]
async fn acks_and_rewinds_beyond_what_there_is_lose_nothing_that_comes_later() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 3);
    agent.start();
    eventually("three came", || delivered(&collector) == [1, 2, 3]).await;
    let epoch = super::lock(&agent.spool).stats().epoch;
    for lie in [
        Down::Ack(Ack { epoch, seq: u64::MAX }),
        Down::Rewind(Rewind { epoch, seq: 0 }),
        Down::Rewind(Rewind { epoch, seq: u64::MAX }),
        Down::Welcome(welcome(u64::MAX, u64::MAX, -1.0, "x")),
    ] {
        collector.with(|c| c.lies = vec![Some(lie)]);
        eventually("it was heard", || collector.with(|c| c.lies.is_empty())).await;
    }
    agent.append(4, 9);
    eventually("what is written later comes", || delivered(&collector).ends_with(&[9])).await;
    let came: BTreeSet<i64> = delivered(&collector).into_iter().collect();
    assert_eq!(came, (1..=9).collect(), "each of them");
    agent.drained().await;
}

#[tokio::test]
async fn a_welcome_of_any_text_and_number_writes_no_file_and_ends_no_agent() {
    // The agent's directory lies deep in a world of its own, into which the names lead.
    let world = tempfile::tempdir().unwrap();
    let inner = world.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::write(world.path().join("a/x"), "as it was").unwrap();
    let collector = FakeCollector::start().await;
    let state = tempfile::Builder::new().prefix("state").tempdir_in(&inner).unwrap();
    let mut agent = Agent::in_dir(&collector, state).await;
    agent.append(1, 2);
    let of_agent = agent.dir.path().strip_prefix(world.path()).unwrap().to_owned();
    let outside = || -> BTreeMap<String, Vec<u8>> {
        let paths =
            tree(world.path()).into_iter().filter(|path| !Path::new(path).starts_with(&of_agent));
        paths
            .map(|path| (path.clone(), fs::read(world.path().join(&path)).unwrap_or_default()))
            .collect()
    };
    let before = outside();
    assert_eq!(before.keys().collect::<Vec<_>>(), ["a", "a/b", "a/x"]);
    let long = "x".repeat(1 << 20);
    let absolute = world.path().join("absolute").display().to_string();
    let names = [
        "../../x",
        "../y\nb\r\0\u{1b}[31m",
        "",
        long.as_str(),
        absolute.as_str(),
        "../../../$(id)",
    ];
    collector.with(|c| {
        let odd = ODD.into_iter().zip(names);
        c.welcomes = odd.map(|(jitter, name)| welcome(0, u64::MAX, jitter, name)).collect();
    });
    agent.start();
    for _ in names {
        // Each stream has its own welcome; one that is too large ends its stream by itself.
        let n = collector.with(|c| c.welcomes.len());
        eventually("another stream", || {
            collector.cut();
            collector.with(|c| c.welcomes.len() < n || n == 0)
        })
        .await;
    }
    agent.append(3, 4);
    eventually("batches go on", || delivered(&collector).ends_with(&[4])).await;
    let files = tree(agent.dir.path());
    let foreign: Vec<&String> = files.iter().filter(|path| !is_own(path)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(outside(), before);
    let spool_bytes: u64 = files
        .iter()
        .filter_map(|path| fs::metadata(agent.dir.path().join(path)).ok())
        .filter(fs::Metadata::is_file)
        .map(|meta| meta.len())
        .sum();
    assert!(spool_bytes < 1 << 20, "{spool_bytes} bytes are kept of what it said");
    agent.drained().await;
}
