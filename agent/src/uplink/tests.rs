//! The uplink against a collector with a real port: acks, rewinds, epochs, losses, refusals.

use super::*;
use crate::batch::{self, Cover};
use crate::identity::{self, Enrolled};
use crate::spool::{Seq, Volume};
use crate::uplink::fake_collector::FakeCollector;
use crate::window::Closed;
use prost::Message as _;
use std::time::Duration;
use wire::v1::Batch;

const SPOOL_BYTES_MAX: u64 = 64 << 10;
/// What each batch accounts for.
const VOLUME: Volume = Volume { n_lines: 10, n_bytes: 1000 };

pub(super) struct Agent {
    pub(super) dir: tempfile::TempDir,
    pub(super) spool: Arc<Mutex<Spool>>,
    appended: Arc<Notify>,
    pub(super) status: watch::Receiver<UplinkStatus>,
    pub(super) interval: watch::Receiver<Duration>,
    identity: watch::Sender<Arc<Identity>>,
    drain: CancellationToken,
    inputs: Option<Inputs>,
    task: Option<tokio::task::JoinHandle<()>>,
    gather: watch::Sender<GatherStatus>,
    _labels: watch::Sender<BTreeMap<String, String>>,
}

impl Agent {
    /// Enrolled, with an empty spool; `start` starts the uplink.
    pub(super) async fn of(collector: &FakeCollector) -> Self {
        Self::in_dir(collector, tempfile::tempdir().unwrap()).await
    }

    /// The same, with its state in this directory.
    pub(super) async fn in_dir(collector: &FakeCollector, dir: tempfile::TempDir) -> Self {
        let ask = collector.enrolment(dir.path());
        let Enrolled::New(known) = identity::enroll(&ask, clock::now()).await.unwrap() else {
            panic!("nothing was there")
        };
        let spool = dir.path().join("spool");
        let (spool, _) = Spool::open(&spool, SPOOL_BYTES_MAX, clock::now()).unwrap();
        let (spool, appended) = (Arc::new(Mutex::new(spool)), Arc::new(Notify::new()));
        let (identity, identity_rx) = watch::channel(Arc::new(known));
        let (gather_tx, gather) = watch::channel(GatherStatus {
            complete_until: UnixMillis(77),
            n_sites: 3,
            ..GatherStatus::default()
        });
        let (labels_tx, labels) = watch::channel([("rack".into(), "r1".into())].into());
        let (status_tx, status) = watch::channel(UplinkStatus::default());
        let (interval_tx, interval) = watch::channel(Duration::from_secs(10));
        let drain = CancellationToken::new();
        let inputs = Inputs {
            address: collector.address.to_string(),
            identity: identity_rx,
            labels,
            detected: BTreeMap::new(),
            heartbeat: Duration::from_millis(50),
            batch_interval: Duration::from_secs(10),
            spool: Arc::clone(&spool),
            appended: Arc::clone(&appended),
            gather,
            interval: interval_tx,
            status: status_tx,
            drain: drain.clone(),
            drain_max: Duration::from_secs(60),
            state_dir: dir.path().to_owned(),
        };
        Self {
            dir,
            spool,
            appended,
            status,
            interval,
            identity,
            drain,
            inputs: Some(inputs),
            task: None,
            gather: gather_tx,
            _labels: labels_tx,
        }
    }

    pub(super) fn start(&mut self) {
        self.task = Some(tokio::spawn(run(self.inputs.take().unwrap())));
    }

    /// Spools batches `from..=to`, told apart by their `t_min`, ten lines each.
    pub(super) fn append(&self, from: i64, to: i64) {
        for t in from..=to {
            let batch = Batch { t_min_unix_ms: t, n_lines: 10, codec: 1, ..Batch::default() };
            let mut spool = lock(&self.spool);
            let pos = spool.append(&batch.encode_to_vec(), VOLUME).unwrap();
            spool.set_checkpointed(pos).unwrap();
        }
        self.appended.notify_one();
    }

