//! One agent with a valid certificate that lies and floods, beside an honest one whose outage must
//! be told as if it were alone: real TLS, real gRPC, the real store and detector.
//!
//! What is asserted is order, not time, so that a slow or busy machine changes nothing: how many of
//! the liar's batches the collector takes before one of the honest agent's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::config::Config;
use crate::detective;
use crate::store::incidents::{self, Filter};

/// Rows of a site second that the liar sends in one batch: far more than an honest agent does in
/// ten seconds.
const ROWS: u32 = 10_000;

/// Batches of the liar that may be taken while an honest one waits: what is on its way, and one
/// more for each of the queues it goes through. The liar sends the next one only after an ack, and
/// would be alone a hundred ahead were the honest one not served in turn.
const AHEAD_MAX: u64 = 4;

fn lies(seq: u64) -> Batch {
    let now = clock::now().0;
    let name = |n: u32| format!("{seq}-{n}.liar.example");
    let site =
        |n| v1::Site { name: name(n), upstream: format!("10.6.6.6:{n}"), ..v1::Site::default() };
    // Now, in a year, in 1970, and every second of the last weeks.
    let second = |n: u32| match n % 4 {
        0 => now / 1000,
        1 => now / 1000 + 31_536_000,
        2 => i64::from(n),
        _ => now / 1000 - i64::from(n) * 100,
    };
    let seconds = (0..ROWS).map(|n| v1::SiteSecond {
        site: n % 600,
        second: second(n),
        status: vec![502, 200, 9999, 503],
        count: vec![u32::MAX, 1, 7, u32::MAX],
    });
    let exemplars = (0..500).map(|n: u32| v1::Exemplar {
        site: n * 3,
        at_unix_ms: second(n) * 1000,
        status: 502 + n % 9,
        client_hash: u64::from(n) + seq,
        message: Some("\u{1b}[2J".repeat(200)),
        ..v1::Exemplar::default()
    });
    let log_line = |n: u32| v1::LogLine {
        source: "kernel".into(),
        message: format!("segfault {n}"),
        at_unix_ms: second(n) * 1000,
        signal: v1::Signal::Segfault.into(),
        ..v1::LogLine::default()
    };
    let service = |n: u32| v1::ServiceState {
        unit: format!("php{seq}-{n}.service"),
        state: "failed".into(),
        at_unix_ms: now,
        ..v1::ServiceState::default()
    };
    let body = BatchBody {
        sites: (0..600).map(site).collect(),
        seconds: seconds.collect(),
        exemplars: exemplars.collect(),
        log_lines: (0..300).map(log_line).collect(),
        services: (0..300).map(service).collect(),
        ..BatchBody::default()
    };
    let complete_until_unix_ms = i64::MAX;
    Batch { complete_until_unix_ms, t_min_unix_ms: i64::MIN, ..packed(seq, &body.encode_to_vec()) }
}

fn honest(seq: u64, is_down: bool) -> Batch {
    let now = clock::now().0;
    let site = |n: u32| v1::Site {
        name: format!("shop{n}.example"),
        pool: "www".into(),
        ..v1::Site::default()
    };
    let status = if is_down { 502 } else { 200 };
    let second =
        |site| v1::SiteSecond { site, second: now / 1000, status: vec![status], count: vec![2] };
    let exemplar = |site: u32| v1::Exemplar {
        site,
        at_unix_ms: now,
        status,
        client_hash: seq * 100 + u64::from(site),
        message: Some("connect() failed (111: Connection refused)".into()),
        ..v1::Exemplar::default()
    };
    let body = BatchBody {
        sites: (0..8).map(site).collect(),
        seconds: (0..8).map(second).collect(),
        exemplars: (0..8).filter(|_| is_down).map(exemplar).collect(),
        ..BatchBody::default()
    };
    Batch { complete_until_unix_ms: now, ..packed(seq, &body.encode_to_vec()) }
}

/// What came of the honest agent's outage.
struct Outage {
    /// Most batches of the liar that were acknowledged while one honest batch waited.
    ahead_max: u64,
    /// Batches of the liar in all.
    n_lies: u64,
    port: Port,
}

