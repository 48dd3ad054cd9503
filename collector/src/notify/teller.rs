//! Sends what a route owes, and forgets a message once it arrived.
//!
//! One task per route, so a dead receiver delays no other. Messages of one incident go out in order,
//! the next one when the one before has arrived or was given up; those of different incidents side by
//! side, at most [`IN_FLIGHT_MAX`] at once and `messages_per_minute_max` in a minute. A message is tried
//! again with full-jitter backoff, and not before its receiver asks for it, until it is [`AGE_MAX`] old.
//! Every try sends what stands in the outbox: a crash between two of them changes nothing.
//!
//! A receiver that forgets (an Alertmanager) is told again what is not over, while nothing else is on
//! its way: so what is told again is never older than what was told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use wire::UnixMillis;

use super::line::{Again, Line};
use super::rate::{self, Bucket};
use super::stats::{Outcome, Stats};
use super::{Message, SendError};
use crate::store::notices::{self, Notice, What};
use crate::store::{Conn, ReadResult, Store, WriteTx, outbox};
use crate::{ca, clock, errors};

/// Messages of one route on their way at once: enough for a burst, few for a receiver that hangs.
pub const IN_FLIGHT_MAX: usize = 8;

/// Age, counted from its decision, at which a message is given up. A page about an outage of the
/// day before yesterday helps nobody; the incident itself stays in the store.
pub const AGE_MAX: Duration = Duration::from_secs(2 * 86_400);

/// A receiver that asks for a pause gets it from the whole route, but no longer than this: one
/// message that it does not like must not hold back all others.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long a route rests at most. It looks into the outbox when the clerk has decided something, when
/// an answer came and when the next message is due; this is for whatever nobody tells it of: digests, a
/// clock that was set.
const POLL: Duration = Duration::from_secs(1);

/// Shortest rest: a row that is due in this moment needs no second look within it.
const REST_MIN: Duration = Duration::from_millis(5);

/// How soon what the store did not take is written again.
const SETTLE_AGAIN: Duration = Duration::from_millis(250);

/// Stands for the repetition among the rows on their way.
const REPETITION: i64 = -1;

/// How long to wait after the n-th failure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Upper bound after the first failure; doubles with each.
    pub base: Duration,
    /// Where the doubling ends.
    pub cap: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(300) }
    }
}

impl Pace {
    /// Full jitter: uniform over 0..bound, `random` being uniform over 0..1; never quite nothing.
    #[must_use]
    pub fn delay(&self, tries: u32, random: f64) -> Duration {
        let bound = self.base.saturating_mul(2_u32.saturating_pow(tries)).min(self.cap);
        bound.mul_f64(random.clamp(0.0, 1.0)).max(self.base / 10)
    }

    /// The same, but not before the receiver asks for it, and never beyond the age at which the
    /// message is given up, `age` being its age now.
    #[must_use]
    fn wait(&self, tries: u32, random: f64, asked: Option<Duration>, age: Duration) -> Duration {
        let wait = self.delay(tries, random).max(asked.unwrap_or_default());
        wait.min(AGE_MAX.saturating_sub(age).max(self.base))
    }
}

/// What the others tell the tellers.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    /// Nothing more is begun.
    pub(super) stop: CancellationToken,
    /// What has no answer yet is cut off, and sent again at the next start. Fires after `stop`.
    pub(super) cut: CancellationToken,
    /// Changes when something was decided: the outbox may hold more.
    pub(super) decided: watch::Receiver<()>,
}

/// Delivers over `lines` until `stop` fires. What is on its way then may still arrive, until `cut`
/// fires; what arrived is written down whatever fires.
pub(super) async fn run(
    store: Store,
    lines: Vec<Line>,
    pace: Pace,
    stats: Arc<Stats>,
    signals: Signals,
) {
    let mut routes = JoinSet::new();
    for line in lines {
        stats.know(&line.route);
        let (store, stats, signals) = (store.clone(), Arc::clone(&stats), signals.clone());
        let pause = Pause::default();
        let teller = Teller { store, line, pace, rest_max: POLL, pause, stats, signals };
        routes.spawn(teller.run());
    }
    while routes.join_next().await.is_some() {}
}

/// One route's task.
#[derive(Clone)]
struct Teller {
    store: Store,
    line: Line,
    pace: Pace,
    /// [`POLL`].
    rest_max: Duration,
    pause: Pause,
    stats: Arc<Stats>,
    signals: Signals,
}

