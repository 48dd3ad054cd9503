//! Many agents at once: under full load, at rest, and coming back after a restart.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gatewatch_collector::clock;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant as Deadline, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::agents::{Agent, Card, Failed, cards, now_s};
use crate::cost::{cpu_s, rss_kib};
use crate::values::{Dice, SERIES};

/// Agents that shake hands at the same time, where nothing is said about it.
const JOINING: usize = 100;
/// Time between heartbeats, and between batches, of an agent at rest.
const HEARTBEAT: Duration = Duration::from_secs(5);
const BATCH: Duration = Duration::from_secs(10);
/// Under load each batch has a second of its own: they begin so long ago, that all are of the past.
const AGO_S: i64 = 3300;
/// Tries of one agent to come back, and the pause between them.
const TRIES: usize = 20;
const RETRY: Duration = Duration::from_millis(500);

/// Which agents, of which collector.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) cards: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) n: usize,
    pub(crate) n_sites: u32,
    /// The collector's process.
    pub(crate) pid: u32,
}

/// What agents under full load send.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Ticks of a batch, a second apart.
    pub(crate) n_ticks: i64,
    /// Batches of an agent on their way.
    pub(crate) in_flight: usize,
}

/// What the agents count.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) n_acked: AtomicU64,
    is_measuring: AtomicBool,
    waits_ms: Mutex<Vec<f64>>,
    n_lost: AtomicUsize,
    /// Why the first one was.
    why: OnceLock<String>,
}

impl Tally {
    /// Counts batches whose answer came after these waits.
    pub(crate) fn acked(&self, waits: &[Duration]) {
        self.n_acked.fetch_add(waits.len() as u64, Ordering::Relaxed);
        if self.is_measuring.load(Ordering::Relaxed) {
            let mut all = self.waits_ms.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(waits.iter().map(|wait| wait.as_secs_f64() * 1000.0));
        }
    }

    /// Counts a connection that ended too early.
    pub(crate) fn lost(&self, why: &Failed) {
        self.why.get_or_init(|| format!("{why:?}"));
        self.n_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets it run for a while, then measures: batches, their values, processor time of the server, waits.
    pub(crate) async fn measure(
        &self,
        warm: Duration,
        span: Duration,
        pid: u32,
        n_ticks: i64,
    ) -> Value {
        tokio::time::sleep(warm).await;
        self.is_measuring.store(true, Ordering::Relaxed);
        let (began, cpu) = (clock::instant(), cpu_s(pid));
        let n = self.n_acked.load(Ordering::Relaxed);
        tokio::time::sleep(span).await;
        let n = self.n_acked.load(Ordering::Relaxed) - n;
        let (cpu, seconds) = (cpu_s(pid) - cpu, began.elapsed().as_secs_f64());
        self.is_measuring.store(false, Ordering::Relaxed);
        let mut waits = self.waits_ms.lock().unwrap_or_else(PoisonError::into_inner);
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied();
        json!({
            "n_batches": n, "n_values": n * SERIES.len() as u64 * n_ticks as u64, "seconds": seconds, "cpu_s": cpu,
            "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": waits.last(),
            "rss_kib": rss_kib(pid), "n_lost": self.n_lost.load(Ordering::Relaxed),
            "lost_why": self.why.get(),
        })
    }
}

impl Fleet {
    /// All join, some at a time; the first error ends it.
    async fn join(&self, cards: Vec<Card>) -> Result<Vec<Agent>, Failed> {
        let turns = Arc::new(Semaphore::new(JOINING));
        let mut joining = JoinSet::new();
        for card in cards {
            let (turns, address, n_sites) = (Arc::clone(&turns), self.address, self.n_sites);
            joining.spawn(async move {
                let _turn = turns.acquire().await?;
                Agent::join(card, address, n_sites).await
            });
        }
        joining.join_all().await.into_iter().collect()
    }

    /// Each sends batch after batch, so many at once on their way.
    pub(crate) async fn load(
        &self,
        Load { n_ticks, in_flight }: Load,
        warm: Duration,
        span: Duration,
    ) -> Result<Value, Failed> {
        let agents = self.join(cards(&self.cards, 0, self.n)?).await?;
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let mut running = JoinSet::new();
        for mut agent in agents {
            let (of_all, tally, stop) = (Arc::clone(&tally), Arc::clone(&tally), stop.clone());
            let stopped = stop.clone();
            let push = async move {
                let mut second = now_s() - AGO_S;
                loop {
                    while agent.n_waiting() < in_flight {
                        agent.send(second + 1..=second + n_ticks, false).await?;
                        second += n_ticks;
                    }
                    tally.acked(&agent.acked().await?);
                    if stopped.is_cancelled() {
                        return Ok(());
                    }
                }
            };
            spawn(&mut running, stop, of_all, push);
        }
        let measured = tally.measure(warm, span, self.pid, n_ticks).await;
        stop.cancel();
        running.join_all().await;
        Ok(measured)
    }

