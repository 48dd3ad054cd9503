//! One stream: Hello, Welcome, then batches and heartbeats out, acks in, at last Goodbye.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::UnixMillis;
use wire::v1::agent_message::Message as Up;
use wire::v1::collector_message::Message as Down;
use wire::v1::uplink_client::UplinkClient;
use wire::v1::{
    AgentMessage, Batch, CollectorMessage, Goodbye, Heartbeat, Hello, Throttle, Welcome,
};

use super::{Class, Ended, Uplink, lock, millis};
use crate::batch;
use crate::identity::{self, Connector};
use crate::spool::{Evicted, Record, Seq, SpoolError, Stats, Volume};
use crate::timer::Ticker;
use crate::{chain, clock};

/// Batches sent and not acked at one time, by number and bytes: enough to hide the round trip and a
/// group commit, little to send again after a lost stream. Full means: wait for acks.
const IN_FLIGHT_MAX: usize = 64;
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// Messages between here and HTTP/2; batches in flight always fit, a heartbeat that does not is
/// left out, since then the connection itself is stuck.
const OUT_MAX: usize = IN_FLIGHT_MAX + 16;
/// Longest wait for the collector's first words.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// A collector that acks nothing for this long while batches wait is as good as gone.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Least wait for the collector to close after our goodbye; what is left of the time for draining is
/// waited too, since whoever is missed without a goodbye is called silent.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest message of the collector; its longest is a Welcome.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Bounds of `Throttle`.
const THROTTLE: (u32, u32) = (1000, 60_000);
/// `Batch.codec` for a record whose bytes make no sense: the collector stores the reason, and its
/// watermark passes.
const CODEC_UNREADABLE: u32 = 0;
/// A clock further off than this is warned about, on both sides.
const CLOCK_WARN_MS: u64 = 300_000;

/// A batch that is sent and not acked.
struct Sent {
    seq: Seq,
    bytes: usize,
}

/// What the blocking pool does with the spool, one at a time.
type SpoolTask = JoinHandle<Result<Option<Batch>, SpoolError>>;

struct Session<'u> {
    uplink: &'u mut Uplink,
    connector: Connector,
    out: mpsc::Sender<AgentMessage>,
    epoch: u64,
    /// Protocol version the collector chose.
    protocol: u32,
    /// Next seq to send.
    next: Seq,
    in_flight: VecDeque<Sent>,
    bytes_in_flight: usize,
    /// When an ack is due at the latest.
    ack_due: Option<Instant>,
    /// Acked, and not yet told to the spool.
    ack: Option<Seq>,
    /// The spool may hold more than was looked at.
    has_more: bool,
    spool_task: Option<SpoolTask>,
    /// As last seen, for heartbeats while the gather thread holds the spool.
    stats: Stats,
    /// What was complete no later than `stats`; 0 = not known yet.
    complete_until: UnixMillis,
    /// Set when draining.
    deadline: Option<Instant>,
}

impl Uplink {
    /// Opens a stream and keeps it until something ends it.
    pub(super) async fn session(&mut self) -> Ended {
        let identity = Arc::clone(&self.inputs.identity.borrow_and_update());
        self.note(|s| {
            s.state = "connecting";
            s.certificate_not_after = Some(identity.not_after);
        });
        let connector = match identity.connector(&self.inputs.address, clock::now) {
            Ok(connector) => connector,
            Err(error) => return Ended::from_identity(&error),
        };
        match timeout(WELCOME_TIMEOUT, self.open(connector)).await {
            Ok(Ok((session, welcome, inbound))) => session.run(welcome, inbound).await,
            Ok(Err(ended)) => ended,
            Err(_) => Ended::failed(Class::Lost, "the collector does not answer"),
        }
    }

