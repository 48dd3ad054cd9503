//! One agent's stream, from hello to its end.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Deadline, sleep_until, timeout};
use tonic::{Status, Streaming};
use wire::UnixMillis;
use wire::v1::agent_message::Message as Word;
use wire::v1::collector_message::Message as Answer;
use wire::v1::{
    Ack, AgentMessage, Batch, CollectorMessage, Heartbeat, Hello, Rewind, Throttle, Welcome,
};

use super::convert::{self, Taken};
use super::limits::{Bucket, ClockOffset};
use super::live::Seat;
use super::service::{Caller, SEND_TIME_MAX, Shared};
use super::{opener, status};
use crate::model::{Record, ServerId};
use crate::store::presence::{self, Arrival};
use crate::store::{Outcome, Seen, StoreError, fleet};
use crate::{clock, errors};

/// How long an agent may take to say hello.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Batches of one agent on their way into the database. When full, no more is read from it.
const IN_FLIGHT_MAX: usize = 32;

/// Messages and bytes a second of one agent, and at once; beyond, reading pauses.
const MESSAGES_RATE: (f64, f64) = (500.0, 2000.0);
const BYTES_RATE: (f64, f64) = (16e6, 16e6);

/// Entries of batches a second of one agent, and at once. A well-packed body holds a million: the
/// detector, which reads those of all agents, must never be kept busy by one of them. A server with
/// 2,000 busy sites makes 3,000 a second.
const ENTRIES_RATE: (f64, f64) = (100_000.0, 300_000.0);

/// Heartbeat assumed of an agent that says none, and the limits of what is believed.
const HEARTBEAT_DEFAULT_MS: u32 = 5000;
const HEARTBEAT_MS: (u32, u32) = (100, 600_000);

/// A stream without a message for so many heartbeats is ended, but not before [`IDLE_MIN`].
const IDLE_HEARTBEATS: u32 = 6;
const IDLE_MIN: Duration = Duration::from_secs(30);

/// A clock further off than this is a warning.
const OFFSET_WARN_MS: u64 = 300_000;

/// Least window over which agents spread their return, and agents a second beyond that.
const JITTER_MIN_S: f64 = 5.0;
const RETURNS_PER_S: f64 = 1000.0;

/// A batch in the writer's queue.
struct Waiting {
    epoch: u64,
    seq: u64,
    outcome: oneshot::Receiver<Result<Outcome, StoreError>>,
}

/// How a stream ended.
enum End {
    /// The agent said goodbye.
    Goodbye,
    /// The agent or the connection went away.
    Lost,
    /// We ended it.
    Refused(Status),
}

/// One stream.
pub(super) struct Session {
    shared: Arc<Shared>,
    caller: Caller,
    words: Streaming<AgentMessage>,
    answers: mpsc::Sender<Result<CollectorMessage, Status>>,
    waiting: VecDeque<Waiting>,
    offset: ClockOffset,
    offset_warned: bool,
    idle_max: Duration,
    said_goodbye: bool,
    /// Epoch of the agent's batches: of its hello, then of its newest batch.
    epoch: u64,
    /// Entries decoded and not charged yet.
    n_entries: usize,
    flood_warned: bool,
}

impl Session {
    /// A stream of a caller that was let in.
    pub(super) fn new(
        shared: Arc<Shared>,
        caller: Caller,
        words: Streaming<AgentMessage>,
        answers: mpsc::Sender<Result<CollectorMessage, Status>>,
    ) -> Self {
        Self {
            shared,
            caller,
            words,
            answers,
            waiting: VecDeque::new(),
            offset: ClockOffset::default(),
            offset_warned: false,
            idle_max: IDLE_MIN,
            said_goodbye: false,
            epoch: 0,
            n_entries: 0,
            flood_warned: false,
        }
    }

    fn server(&self) -> ServerId {
        self.caller.server
    }