    /// Spools a batch as it is when samples of this instant are closed.
    fn append_samples(&self, at: i64) -> Batch {
        let samples = vec![("system.cpu.steal", String::new(), 0.25)];
        let closed = Closed { samples: vec![(UnixMillis(at), samples)], ..Closed::default() };
        let payload = batch::encode(&closed, &[], &Cover::default()).payload;
        let mut spool = lock(&self.spool);
        let pos = spool.append(&payload, VOLUME).unwrap();
        spool.set_checkpointed(pos).unwrap();
        Batch::decode(payload.as_slice()).unwrap()
    }

    pub(super) async fn drained(mut self) {
        self.drain.cancel();
        self.task.take().unwrap().await.unwrap();
        assert_eq!(self.status.borrow().state, "stopped");
    }
}

/// The `t_min` of what the collector has, in order.
pub(super) fn delivered(collector: &FakeCollector) -> Vec<i64> {
    collector.with(|c| c.batches.iter().map(|b| b.t_min_unix_ms).collect())
}

pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in 60 s: {what}");
}

#[tokio::test]
async fn a_collector_of_before_the_dictionary_gets_the_same_batches_as_it_knows_them() {
    for (protocol, codec) in [(1, wire::CODEC_ZSTD_BODY), (2, wire::CODEC_ZSTD_DICTIONARY)] {
        let collector = FakeCollector::start().await;
        collector.with(|c| c.protocol = protocol);
        let mut agent = Agent::of(&collector).await;
        let spooled: Vec<Batch> = (1..=3).map(|at| agent.append_samples(at)).collect();
        agent.start();
        eventually("3 batches", || delivered(&collector) == [1, 2, 3]).await;
        eventually("acked", || lock(&agent.spool).bytes_unacked() == 0).await;
        let got = collector.with(|c| c.batches.clone());
        for (spooled, got) in spooled.iter().zip(&got) {
            assert_eq!((spooled.codec, got.codec), (wire::CODEC_ZSTD_DICTIONARY, codec));
            let (spooled, got) = (batch::open(spooled).unwrap(), batch::open(got).unwrap());
            assert_eq!(got, spooled);
            assert_eq!(got.ticks[0].value, [2500]);
        }
        agent.drained().await;
    }
}

#[tokio::test]
async fn batches_arrive_once_in_order_and_leave_with_their_ack() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 200); // more than are in flight at once
    agent.start();
    eventually("200 batches", || delivered(&collector).len() == 200).await;
    agent.append(201, 201);
    eventually("one more", || delivered(&collector).len() == 201).await;
    eventually("acked", || lock(&agent.spool).bytes_unacked() == 0).await;
    eventually("a heartbeat after the last batch", || {
        collector.with(|c| c.heartbeats.last().is_some_and(|beat| beat.seq_last == 201))
    })
    .await;
    collector.with(|c| {
        assert!(c.batches.iter().zip(1..).all(|(b, n)| (b.seq, b.t_min_unix_ms) == (n as u64, n)));
        assert!(c.batches.iter().all(|b| b.epoch == c.hellos[0].epoch && b.n_evicted == 0));
        let hello = &c.hellos[0];
        assert_eq!((hello.protocol_version_min, hello.protocol_version_max), (1, 2));
        assert_eq!((hello.seq_first, hello.seq_last, hello.heartbeat_ms), (1, 200, 50));
        assert_eq!(hello.labels["rack"], "r1");
        let beat = c.heartbeats.last().unwrap();
        assert_eq!((beat.complete_until_unix_ms, beat.n_sites), (77, 3));
    });
    assert_eq!(agent.status.borrow().state, "connected");
    agent.drained().await;
    assert_eq!(collector.with(|c| c.n_goodbyes), 1);
}