    async fn open(
        &mut self,
        connector: Connector,
    ) -> Result<(Session<'_>, Welcome, Streaming<CollectorMessage>), Ended> {
        let channel = identity::channel(&connector).await;
        let channel = channel.map_err(|error| Ended::from_identity(&error))?;
        let mut client = UplinkClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let stats = self.stats().await?;
        let (out, outbound) = mpsc::channel(OUT_MAX);
        let hello = AgentMessage { message: Some(Up::Hello(self.hello(&stats))) };
        out.try_send(hello).expect("the queue is empty");
        let ended = |status: tonic::Status| match connector.take_fault() {
            Some(fault) => Ended::from_identity(&fault.into()),
            None => Ended::from_status(&status),
        };
        let inbound = client.stream(ReceiverStream::new(outbound)).await;
        let mut inbound = inbound.map_err(ended)?.into_inner();
        let first = inbound.message().await.map_err(ended)?;
        let Some(Down::Welcome(welcome)) = first.and_then(|m| m.message) else {
            return Err(Ended::failed(Class::Lost, "the collector did not begin with a welcome"));
        };
        let session = Session {
            uplink: self,
            connector: connector.clone(),
            out,
            epoch: stats.epoch,
            protocol: welcome.protocol_version,
            next: Seq(1),
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            ack_due: None,
            ack: None,
            has_more: true,
            spool_task: None,
            stats,
            complete_until: UnixMillis(0),
            deadline: None,
        };
        Ok((session, welcome, inbound))
    }

    async fn stats(&self) -> Result<Stats, Ended> {
        let spool = Arc::clone(&self.inputs.spool);
        tokio::task::spawn_blocking(move || lock(&spool).stats())
            .await
            .map_err(|_| Ended::failed(Class::Local, "the spool cannot be asked"))
    }

    fn hello(&self, stats: &Stats) -> Hello {
        let (lowest, highest) = wire::PROTOCOL_VERSIONS;
        let mut labels = self.inputs.identity.borrow().labels.clone();
        labels.extend(self.inputs.labels.borrow().clone());
        Hello {
            protocol_version_min: lowest,
            protocol_version_max: highest,
            epoch: stats.epoch,
            seq_first: stats.seq_first,
            seq_last: stats.seq_last,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels,
            detected: self.inputs.detected.clone(),
            clock_unix_ms: clock::now().0,
            n_cpu: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            n_sites: self.inputs.gather.borrow().n_sites,
            heartbeat_ms: millis(self.inputs.heartbeat) as u32,
        }
    }
}