/// An outage of the honest agent beside the liar, until its incident is open.
async fn outage() -> Outage {
    let mut port = Port::open().await;
    let heard = std::mem::replace(&mut port.heard, mpsc::channel(1).1);
    let ready = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    let config = Config::default();
    let ended = detective::spawn(
        port.store.clone(),
        &config,
        heard,
        port.live.clone(),
        ready,
        tokio::sync::watch::channel(false).0,
        stop.clone(),
    );
    let (mut agent, _) = port.agent(1).await;
    let (flood, n_lies) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (mut liar, _) = port.agent(2).await;
    let (until, n_acked) = (flood.clone(), Arc::clone(&n_lies));
    let liar = tokio::spawn(async move {
        let mut seq = 0;
        while !until.is_cancelled() {
            for n in 0..50 {
                let beat = Heartbeat {
                    clock_unix_ms: [0, i64::MAX, i64::MIN, clock::now().0][n % 4],
                    complete_until_unix_ms: i64::MAX,
                    n_sites: u32::MAX,
                    spool_bytes: u64::MAX,
                    ..Heartbeat::default()
                };
                liar.say(Word::Heartbeat(beat)).await;
            }
            seq += 1;
            liar.say(Word::Batch(lies(seq))).await;
            liar.acked(seq).await;
            n_acked.store(seq, Ordering::SeqCst);
        }
    });
    let (mut ahead_max, mut is_open) = (0, false);
    for seq in 1..=600 {
        let before = n_lies.load(Ordering::SeqCst);
        agent.say(Word::Batch(honest(seq, seq > 20))).await;
        agent.acked(seq).await;
        ahead_max = ahead_max.max(n_lies.load(Ordering::SeqCst) - before);
        let filter = Filter { open: true, ..Filter::default() };
        let open = port.store.read(move |conn| incidents::list(conn, &filter)).await.unwrap();
        if open.iter().any(|incident| incident.place.members.iter().any(|m| m.starts_with("web-1")))
        {
            is_open = true;
            break;
        }
        // The pace of an honest agent: so many batches are a minute, not a burst.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    flood.cancel();
    liar.await.unwrap();
    stop.cancel();
    ended.await.unwrap();
    assert!(is_open, "the outage opens");
    Outage { ahead_max, n_lies: n_lies.load(Ordering::SeqCst), port }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_hostile_agent_delays_nobody_and_is_counted_and_said() {
    let Outage { ahead_max, n_lies, port } = outage().await;
    assert!(n_lies >= 1, "the liar was heard");
    assert!(ahead_max <= AHEAD_MAX, "{ahead_max} of {n_lies} lies went before an honest batch");
    let stats = port.store.stats();
    assert!(stats.records_misdated.get() + stats.entries_refused.get() > 0);
    let list = port.store.read(|conn| fleet::list(conn, clock::now())).await.unwrap();
    let honest = list.iter().find(|view| view.server == "web-1").unwrap();
    assert_eq!(honest.loss.get("n_sites_refused"), None);
}

#[tokio::test]
async fn what_an_agent_sends_beyond_its_share_is_read_later_and_nothing_of_it_is_lost() {
    let port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    let seconds = (0..90_000).map(|n| v1::SiteSecond {
        site: 0,
        second: n,
        status: vec![200],
        count: vec![1],
    });
    let site = v1::Site { name: "a.example".into(), ..v1::Site::default() };
    let body = BatchBody { sites: vec![site], seconds: seconds.collect(), ..BatchBody::default() };
    let body = body.encode_to_vec();
    let started = clock::now();
    for seq in 1..=5 {
        agent.say(Word::Batch(packed(seq, &body))).await;
    }
    agent.acked(5).await;
    // 900,000 entries: a third at once, the rest at 100,000 a second; the last is not waited for.
    let took = clock::now().since(started);
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(port.store.stats().streams_paused.get() >= 1);
    let (mut other, _) = port.agent(2).await;
    other.say(Word::Batch(batch(1))).await;
    other.acked(1).await;
}