/// Until when the receiver wants to be left alone. It holds from its answer on: that the answer is
/// written down may take a busy disk some time, in which nothing else may begin.
#[derive(Clone, Default)]
struct Pause(Arc<Mutex<Option<Instant>>>);

impl Pause {
    fn extend(&self, until: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = (*kept).max(Some(until));
    }

    /// What is left of it; `None` when it is over.
    fn left(&self, now: Instant) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(now))
    }
}

/// How one try ended.
enum Tried {
    Delivered,
    /// Why.
    Failed(String),
    GivenUp(Outcome),
    /// What was told before was told again; why it was not.
    Repeated(Result<(), String>),
    /// There was nothing to tell again.
    Idle,
    /// A stop cut it off: it stands in the outbox as before.
    CutOff,
}

/// What a teller has on its way, and what it remembers of its receiver.
struct Shift {
    in_flight: JoinSet<(i64, Tried)>,
    /// Rows of the outbox on their way.
    busy: BTreeSet<i64>,
    bucket: Bucket,
    /// When it was said last that messages wait for the limit.
    limit_said: Option<Instant>,
    /// When a receiver that forgets is told again.
    next_again: Instant,
    /// Rows that failed and are tried again, and whether it was said that something fails.
    failing: BTreeSet<i64>,
    is_failing: bool,
    /// The outbox cannot be read: said once.
    is_blind: bool,
}

impl Shift {
    /// What failed is no longer tried, so whatever fails next is news.
    fn forget(&mut self, id: i64) {
        self.failing.remove(&id);
        self.is_failing &= !self.failing.is_empty();
    }

    fn new(per_minute: u32) -> Self {
        Self {
            in_flight: JoinSet::new(),
            busy: BTreeSet::new(),
            bucket: Bucket::new(per_minute),
            limit_said: None,
            next_again: clock::instant(),
            failing: BTreeSet::new(),
            is_failing: false,
            is_blind: false,
        }
    }
}