#[tokio::test]
async fn a_heartbeat_claims_nothing_complete_that_it_cannot_number() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.start();
    eventually("heartbeats", || collector.with(|c| c.heartbeats.len() > 2)).await;
    // The gather thread appends while the disk is slow: the spool cannot be asked.
    let (taken_tx, taken) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let spool = Arc::clone(&agent.spool);
    let holder = std::thread::spawn(move || {
        let _held = lock(&spool);
        taken_tx.send(()).unwrap();
        released.recv().unwrap();
    });
    taken.await.unwrap();
    let n_before = collector.with(|c| c.heartbeats.len());
    agent.gather.send_modify(|gather| gather.complete_until = UnixMillis(99));
    eventually("more", || collector.with(|c| c.heartbeats.len() > n_before + 2)).await;
    let n_beats = collector.with(|c| c.heartbeats.len());
    release.send(()).unwrap();
    holder.join().unwrap();
    let said: Vec<i64> = collector
        .with(|c| c.heartbeats[..n_beats].iter().map(|b| b.complete_until_unix_ms).collect());
    assert!(said.iter().all(|until| *until == 77), "{said:?}");
    eventually("it says so later", || {
        collector.with(|c| c.heartbeats.last().unwrap().complete_until_unix_ms == 99)
    })
    .await;
    agent.drained().await;
}

#[tokio::test]
async fn stopping_sends_what_is_left_before_the_goodbye() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.start();
    eventually("connected", || agent.status.borrow().state == "connected").await;
    agent.append(1, 50);
    agent.drained().await;
    assert_eq!(delivered(&collector), (1..=50).collect::<Vec<_>>());
    assert_eq!(collector.with(|c| c.n_goodbyes), 1);
}

/// The end of the time for it was only seen with the next heartbeat, past `shutdown_grace`: the server
/// that had been stopped in order was missed as silent.
#[tokio::test]
async fn an_agent_that_stops_says_goodbye_in_time_to_a_collector_that_acks_nothing() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    collector.with(|c| c.is_stuck = true);
    let inputs = agent.inputs.as_mut().unwrap();
    (inputs.heartbeat, inputs.drain_max) = (Duration::from_secs(3600), Duration::from_millis(100));
    agent.append(1, 5);
    agent.start();
    eventually("sent", || agent.status.borrow().seq_sent == 5).await;
    let drained = tokio::time::timeout(Duration::from_secs(60), agent.drained());
    assert!(drained.await.is_ok(), "it does not wait for its next heartbeat");
    eventually("a goodbye", || collector.with(|c| c.n_goodbyes) == 1).await;
}

#[tokio::test]
async fn a_broken_stream_loses_nothing_and_repeats_nothing() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 100);
    collector.with(|c| c.break_after = Some(30));
    agent.start();
    eventually("all", || delivered(&collector).len() == 100).await;
    collector.cut();
    agent.append(101, 110);
    eventually("the rest", || delivered(&collector).len() == 110).await;
    assert_eq!(delivered(&collector), (1..=110).collect::<Vec<_>>());
    assert!(collector.with(|c| c.hellos.len()) >= 3);
    agent.drained().await;
}

#[tokio::test]
async fn a_collector_restored_from_a_backup_gets_acked_batches_again() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 20);
    agent.start();
    eventually("acked", || lock(&agent.spool).bytes_unacked() == 0).await;
    collector.with(|c| {
        c.batches.truncate(5);
        c.durable.1 = 5;
    });
    agent.append(21, 21); // out of order there: it asks for a rewind
    eventually("all again", || delivered(&collector).len() == 21).await;
    assert_eq!(delivered(&collector), (1..=21).collect::<Vec<_>>());
    agent.drained().await;
}

#[tokio::test]
async fn a_collector_that_lost_everything_gets_what_is_kept_from_one() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 10);
    agent.start();
    eventually("acked", || lock(&agent.spool).bytes_unacked() == 0).await;
    collector.with(|c| {
        c.batches.clear();
        c.durable = (0, 0);
    });
    collector.cut();
    eventually("all again", || delivered(&collector).len() == 10).await;
    agent.drained().await;
}