    /// Serves the stream to its end and files how it ended.
    pub(super) async fn run(mut self, started: Instant) {
        let (mut seat, superseded) = self.shared.live.take(self.server());
        if superseded {
            self.shared.store.stats().streams_superseded.one();
        }
        let end = match self.greet().await {
            Ok(()) => self.serve(&mut seat, started).await,
            Err(end) => end,
        };
        let (server, peer) = (self.caller.name.as_str(), self.caller.peer);
        let stopping = self.shared.stop.is_cancelled();
        match &end {
            End::Goodbye => tracing::info!(server, %peer, "agent said goodbye"),
            End::Lost => tracing::info!(server, %peer, "stream lost"),
            End::Refused(_) if stopping => {}
            End::Refused(status) => {
                tracing::warn!(server, %peer, reason = status.message(), "stream ended");
            }
        }
        // A newer stream of the server speaks for it; a stopping collector knows nothing of it.
        if seat.is_current() && !stopping {
            let (id, at, on_purpose) = (self.server(), clock::now(), matches!(end, End::Goodbye));
            let left = self.shared.store.write(move |tx| presence::left(tx, id, at, on_purpose));
            if let Err(error) = left.await {
                tracing::warn!(server, error = %errors::chain(&error), "the end of a stream is not filed");
            }
        }
        drop(seat);
        if let End::Refused(status) = end {
            // Who does not listen any more need not be told.
            drop(timeout(SEND_TIME_MAX, self.answers.send(Err(status))).await);
        }
    }