impl Teller {
    async fn run(self) {
        let mut shift = Shift::new(self.line.per_minute);
        let mut decided = self.signals.decided.clone();
        loop {
            let wait = self.begin(&mut shift).await;
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => break,
                // Cancel-safe: a finished send stays in the set until it is taken.
                Some(done) = shift.in_flight.join_next(), if !shift.in_flight.is_empty() => {
                    let (id, tried) = done.expect("a send neither panics nor is aborted");
                    self.account(id, tried, &mut shift);
                }
                // Cancel-safe: what was not seen as changed still is.
                () = changed(&mut decided) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        let mut n_cut = 0;
        // Ends soon after `cut`: from then on there is only the store to wait for.
        while let Some(done) = shift.in_flight.join_next().await {
            let (id, tried) = done.expect("a send neither panics nor is aborted");
            n_cut += usize::from(matches!(tried, Tried::CutOff));
            self.account(id, tried, &mut shift);
        }
        if n_cut > 0 {
            let route = &self.line.route;
            tracing::info!(route, n_cut, "notifications cut off, sent again after the next start");
        }
    }

    /// Begins what can begin now; how long to wait before the next look, if nothing happens.
    async fn begin(&self, shift: &mut Shift) -> Duration {
        let now = clock::instant();
        if shift.busy.contains(&REPETITION) {
            return self.rest_max;
        }
        if let Some(left) = self.pause.left(now) {
            return left.clamp(REST_MIN, self.rest_max);
        }
        let mut rest = self.rest_max;
        if let Some((every, again)) = &self.line.again {
            if now < shift.next_again {
                rest = rest.min(shift.next_again - now);
            } else {
                if shift.busy.is_empty() {
                    shift.next_again = now + *every;
                    shift.busy.insert(REPETITION);
                    let (teller, again) = (self.clone(), Arc::clone(again));
                    shift.in_flight.spawn(async move { (REPETITION, teller.repeat(&again).await) });
                }
                return self.rest_max;
            }
        }
        let n_free = IN_FLIGHT_MAX.saturating_sub(shift.busy.len());
        let n_allowed = shift.bucket.n_free(now);
        if n_free == 0 {
            return rest.max(REST_MIN);
        }
        if n_allowed == 0 {
            self.say_limited(shift, now).await;
            return rest.min(shift.bucket.wait(now)).max(REST_MIN);
        }
        let (rows, next) = self.due(n_free.min(n_allowed), shift).await;
        // The answer that asks for it may have come in the meantime.
        if let Some(left) = self.pause.left(clock::instant()) {
            return left.clamp(REST_MIN, self.rest_max);
        }
        for row in rows {
            shift.bucket.take(now);
            shift.busy.insert(row.id);
            let teller = self.clone();
            shift.in_flight.spawn(async move { (row.id, teller.try_once(row).await) });
        }
        if shift.bucket.n_free(now) == 0 {
            rest = rest.min(shift.bucket.wait(now));
        }
        rest.min(next.unwrap_or(self.rest_max)).max(REST_MIN)
    }

    /// Up to so many rows that are due and not on their way, and how long it is until another one is.
    async fn due(
        &self,
        n_max: usize,
        shift: &mut Shift,
    ) -> (Vec<outbox::DueRow>, Option<Duration>) {
        let (route, now) = (self.line.route.clone(), clock::now());
        // Those in flight are still due in the table: ask for as many more.
        let limit = n_max + shift.busy.len();
        let look = move |conn: &Conn| {
            Ok((outbox::due(conn, &route, now, limit)?, outbox::next_due(conn, &route, now)?))
        };
        match self.store.read(look).await {
            Ok((rows, next)) => {
                shift.is_blind = false;
                let is_free = |row: &outbox::DueRow| !shift.busy.contains(&row.id);
                let rows = rows.into_iter().filter(is_free).take(n_max).collect();
                (rows, next.map(|due| due.since(now)))
            }
            Err(error) => {
                if !std::mem::replace(&mut shift.is_blind, true) {
                    tracing::error!(error = %errors::chain(&error), "outbox cannot be read");
                }
                (Vec::new(), None)
            }
        }
    }

    /// Says once a minute how many messages wait for the limit.
    async fn say_limited(&self, shift: &mut Shift, now: Instant) {
        if shift.limit_said.is_some_and(|at| now.saturating_duration_since(at) < rate::MINUTE) {
            return;
        }
        let (owed, route) = (self.store.read(outbox::owed).await, &self.line.route);
        let of_route = owed.unwrap_or_default().into_iter().find(|owed| owed.route == *route);
        let n_waiting = of_route.map_or(0, |owed| owed.n).saturating_sub(shift.busy.len() as u64);
        if n_waiting > 0 {
            shift.limit_said = Some(now);
            let per_minute = self.line.per_minute;
            tracing::warn!(
                route,
                n_waiting,
                per_minute,
                "messages wait: limit of so many a minute"
            );
        }
    }

    /// Sends once, cut off after [`Line::answer_max`]; `None` when a stop cut it off.
    async fn send(&self, row: &outbox::DueRow) -> Option<Result<(), SendError>> {
        match serde_json::from_str::<Message>(&row.body) {
            Ok(message) => self.in_time((self.line.send)(message)).await,
            Err(error) => {
                Some(Err(SendError::refused(format!("the message cannot be read: {error}"))))
            }
        }
    }

    async fn in_time(&self, sending: super::line::Sending) -> Option<Result<(), SendError>> {
        let limit = self.line.answer_max;
        tokio::select! {
            biased;
            sent = tokio::time::timeout(limit, sending) => Some(sent.unwrap_or_else(|_| {
                Err(SendError::passing(format!("no answer within {limit:?}")))
            })),
            () = self.signals.cut.cancelled() => None,
        }
    }

    async fn try_once(&self, row: outbox::DueRow) -> Tried {
        let Some(sent) = self.send(&row).await else { return Tried::CutOff };
        let age = clock::now().since(decided_at(&row.delivery));
        let id = row.id;
        let (what, why, tried) = match sent {
            Ok(()) => (What::Delivered, n_th(row.tries), Tried::Delivered),
            Err(error) if error.is_final => {
                (What::Refused, error.why, Tried::GivenUp(Outcome::Refused))
            }
            Err(error) if age > AGE_MAX => {
                (What::Expired, error.why, Tried::GivenUp(Outcome::Expired))
            }
            Err(error) => {
                if let Some(asked) = error.retry_after {
                    self.pause.extend(clock::instant() + asked.min(PAUSE_MAX));
                }
                let wait = self.pace.wait(row.tries, random(), error.retry_after, age);
                let due = clock::now().plus(wait);
                self.settle(move |tx| outbox::postpone(tx, id, due)).await;
                return Tried::Failed(error.why);
            }
        };
        let notice = self.notice(&row, what, &why);
        self.settle(move |tx| {
            outbox::delivered(tx, id)?;
            notices::add(tx, &notice)
        })
        .await;
        let (route, incident, delivery) = (&self.line.route, row.incident, row.delivery);
        if matches!(tried, Tried::Delivered) {
            tracing::info!(route, incident, delivery, "notification delivered");
        } else {
            tracing::error!(route, incident, delivery, reason = why, "notification given up");
        }
        tried
    }

    /// Writes down how a try ended, again and again until the store takes it: a message that arrived
    /// and is not forgotten would be sent again. The row is busy as long.
    async fn settle(
        &self,
        write: impl Fn(&WriteTx<'_>) -> ReadResult<()> + Clone + Send + 'static,
    ) {
        let mut is_said = false;
        while let Err(error) = self.store.write(write.clone()).await {
            if !std::mem::replace(&mut is_said, true) {
                let (route, error) = (&self.line.route, errors::chain(&error));
                tracing::error!(route, error, "the outbox cannot be written");
            }
            tokio::time::sleep(SETTLE_AGAIN).await;
        }
    }

    /// Tells again all that is not over.
    async fn repeat(&self, again: &Again) -> Tried {
        let route = self.line.route.clone();
        let told = match self.store.read(move |conn| outbox::told_on(conn, &route)).await {
            Ok(told) => told,
            Err(error) => return Tried::Repeated(Err(errors::chain(&error))),
        };
        if told.is_empty() {
            return Tried::Idle;
        }
        let sent = self.in_time(again(told)).await;
        sent.map_or(Tried::CutOff, |sent| Tried::Repeated(sent.map_err(|error| error.why)))
    }

    fn notice(&self, row: &outbox::DueRow, what: What, why: &str) -> Notice {
        let event = serde_json::from_str::<Message>(&row.body).map(|message| message.event.name());
        Notice {
            at: clock::now(),
            incident: Some(row.incident.clone()).filter(|id| !id.is_empty()),
            route: self.line.route.clone(),
            event: event.unwrap_or("opened").to_owned(),
            what,
            why: why.to_owned(),
            delivery: Some(row.delivery.clone()),
        }
    }

    /// Counts, and logs a failing route once when it begins and once when all that failed has arrived.
    fn account(&self, id: i64, tried: Tried, shift: &mut Shift) {
        shift.busy.remove(&id);
        let (route, to) = (&self.line.route, &self.line.to);
        let failed = match tried {
            Tried::Delivered => {
                self.stats.count(route, Outcome::Delivered);
                None
            }
            Tried::GivenUp(outcome) => {
                self.stats.count(route, outcome);
                return shift.forget(id);
            }
            Tried::Failed(why) => {
                self.stats.count(route, Outcome::Failed);
                Some(why)
            }
            Tried::Idle | Tried::CutOff => return shift.forget(id),
            Tried::Repeated(Ok(())) => None,
            Tried::Repeated(Err(why)) => Some(why),
        };
        match failed {
            None => {
                shift.failing.remove(&id);
                if shift.failing.is_empty() && std::mem::take(&mut shift.is_failing) {
                    tracing::info!(route, to, "notifications arrive again");
                }
            }
            Some(reason) => {
                self.stats.failed(route, clock::now(), &reason);
                shift.failing.insert(id);
                if !std::mem::replace(&mut shift.is_failing, true) {
                    let what = "notifications do not arrive, trying again until they do";
                    tracing::warn!(route, to, reason, "{what}");
                }
            }
        }
    }
}

/// Waits for the next change; for ever once there will be none.
async fn changed(decided: &mut watch::Receiver<()>) {
    if decided.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// At which try it arrived; nothing for the first.
fn n_th(tries: u32) -> String {
    if tries == 0 { String::new() } else { format!("at try {}", u64::from(tries) + 1) }
}

/// The time in a delivery's ULID.
fn decided_at(delivery: &str) -> UnixMillis {
    let ms = Ulid::from_string(delivery).map_or(u64::MAX, |delivery| delivery.timestamp_ms());
    UnixMillis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Uniform over 0..1; 1 when the system has no random bytes.
fn random() -> f64 {
    ca::random::<4>()
        .map_or(1.0, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