impl Session<'_> {
    async fn run(mut self, welcome: Welcome, mut inbound: Streaming<CollectorMessage>) -> Ended {
        if let Some(ended) = self.begin(&welcome).await {
            return ended;
        }
        let drain = self.uplink.inputs.drain.clone();
        let appended = Arc::clone(&self.uplink.inputs.appended);
        let mut identity = self.uplink.inputs.identity.clone();
        let mut labels = self.uplink.inputs.labels.clone();
        labels.mark_unchanged();
        let mut heartbeat = Ticker::new(self.uplink.inputs.heartbeat);
        loop {
            self.begin_spool_task();
            if self.is_drained() {
                return self.say_goodbye(inbound).await;
            }
            let deadline = self.deadline;
            tokio::select! {
                biased;
                // Cancel-safe: a token. Not a reason to end: what is spooled is sent first.
                () = drain.cancelled(), if self.deadline.is_none() => {
                    self.deadline = Some(clock::instant() + self.uplink.inputs.drain_max);
                    self.has_more = true;
                }
                // Cancel-safe: a half-read message stays in the stream's buffer.
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Some(ended) = self.receive(message) {
                        return ended;
                    },
                    Ok(None) => return Ended::failed(Class::Lost, "the collector ended the stream"),
                    Err(status) => return match self.connector.take_fault() {
                        Some(fault) => Ended::from_identity(&fault.into()),
                        None => Ended::from_status(&status),
                    },
                },
                // Cancel-safe: the task runs on; its result waits in the handle.
                done = finished(&mut self.spool_task) => {
                    if let Some(ended) = self.finish_spool_task(done) {
                        return ended;
                    }
                }
                // Cancel-safe: a missed tick comes late.
                () = heartbeat.tick() => {
                    if let Some(ended) = self.beat() {
                        return ended;
                    }
                }
                // Cancel-safe: the permit stays when another branch wins.
                () = appended.notified() => self.has_more = true,
                // Cancel-safe: a timer. What is not acked by then stays in the spool.
                () = reached(deadline) => {}
                // Cancel-safe: versions are compared, not messages consumed.
                Ok(()) = identity.changed() => return Ended::Again("the certificate was renewed"),
                // Cancel-safe, as above.
                Ok(()) = labels.changed() => return Ended::Again("labels changed"),
            }
        }
    }

    /// Settles on the numbers both sides agree on.
    async fn begin(&mut self, welcome: &Welcome) -> Option<Ended> {
        let (lowest, highest) = wire::PROTOCOL_VERSIONS;
        if !(lowest..=highest).contains(&welcome.protocol_version) {
            let error = format!(
                "the collector chose protocol version {}, this agent speaks {lowest} to {highest}",
                welcome.protocol_version
            );
            return Some(Ended::failed(Class::Version, error));
        }
        let (known, durable) = (welcome.epoch, welcome.seq_durable);
        let own = (self.epoch, self.stats.seq_last);
        let spool = Arc::clone(&self.uplink.inputs.spool);
        let settled = tokio::task::spawn_blocking(move || {
            let mut spool = lock(&spool);
            match known.cmp(&own.0) {
                // The collector knows a later life of this server's spool, or more of this one than
                // we do (restored from an image): our numbers would pass for repetitions.
                std::cmp::Ordering::Greater => return spool.raise_epoch(known).map(|()| None),
                std::cmp::Ordering::Equal if durable > own.1 => {
                    return spool.raise_epoch(known).map(|()| None);
                }
                std::cmp::Ordering::Equal => {
                    spool.rewind(Seq(durable));
                    spool.ack(Seq(durable))?;
                }
                std::cmp::Ordering::Less => spool.rewind(Seq(0)),
            }
            Ok(Some((Seq(if known == own.0 { durable + 1 } else { 1 }), spool.stats())))
        });
        match settled.await {
            Ok(Ok(Some((next, stats)))) => (self.next, self.stats) = (next, stats),
            Ok(Ok(None)) => {
                let own_epoch = own.0;
                tracing::warn!(known, durable, own_epoch, "numbering the spool anew");
                return Some(Ended::Again("new epoch"));
            }
            Ok(Err(error)) => return Some(Ended::failed(Class::Local, chain(&error))),
            Err(_) => return Some(Ended::failed(Class::Local, "the spool cannot be asked")),
        }
        let (collector, server) = (&self.uplink.inputs.address, &welcome.server);
        let (epoch, next) = (self.epoch, self.next.0);
        tracing::info!(collector, server, epoch, next, "connected");
        if let Some(ahead_ms) = clock_far_off(welcome.clock_unix_ms, clock::now()) {
            tracing::warn!(
                ahead_ms,
                "the clock of this server is far off the collector's: set it, e.g. with chrony or \
                 systemd-timesyncd"
            );
        }
        self.uplink.welcomed(welcome.retry_jitter_s);
        self.uplink.note(|s| {
            s.state = "connected";
            s.server.clone_from(&welcome.server);
            s.connected_at = Some(clock::now());
            s.error = None;
            s.seq_sent = next - 1;
            s.n_streams += 1;
        });
        None
    }

    fn receive(&mut self, message: CollectorMessage) -> Option<Ended> {
        match message.message {
            Some(Down::Ack(ack)) if ack.epoch == self.epoch => self.acked(Seq(ack.seq)),
            Some(Down::Rewind(rewind)) if rewind.epoch == self.epoch => {
                // The next Welcome says where to go on; what is on its way now is out of order.
                tracing::warn!(seq = rewind.seq, "the collector asks for batches again");
                return Some(Ended::Again("rewind"));
            }
            Some(Down::Throttle(throttle)) => self.throttle(throttle),
            // Ends the stream on its side; the next Hello settles it.
            Some(Down::Welcome(welcome)) if welcome.epoch > self.epoch => {
                return Some(Ended::Again("the collector knows a later epoch"));
            }
            // Of another epoch, or of a later protocol: nothing to do.
            _ => {}
        }
        None
    }

    fn acked(&mut self, seq: Seq) {
        let seq = seq.min(Seq(self.next.0 - 1)); // what was not sent has not arrived
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.seq <= seq) {
            self.bytes_in_flight -= sent.bytes;
        }
        self.ack_due = (!self.in_flight.is_empty()).then(|| clock::instant() + ACK_TIMEOUT);
        self.ack = Some(seq.max(self.ack.unwrap_or_default()));
        tracing::debug!(seq = seq.0, "acked");
        self.uplink.note(|s| s.acked_at = Some(clock::now()));
    }

    fn throttle(&self, throttle: Throttle) {
        let interval = match throttle.batch_interval_ms {
            0 => self.uplink.inputs.batch_interval,
            ms => Duration::from_millis(ms.clamp(THROTTLE.0, THROTTLE.1).into()),
        };
        tracing::debug!(?interval, "batch interval set by the collector");
        self.uplink.inputs.interval.send_replace(interval);
        self.uplink.note(|s| s.batch_interval_ms = millis(interval));
    }

    /// Tells the spool of an ack and fetches the next batch, if there is room in flight.
    fn begin_spool_task(&mut self) {
        let has_room =
            self.in_flight.len() < IN_FLIGHT_MAX && self.bytes_in_flight < IN_FLIGHT_BYTES_MAX;
        let peek = (self.has_more && has_room).then_some(self.next);
        if self.spool_task.is_some() || (peek.is_none() && self.ack.is_none()) {
            return;
        }
        if peek.is_some() {
            self.has_more = false; // an append from here on says so itself
        }
        let (spool, ack) = (Arc::clone(&self.uplink.inputs.spool), self.ack.take());
        let (epoch, protocol) = (self.epoch, self.protocol);
        let task = tokio::task::spawn_blocking(move || {
            let mut spool = lock(&spool);
            if let Some(seq) = ack
                && let Err(error) = spool.ack(seq)
            {
                // Only deleting failed; it is tried again with the next ack.
                tracing::warn!(error = chain(&error), "acked batches stay in the spool");
            }
            let Some(seq) = peek else { return Ok(None) };
            let record = spool.peek(seq)?;
            drop(spool);
            Ok(record.map(|record| batch::for_protocol(to_batch(record, epoch), protocol)))
        });
        self.spool_task = Some(task);
    }

    fn finish_spool_task(&mut self, done: Result<Option<Batch>, SpoolError>) -> Option<Ended> {
        match done {
            Ok(Some(batch)) => {
                self.has_more = true;
                self.send(batch)
            }
            Ok(None) => None,
            Err(error) => Some(Ended::failed(Class::Local, chain(&error))),
        }
    }

    fn send(&mut self, batch: Batch) -> Option<Ended> {
        let (seq, bytes) = (Seq(batch.seq), batch.body.len());
        let message = AgentMessage { message: Some(Up::Batch(batch)) };
        if self.out.try_send(message).is_err() {
            // What is in flight fits the queue, so it is the stream that is gone.
            return Some(Ended::failed(Class::Lost, "the stream takes no more"));
        }
        tracing::debug!(seq = seq.0, bytes, "sent");
        self.in_flight.push_back(Sent { seq, bytes });
        self.bytes_in_flight += bytes;
        self.ack_due.get_or_insert_with(|| clock::instant() + ACK_TIMEOUT);
        self.next = Seq(seq.0 + 1);
        self.uplink.note(|s| s.seq_sent = seq.0);
        None
    }

    /// Sends a heartbeat, and looks for what must not take for ever.
    fn beat(&mut self) -> Option<Ended> {
        if self.ack_due.is_some_and(|due| clock::instant() > due) {
            return Some(Ended::failed(Class::Lost, "no ack for a minute"));
        }
        // Before the numbers of the spool: the batch that made this complete is then among them.
        let (complete_until, n_sites) = {
            let gather = self.uplink.inputs.gather.borrow();
            (gather.complete_until, gather.n_sites)
        };
        // Held by the gather thread while it waits for the disk: then the last numbers do.
        if let Ok(spool) = self.uplink.inputs.spool.try_lock() {
            self.stats = spool.stats();
            self.complete_until = complete_until;
        }
        self.has_more |= self.stats.seq_last >= self.next.0;
        let heartbeat = Heartbeat {
            clock_unix_ms: clock::now().0,
            complete_until_unix_ms: self.complete_until.0,
            seq_last: self.stats.seq_last,
            spool_bytes: self.stats.bytes_unacked,
            n_sites,
        };
        if self.out.capacity() > IN_FLIGHT_MAX - self.in_flight.len() {
            let message = AgentMessage { message: Some(Up::Heartbeat(heartbeat)) };
            if self.out.try_send(message).is_err() {
                return Some(Ended::failed(Class::Lost, "the stream takes no more"));
            }
        }
        None
    }

    fn is_drained(&self) -> bool {
        let Some(deadline) = self.deadline else { return false };
        let is_empty = !self.has_more && self.in_flight.is_empty() && self.spool_task.is_none();
        is_empty || clock::instant() >= deadline
    }

    async fn say_goodbye(self, mut inbound: Streaming<CollectorMessage>) -> Ended {
        let goodbye = Goodbye { reason: "stopped".to_owned() };
        let message = AgentMessage { message: Some(Up::Goodbye(goodbye)) };
        let left = self.deadline.map(|due| due.saturating_duration_since(clock::instant()));
        let patience = GOODBYE_TIMEOUT.max(left.unwrap_or_default());
        let sent = timeout(GOODBYE_TIMEOUT, self.out.send(message)).await;
        drop(self.out); // ends our half of the stream
        let closed =
            timeout(patience, async { while let Ok(Some(_)) = inbound.message().await {} });
        if !matches!(sent, Ok(Ok(()))) || closed.await.is_err() {
            tracing::warn!("the collector did not confirm the goodbye");
        }
        Ended::Drained
    }
}