    /// Hello and welcome.
    async fn greet(&mut self) -> Result<(), End> {
        let stop = self.shared.stop.clone();
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(End::Refused(status::draining())),
            // Cancel-safe: a half-read message stays in the stream's buffer.
            first = timeout(HELLO_TIME_MAX, self.words.message()) => first,
        };
        let hello = match first {
            Ok(Ok(Some(AgentMessage { message: Some(Word::Hello(hello)) }))) => hello,
            Ok(Ok(Some(_))) => return Err(self.refuse("the first message must be hello")),
            Ok(Ok(None) | Err(_)) => return Err(End::Lost),
            Err(_) => return Err(End::Refused(status::silent())),
        };
        let (ours_low, ours_high) = wire::PROTOCOL_VERSIONS;
        let (low, high) = (hello.protocol_version_min, hello.protocol_version_max);
        if low > ours_high || high < ours_low || low > high {
            self.shared.store.stats().streams_refused.one();
            return Err(End::Refused(status::version(low, high)));
        }
        let protocol = high.min(ours_high);
        self.epoch = hello.epoch;
        let at = clock::now();
        self.arrive(&hello, protocol, at).await;
        let durable = self.shared.store.durable(self.server());
        let n_agents = self.shared.live.n_streams() as f64;
        self.answer(Answer::Welcome(Welcome {
            protocol_version: protocol,
            server: self.caller.name.clone(),
            epoch: durable.epoch,
            seq_durable: durable.seq,
            retry_jitter_s: (n_agents / RETURNS_PER_S).max(JITTER_MIN_S),
            clock_unix_ms: at.0,
        }))
        .await?;
        tracing::info!(
            server = self.caller.name, peer = %self.caller.peer, agent_version = clipped(&hello.agent_version),
            epoch = durable.epoch, seq_durable = durable.seq, seq_last = hello.seq_last, "agent connected"
        );
        Ok(())
    }

    /// Files what the agent says of itself and tells the detective.
    async fn arrive(&mut self, hello: &Hello, protocol: u32, at: UnixMillis) {
        let heartbeat_ms = match hello.heartbeat_ms {
            0 => HEARTBEAT_DEFAULT_MS,
            ms => ms.clamp(HEARTBEAT_MS.0, HEARTBEAT_MS.1),
        };
        let heartbeat = Duration::from_millis(u64::from(heartbeat_ms));
        self.idle_max = (heartbeat * IDLE_HEARTBEATS).max(IDLE_MIN);
        let mut arrival = Arrival {
            at,
            version: clipped(&hello.agent_version),
            protocol,
            n_cpu: hello.n_cpu,
            n_sites: hello.n_sites,
            heartbeat_ms,
            clock_offset_ms: self.clock(at, UnixMillis(hello.clock_unix_ms)),
            labels: hello.labels.clone(),
            detected: hello.detected.clone(),
        };
        for labels in [&mut arrival.labels, &mut arrival.detected] {
            if let Err(why) = fleet::check_labels(labels) {
                tracing::warn!(server = self.caller.name, why, "labels of an agent are left out");
                labels.clear();
            }
        }
        let server = self.server();
        let filed = self.shared.store.write(move |tx| presence::arrived(tx, server, &arrival));
        if let Err(error) = filed.await {
            // Its heartbeats still count: a full disk here is no silence there.
            tracing::warn!(server = self.caller.name, error = %errors::chain(&error), "an arrival is not filed");
        }
        self.tell(at, Record::Hello { server, at: UnixMillis(hello.clock_unix_ms) }).await;
    }

    /// Batches in, acks out, until something ends it.
    async fn serve(&mut self, seat: &mut Seat, started: Instant) -> End {
        let (stop, ended) = (self.shared.stop.clone(), seat.ended.clone());
        let mut revoked = self.caller.revoked.clone();
        let serial = self.caller.serial.clone();
        let mut limits = Limits::new(started);
        // Asked for once: each of them enters a list that all streams share.
        let stopped = pin!(stop.cancelled());
        let superseded = pin!(ended.cancelled());
        let revoked = pin!(async { revoked.wait_for(|all| all.contains(&serial)).await.is_ok() });
        let idle = pin!(sleep_until(Deadline::from_std(limits.heard + self.idle_max)));
        let (mut stopped, mut superseded, mut revoked, mut idle) =
            (stopped, superseded, revoked, idle);
        loop {
            let paused = limits.paused_until.map(Deadline::from_std);
            let may_read = self.waiting.len() < IN_FLIGHT_MAX && paused.is_none();
            let step = tokio::select! {
                biased;
                () = &mut stopped => Err(End::Refused(status::draining())),
                () = &mut superseded => Err(End::Refused(status::superseded())),
                // False only when the store is gone, which is the end of everything else too.
                is_revoked = &mut revoked => {
                    let why = if is_revoked { status::revoked() } else { status::draining() };
                    Err(End::Refused(why))
                }
                // Cancel-safe: an outcome not taken stays in its channel.
                outcome = front(&mut self.waiting) => self.settle(outcome).await,
                // Cancel-safe: the newest interval is read after the change.
                Ok(()) = seat.interval.changed() => {
                    let interval = *seat.interval.borrow_and_update();
                    self.throttle(interval).await
                }
                // Cancel-safe: only waits.
                () = until(paused) => { limits.paused_until = None; Ok(()) }
                // Cancel-safe: a half-read message stays in the stream's buffer.
                word = self.words.message(), if may_read => match word {
                    Ok(Some(word)) => {
                        limits.take(&word, clock::instant());
                        let heard = self.hear(word).await;
                        let n_entries = std::mem::take(&mut self.n_entries);
                        if limits.take_entries(n_entries, clock::instant()) {
                            self.warn_of_flood();
                        }
                        heard
                    }
                    // The agent has closed its half: what it sent is still committed and acked.
                    Ok(None) if !self.waiting.is_empty() => self.settle_rest().await,
                    Ok(None) | Err(_) => Err(End::Lost),
                },
                // Cancel-safe: only waits. A paused or busy stream is not idle.
                () = &mut idle, if may_read => {
                    let due = Deadline::from_std(limits.heard + self.idle_max);
                    if due > idle.deadline() {
                        idle.as_mut().reset(due); // it was heard of since
                        Ok(())
                    } else {
                        Err(End::Refused(status::silent()))
                    }
                }
            };
            match step {
                Ok(()) => {}
                Err(End::Lost) if self.said_goodbye => return End::Goodbye,
                Err(end) => return end,
            }
        }
    }

    async fn hear(&mut self, word: AgentMessage) -> Result<(), End> {
        self.shared.live.spoke(self.server(), self.caller.peer.ip(), clock::now());
        match word.message {
            Some(Word::Batch(batch)) => self.append(batch).await,
            Some(Word::Heartbeat(heartbeat)) => {
                self.heartbeat(&heartbeat, clock::now());
                Ok(())
            }
            Some(Word::Goodbye(goodbye)) => {
                tracing::debug!(
                    server = self.caller.name,
                    reason = clipped(&goodbye.reason),
                    "goodbye"
                );
                self.said_goodbye = true;
                let at = clock::now();
                self.tell(at, Record::Goodbye { server: self.server(), at }).await;
                Ok(())
            }
            Some(Word::Hello(_)) => Err(self.refuse("hello comes once, as the first message")),
            // A message of a later version that we do not know: not for us.
            None => Ok(()),
        }
    }

    /// Opens a batch, a small one here, and queues it; waits while the writer's queue is full.
    async fn append(&mut self, batch: Batch) -> Result<(), End> {
        let (epoch, seq) = (batch.epoch, batch.seq);
        let range = 1..=i64::MAX.cast_unsigned();
        if !range.contains(&epoch) || !range.contains(&seq) {
            return Err(self.refuse("epoch and seq of a batch lie between 1 and 2^63-1"));
        }
        self.epoch = epoch;
        let (server, at) = (self.server(), clock::now());
        let small = opener::with(|unpacker| convert::small_batch(unpacker, server, batch, at));
        let Taken { new, n_entries, opened } = match small {
            Ok(taken) => taken,
            Err(batch) => self.open_aside(batch, at).await?,
        };
        self.n_entries += n_entries;
        if let Err(reason) = &opened {
            self.shared.store.stats().batches_unreadable.one();
            tracing::warn!(server = self.caller.name, epoch, seq, %reason, "a batch cannot be read and is stored as its reason");
        }
        match self.shared.store.append_opened(new, opened.ok()).await {
            Ok(outcome) => {
                self.waiting.push_back(Waiting { epoch, seq, outcome });
                Ok(())
            }
            Err(error) => Err(End::Refused(status::from_store(&error))),
        }
    }

    /// Opens a large body where it delays nobody else.
    async fn open_aside(&self, batch: Batch, at: UnixMillis) -> Result<Taken, End> {
        let server = self.server();
        let turn = Arc::clone(&self.shared.decoding).acquire_owned().await;
        let opened = tokio::task::spawn_blocking(move || {
            let taken = opener::with(|unpacker| convert::batch(unpacker, server, batch, at));
            drop(turn);
            taken
        });
        opened.await.map_err(|_| End::Refused(status::draining()))
    }

    /// Takes the outcome of the oldest batch, and of all after it that are there; acks them at once.
    async fn settle(&mut self, mut outcome: Result<Outcome, StoreError>) -> Result<(), End> {
        loop {
            let Some(waiting) = self.waiting.pop_front() else { return Ok(()) };
            self.judge(&waiting, outcome).await?;
            let next = self.waiting.front_mut().map(|next| next.outcome.try_recv());
            match next {
                Some(Ok(done)) => outcome = done,
                Some(Err(oneshot::error::TryRecvError::Closed)) => {
                    outcome = Err(StoreError::Closed);
                }
                None | Some(Err(oneshot::error::TryRecvError::Empty)) => {
                    return self.ack(waiting.epoch).await;
                }
            }
        }
    }

    async fn settle_rest(&mut self) -> Result<(), End> {
        while !self.waiting.is_empty() {
            let outcome = front(&mut self.waiting).await;
            self.settle(outcome).await?;
        }
        Ok(())
    }

    async fn judge(
        &mut self,
        waiting: &Waiting,
        outcome: Result<Outcome, StoreError>,
    ) -> Result<(), End> {
        let (epoch, seq) = (waiting.epoch, waiting.seq);
        match outcome {
            Ok(Outcome::Stored | Outcome::Duplicate) => Ok(()),
            Ok(Outcome::Gap { wanted }) => {
                tracing::warn!(
                    server = self.caller.name,
                    epoch,
                    seq,
                    wanted,
                    "a batch is missing: the agent is asked to rewind"
                );
                self.answer(Answer::Rewind(Rewind { epoch, seq: wanted })).await?;
                Err(End::Refused(status::out_of_order(wanted)))
            }
            Ok(Outcome::OldEpoch { known }) => Err(End::Refused(status::old_epoch(known))),
            Ok(Outcome::UnknownServer) => Err(End::Refused(status::unknown_server())),
            Err(error) => Err(End::Refused(status::from_store(&error))),
        }
    }

    /// Acks the durable watermark, never the number of the batch that came.
    async fn ack(&mut self, epoch: u64) -> Result<(), End> {
        let durable = self.shared.store.durable(self.server());
        if durable.epoch != epoch {
            return Ok(());
        }
        self.answer(Answer::Ack(Ack { epoch, seq: durable.seq })).await
    }

    fn heartbeat(&mut self, heartbeat: &Heartbeat, arrived: UnixMillis) {
        let server = self.server();
        let clock = UnixMillis(heartbeat.clock_unix_ms);
        let clock_offset_ms = self.clock(arrived, clock);
        let (spool_bytes, n_sites) = (heartbeat.spool_bytes, heartbeat.n_sites);
        self.shared.store.seen(server, Seen { at: arrived, clock_offset_ms, spool_bytes, n_sites });
        // What is spooled but not committed is not known here: then the heartbeat is only a sign of
        // life, and the batches say by themselves how far they are complete.
        let durable = self.shared.store.durable(server);
        let all_here = heartbeat.seq_last == 0
            || (heartbeat.seq_last <= durable.seq && self.epoch == durable.epoch);
        let at = UnixMillis(if all_here { heartbeat.complete_until_unix_ms } else { 0 });
        let record = Record::Heartbeat { server, at, clock };
        if self.shared.heard.try_send((arrived, record)).is_err() {
            self.shared.store.stats().heartbeats_dropped.one();
        }
    }

    /// The agent's clock minus ours, ms; warns once when it is far off.
    fn clock(&mut self, arrived: UnixMillis, clock: UnixMillis) -> i64 {
        let offset_ms = presence::clamp_clock_off(self.offset.add(arrived, clock).saturating_neg());
        let is_off = offset_ms.unsigned_abs() > OFFSET_WARN_MS;
        if is_off && !self.offset_warned {
            tracing::warn!(
                server = self.caller.name,
                clock_offset_ms = offset_ms,
                "the clock of a server is far off: set it, e.g. with chrony or systemd-timesyncd"
            );
        }
        self.offset_warned = is_off;
        offset_ms
    }

    /// Waits while the detective is behind: a lost hello or goodbye would be a false silence.
    async fn tell(&self, at: UnixMillis, record: Record) {
        if self.shared.heard.send((at, record)).await.is_err() {
            tracing::debug!(server = self.caller.name, "nobody listens to the streams any more");
        }
    }

    async fn throttle(&mut self, interval: Option<Duration>) -> Result<(), End> {
        // 0: the agent's own again.
        let batch_interval_ms = interval.map_or(0, |interval| interval.as_millis() as u32);
        self.answer(Answer::Throttle(Throttle { batch_interval_ms })).await
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), End> {
        let message = CollectorMessage { message: Some(answer) };
        match timeout(SEND_TIME_MAX, self.answers.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Lost),
            Err(_) => Err(End::Refused(status::stuck())),
        }
    }

    /// Said once a stream: catching up after an outage is slowed down as well, and loses nothing.
    fn warn_of_flood(&mut self) {
        self.shared.store.stats().streams_paused.one();
        if !std::mem::replace(&mut self.flood_warned, true) {
            tracing::warn!(
                server = self.caller.name,
                "an agent sends more than is read of one server: its stream is read slower, others are not delayed"
            );
        }
    }

    fn refuse(&self, why: &str) -> End {
        self.shared.store.stats().messages_refused.one();
        End::Refused(status::broken(why))
    }
}