#[tokio::test]
async fn a_higher_epoch_at_the_collector_makes_the_agent_begin_a_higher_one() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    let known = lock(&agent.spool).epoch() + 1_000_000_000;
    collector.with(|c| c.durable = (known, 500));
    agent.append(1, 5);
    agent.start();
    eventually("all", || delivered(&collector).len() == 5).await;
    collector.with(|c| {
        assert_eq!(c.durable, (known + 1, 5));
        assert_eq!(c.batches[0].seq, 1);
    });
    agent.drained().await;
}

#[tokio::test]
async fn a_server_restored_from_an_image_does_not_pass_new_batches_for_old_ones() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    let epoch = lock(&agent.spool).epoch();
    collector.with(|c| c.durable = (epoch, 500)); // sent by what this disk has forgotten
    agent.append(1, 5);
    agent.start();
    eventually("all", || delivered(&collector).len() == 5).await;
    assert!(collector.with(|c| c.durable.0 > epoch));
    agent.drained().await;
}

#[tokio::test]
async fn evicted_batches_are_declared_with_their_lines() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 2000); // far over the budget
    let n_evicted = lock(&agent.spool).stats().n_batches_evicted;
    assert!(n_evicted > 100);
    agent.start();
    eventually("the rest", || delivered(&collector).last() == Some(&2000)).await;
    collector.with(|c| {
        let first = &c.batches[0];
        assert_eq!((first.seq, first.n_evicted), (n_evicted + 1, n_evicted));
        assert_eq!(first.n_lines_evicted, 10 * n_evicted);
        assert_eq!(first.n_bytes_evicted, 1000 * n_evicted);
        assert_eq!(c.batches.len() as u64, 2000 - n_evicted);
        assert!(c.batches[1..].iter().all(|b| (b.n_evicted, b.n_lines_evicted) == (0, 0)));
    });
    agent.drained().await;
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_sent_as_unreadable_and_holds_nothing_up() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    lock(&agent.spool)
        .append(b"\xff\xff\xff\xff no message", Volume { n_lines: 4, n_bytes: 400 })
        .unwrap();
    agent.append(2, 2);
    agent.start();
    eventually("both", || delivered(&collector).len() == 2).await;
    collector.with(|c| {
        let bad = &c.batches[0];
        assert_eq!((bad.seq, bad.codec, bad.n_lines, bad.n_bytes), (1, 0, 4, 400));
        assert_eq!(c.batches[1].t_min_unix_ms, 2);
    });
    agent.drained().await;
}

#[tokio::test]
async fn a_throttle_is_clamped_and_ends_with_its_stream() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    for (asked_ms, expected_s) in [(1, 1), (30_000, 30), (0, 10), (3_600_000, 60)] {
        collector.with(|c| c.throttle_ms = Some(asked_ms));
        if agent.task.is_none() {
            agent.start();
        }
        let interval = agent.interval.clone();
        eventually("throttled", || *interval.borrow() == Duration::from_secs(expected_s)).await;
    }
    collector.cut();
    let interval = agent.interval.clone();
    eventually("the config's own", || *interval.borrow() == Duration::from_secs(10)).await;
    agent.drained().await;
}

#[tokio::test]
async fn a_renewed_certificate_reconnects_without_losing_a_batch() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 20);
    agent.start();
    eventually("connected", || agent.status.borrow().state == "connected").await;
    let present = Arc::clone(&agent.identity.borrow());
    let address = collector.address.to_string();
    let renewed = identity::renew(&present, &address, agent.dir.path()).await.unwrap();
    agent.identity.send_replace(Arc::new(renewed));
    agent.append(21, 40);
    eventually("second stream", || collector.with(|c| c.hellos.len() == 2)).await;
    eventually("all", || delivered(&collector).len() == 40).await;
    assert_eq!(delivered(&collector), (1..=40).collect::<Vec<_>>());
    agent.drained().await;
    assert_eq!(collector.with(|c| c.n_goodbyes), 1, "a renewal is no goodbye");
}