/// The running task's result; never, when there is none.
async fn finished(running: &mut Option<SpoolTask>) -> Result<Option<Batch>, SpoolError> {
    let Some(task) = running else { return std::future::pending().await };
    let done = task.await;
    *running = None;
    done.expect("the spool's task neither panics nor is aborted")
}

/// Returns at the deadline; never, when there is none.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// A spooled record as the batch that goes out.
fn to_batch(record: Record, epoch: u64) -> Batch {
    let Record { seq, payload, volume, evicted_before: Evicted { n_batches, volume: evicted } } =
        record;
    if n_batches > 0 {
        let Volume { n_lines, n_bytes } = evicted;
        tracing::error!(
            n_batches,
            n_lines,
            n_bytes,
            "batches are lost: the spool was full or damaged"
        );
    }
    let mut batch = Batch::decode(payload.as_slice()).unwrap_or_else(|error| {
        tracing::error!(seq = seq.0, %error, "a spooled batch makes no sense, sent as unreadable");
        let n_lines = u32::try_from(volume.n_lines).unwrap_or(u32::MAX);
        let n_bytes = volume.n_bytes;
        Batch { codec: CODEC_UNREADABLE, n_lines, n_bytes, ..Batch::default() }
    });
    batch.epoch = epoch;
    batch.seq = seq.0;
    batch.n_evicted = n_batches;
    batch.n_lines_evicted = evicted.n_lines;
    batch.n_bytes_evicted = evicted.n_bytes;
    batch
}

/// How far our clock is ahead of the collector's, ms, when that is more than five minutes.
fn clock_far_off(theirs_unix_ms: i64, ours: UnixMillis) -> Option<i64> {
    let ahead_ms = ours.0.saturating_sub(theirs_unix_ms);
    (theirs_unix_ms != 0 && ahead_ms.unsigned_abs() > CLOCK_WARN_MS).then_some(ahead_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_far_off_from_five_minutes_on_in_either_direction() {
        let ours = UnixMillis(1_000_000_000);
        for (theirs, want) in [
            (0, None), // a collector that does not say
            (ours.0, None),
            (ours.0 - 300_000, None),
            (ours.0 - 300_001, Some(300_001)),
            (ours.0 + 86_400_000, Some(-86_400_000)),
        ] {
            assert_eq!(clock_far_off(theirs, ours), want, "{theirs}");
        }
    }
}