/// When the agent was last heard, and whether it sends too much.
struct Limits {
    messages: Bucket,
    bytes: Bucket,
    entries: Bucket,
    heard: Instant,
    paused_until: Option<Instant>,
}

impl Limits {
    fn new(now: Instant) -> Self {
        Self {
            messages: Bucket::new(MESSAGES_RATE.0, MESSAGES_RATE.1, now),
            bytes: Bucket::new(BYTES_RATE.0, BYTES_RATE.1, now),
            entries: Bucket::new(ENTRIES_RATE.0, ENTRIES_RATE.1, now),
            heard: now,
            paused_until: None,
        }
    }

    fn take(&mut self, word: &AgentMessage, now: Instant) {
        let n_bytes = match &word.message {
            Some(Word::Batch(batch)) => batch.body.len(),
            _ => 0,
        };
        let pause = self.messages.take(1.0, now).max(self.bytes.take(n_bytes as f64, now));
        self.heard = now + pause;
        self.paused_until = (!pause.is_zero()).then_some(now + pause);
    }

    /// Charges what a batch held; true when reading pauses for it.
    fn take_entries(&mut self, n: usize, now: Instant) -> bool {
        let pause = self.entries.take(n as f64, now);
        if pause.is_zero() {
            return false;
        }
        self.heard = self.heard.max(now + pause);
        self.paused_until = self.paused_until.max(Some(now + pause));
        true
    }
}

/// The outcome of the oldest batch; never, when none waits.
async fn front(waiting: &mut VecDeque<Waiting>) -> Result<Outcome, StoreError> {
    match waiting.front_mut() {
        Some(waiting) => (&mut waiting.outcome).await.unwrap_or(Err(StoreError::Closed)),
        None => std::future::pending().await,
    }
}

/// Waits for the deadline; for ever when there is none.
async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// As much of a stranger's text as is kept.
fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