#[tokio::test]
async fn a_refused_server_says_why_keeps_its_data_and_may_enrol_again() {
    let collector = FakeCollector::start().await;
    let refusal = Status::permission_denied("the certificate was revoked");
    collector.with(|c| c.refusal = Some(refusal));
    let mut agent = Agent::of(&collector).await;
    agent.append(1, 3);
    agent.start();
    eventually("refused", || agent.status.borrow().state == "refused").await;
    let error = agent.status.borrow().error.clone().unwrap();
    assert!(error.contains("refuses this server: the certificate was revoked"), "{error}");
    assert_eq!(lock(&agent.spool).stats().seq_last, 3);
    // A new enrolment is not mistaken for a repeated one, and is tried at once.
    collector.with(|c| c.refusal = None);
    let ask = collector.enrolment(agent.dir.path());
    let enrolled = identity::enroll(&ask, clock::now()).await.unwrap();
    let Enrolled::New(new) = enrolled else { panic!("the old certificate is good for nothing") };
    agent.identity.send_replace(Arc::new(new));
    eventually("all", || delivered(&collector).len() == 3).await;
    agent.drained().await;
}

/// The fourth new certificate, or set of labels, was told as a collector that is away.
#[tokio::test]
async fn streams_that_begin_anew_on_purpose_are_no_failure_however_often() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    let mut uplink = Uplink {
        backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
        refused: Backoff::new(REFUSED_FIRST, REFUSED_MAX),
        said: None,
        inputs: agent.inputs.take().unwrap(),
    };
    for _ in 0..5 {
        assert!(uplink.slow_down("labels changed") <= RETRY_MAX);
    }
    assert!(uplink.said.is_none(), "{:?}", uplink.said);
    assert_eq!(n_immediate_after(IMMEDIATE_MAX, LASTING), 0, "a month apart it is no loop");
    assert_eq!(n_immediate_after(IMMEDIATE_MAX, LASTING / 2), IMMEDIATE_MAX);
}

#[test]
fn refusals_are_sorted_by_who_can_mend_them() {
    for (status, class, told) in [
        (Status::unauthenticated("revoked"), Class::Refused, "refuses this server: revoked"),
        (
            Status::failed_precondition("speaks 3 to 4"),
            Class::Version,
            "speaks 1 to 2, the collector says: speaks 3 to 4",
        ),
        (Status::unimplemented("no Stream"), Class::Version, "upgrade the older"),
        (Status::resource_exhausted("disk full"), Class::Busy, "has no room: disk full"),
        (Status::unavailable("bye"), Class::Lost, "the stream ended"),
    ] {
        let Ended::Failed { class: found, error, .. } = Ended::from_status(&status) else {
            panic!()
        };
        assert_eq!(found, class, "{status}");
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_collector_without_room_says_when_to_come_back() {
    let mut status = Status::resource_exhausted("disk full");
    status.metadata_mut().insert("retry-after", "30".parse().unwrap());
    let Ended::Failed { wait_min, .. } = Ended::from_status(&status) else { panic!() };
    assert_eq!(wait_min, Duration::from_secs(30));
}

#[tokio::test]
async fn while_the_collector_is_away_everything_waits_in_the_spool() {
    let collector = FakeCollector::start().await;
    let mut agent = Agent::of(&collector).await;
    drop(collector);
    agent.append(1, 3);
    agent.start();
    eventually("waiting", || agent.status.borrow().state == "waiting").await;
    let error = agent.status.borrow().error.clone().unwrap();
    assert!(error.starts_with("cannot reach the collector at 127.0.0.1:"), "{error}");
    assert_eq!(lock(&agent.spool).peek(Seq(1)).unwrap().unwrap().volume, VOLUME);
    agent.drained().await;
}