    /// Each sends a tick each ten seconds and a heartbeat each five; first so many agents, then more.
    pub(crate) async fn rest(&self, steps: &[usize], settle: Duration) -> Result<Value, Failed> {
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let mut running = JoinSet::new();
        let mut n_there = 0;
        let mut measured = vec![json!({"n": 0, "rss_kib": rss_kib(self.pid)})];
        for n in steps.iter().copied() {
            let agents = self.join(cards(&self.cards, n_there, n - n_there)?).await?;
            n_there = n;
            for agent in agents {
                let live = live(agent, Arc::clone(&tally));
                spawn(&mut running, stop.clone(), Arc::clone(&tally), live);
            }
            let mut step = tally.measure(settle, settle, self.pid, 1).await;
            step["n"] = n.into();
            measured.push(step);
        }
        stop.cancel();
        running.join_all().await;
        Ok(measured.into())
    }

    /// All come back within `jitter`, as after a restart; until each has a batch acked.
    pub(crate) async fn come_back(&self, jitter: Duration) -> Result<Value, Failed> {
        let all = cards(&self.cards, 0, self.n)?;
        let refused = Arc::new(AtomicUsize::new(0));
        let (began, cpu) = (clock::instant(), cpu_s(self.pid));
        let mut dice = Dice::new(7);
        let mut running = JoinSet::new();
        for card in all {
            let due = Deadline::now() + jitter.mul_f64(dice.share());
            let (address, n_sites, refused) = (self.address, self.n_sites, Arc::clone(&refused));
            running.spawn(async move {
                sleep_until(due).await;
                for _ in 0..TRIES {
                    match back(card.clone(), address, n_sites).await {
                        Ok(agent) => return Some((agent, clock::instant())),
                        Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                    };
                    tokio::time::sleep(RETRY).await;
                }
                None
            });
        }
        let back: Vec<_> = running.join_all().await.into_iter().flatten().collect();
        let cpu = cpu_s(self.pid) - cpu;
        let last = back.iter().map(|(_, at)| at.duration_since(began)).max();
        Ok(json!({
            "n_back": back.len(), "n_refused": refused.load(Ordering::Relaxed), "cpu_s": cpu,
            "cpu_all_s": cpu_s(self.pid),
            "seconds": last.map(|last| last.as_secs_f64()), "rss_kib": rss_kib(self.pid),
        }))
    }

    /// Alone at the collector: how long a tick waits for its ack, without and with a gateway error.
    pub(crate) async fn alone(&self, n: usize) -> Result<Value, Failed> {
        let agents = self.join(cards(&self.cards, 0, 1)?).await?;
        let mut agent = agents.into_iter().next().ok_or("no agent")?;
        let mut waits = [Vec::new(), Vec::new()];
        for no in 0..2 * n as i64 {
            let is_urgent = no % 2 == 1;
            let second = now_s() - AGO_S + no;
            agent.send(second..=second, is_urgent).await?;
            let waited = agent.settled().await?.into_iter().map(|wait| wait.as_secs_f64() * 1000.0);
            waits[usize::from(is_urgent)].extend(waited);
        }
        let half = |waits: &mut Vec<f64>| {
            waits.sort_by(f64::total_cmp);
            waits.get(waits.len() / 2).copied()
        };
        let [calm, urgent] = &mut waits;
        Ok(json!({"calm_ms": half(calm), "urgent_ms": half(urgent)}))
    }
}

fn spawn(
    running: &mut JoinSet<()>,
    stop: CancellationToken,
    tally: Arc<Tally>,
    work: impl Future<Output = Result<(), Failed>> + Send + 'static,
) {
    running.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // Cancel-safe: it is not continued.
            ended = work => if let Err(why) = ended { tally.lost(&why) },
        }
    });
}

/// An agent with nothing special.
async fn live(mut agent: Agent, tally: Arc<Tally>) -> Result<(), Failed> {
    let mut dice = Dice::new(agent.server() ^ 0x5eed);
    let begin = |span: Duration, share: f64| {
        let mut turns = tokio::time::interval_at(Deadline::now() + span.mul_f64(share), span);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        turns
    };
    let (mut batches, mut beats) = (begin(BATCH, dice.share()), begin(HEARTBEAT, dice.share()));
    loop {
        tokio::select! {
            // Cancel-safe: a turn that is not taken is due at once.
            _ = batches.tick() => agent.send_now().await?,
            // Cancel-safe: the same.
            _ = beats.tick() => agent.beat().await?,
            // Cancel-safe: a half-read message stays in the stream's buffer.
            waits = agent.acked(), if agent.n_waiting() > 0 => tally.acked(&waits?),
        }
    }
}

async fn back(card: Card, address: SocketAddr, n_sites: u32) -> Result<Agent, Failed> {
    let mut agent = Agent::join(card, address, n_sites).await?;
    agent.send_now().await?;
    agent.settled().await?;
    Ok(agent)
}
