//! Tellers over lines of which each answer is known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::super::super::line::{Line, Sending};
use super::super::super::stats::Outcome;
use super::super::super::{Event, Message, SendError, Stats};
use super::super::{AGE_MAX, POLL, Pace, Pause, REPETITION, Shift, Signals, Teller, Tried, run};
use crate::model::Incident;
use crate::store::notices::{self, Filter, What};
use crate::store::{Store, WriteTx, outbox};
use crate::{ca, clock};

const QUICK: Pace = Pace { base: Duration::from_millis(4), cap: Duration::from_millis(8) };
const CUT_OFF: Duration = Duration::from_millis(300);

/// What a receiver does with a try.
pub(super) enum Answer {
    Takes,
    /// It may take it another time.
    Fails,
    /// It wants to be left alone for so long.
    Later(Duration),
    /// It will never take it.
    Refuses,
    Hangs,
}

/// One try as the receiver saw it.
#[derive(Clone, Debug)]
pub(super) struct Try {
    pub(super) incident: String,
    pub(super) event: Event,
    pub(super) at: Instant,
}

/// When it was told again, and of which incidents.
type Repetition = (Instant, Vec<String>);

#[derive(Clone, Default)]
struct Tries(Arc<Mutex<Vec<Try>>>);

impl Tries {
    fn all(&self) -> Vec<Try> {
        self.0.lock().unwrap().clone()
    }

    fn of(&self, incident: &str) -> Vec<Try> {
        self.all().into_iter().filter(|one| one.incident == incident).collect()
    }
}

/// A line whose receiver answers the n-th try of all, from 0, as `answer` says.
fn line(
    route: &str,
    answer: impl Fn(usize, &Try) -> Answer + Send + Sync + 'static,
) -> (Line, Tries) {
    let tries = Tries::default();
    let kept = tries.clone();
    let send = move |message: Message| -> Sending {
        let incident = message.incident.as_ref().map(|incident| incident.id.clone());
        let now = clock::instant();
        let one = Try { incident: incident.unwrap_or_default(), event: message.event, at: now };
        let answer = {
            let mut kept = kept.0.lock().unwrap();
            kept.push(one.clone());
            answer(kept.len() - 1, &one)
        };
        Box::pin(answered(answer))
    };
    let line = Line {
        route: route.to_owned(),
        to: "https://there".to_owned(),
        per_minute: 100_000,
        answer_max: CUT_OFF,
        send: Arc::new(send),
        again: None,
    };
    (line, tries)
}

pub(super) async fn answered(answer: Answer) -> Result<(), SendError> {
    let error = SendError::passing("no");
    match answer {
        Answer::Takes => Ok(()),
        Answer::Fails => Err(error),
        Answer::Later(span) => Err(SendError { retry_after: Some(span), ..error }),
        Answer::Refuses => Err(SendError { is_final: true, ..error }),
        Answer::Hangs => std::future::pending().await,
    }
}

/// Nobody says that something was decided, and nothing is cut off.
fn signals(stop: CancellationToken) -> Signals {
    let (_, decided) = watch::channel(());
    Signals { stop, cut: CancellationToken::new(), decided }
}

struct Desk {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Store::open(dir.path()).unwrap(), _dir: dir }
    }

    async fn owe(&self, route: &str, incident: &str, event: Event) {
        owe(&self.store, route, incident, event).await;
    }

    fn start(&self, lines: Vec<Line>, pace: Pace) -> Tellers {
        let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
        let signals = signals(stop.clone());
        let run = run(self.store.clone(), lines, pace, Arc::clone(&stats), signals);
        Tellers { task: tokio::spawn(run), stats, stop }
    }

    async fn n_owed(&self, route: &str) -> u64 {
        let owed = self.store.read(outbox::owed).await.unwrap();
        owed.iter().find(|owed| owed.route == route).map_or(0, |owed| owed.n)
    }

    async fn until_owed(&self, route: &str, n: u64) {
        for _ in 0..6000 {
            if self.n_owed(route).await == n {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{n} wanted, {} owed", self.n_owed(route).await);
    }

    /// What became of the messages of an incident, in order.
    async fn whats(&self, incident: &str) -> Vec<What> {
        let filter = Filter { incident: Some(incident.to_owned()), ..Filter::default() };
        let notices = self.store.read(move |conn| notices::list(conn, &filter)).await.unwrap();
        notices.into_iter().map(|notice| notice.what).collect()
    }
}

async fn owe(store: &Store, route: &str, incident: &str, event: Event) {
    let (now, route) = (clock::now(), route.to_owned());
    let incident = Incident { id: incident.to_owned(), ..crate::samples::incident() };
    let message = message(event, Some(incident.clone()), now);
    let body = serde_json::to_string(&message).unwrap();
    let write =
        store.write(move |tx| outbox::owe(tx, &incident.id, &route, now, &message.delivery, &body));
    write.await.unwrap();
}

/// Tellers at work.
struct Tellers {
    task: tokio::task::JoinHandle<()>,
    stats: Arc<Stats>,
    stop: CancellationToken,
}

impl Tellers {
    /// The counters at the end. A try is counted after the outbox has forgotten its message, so they
    /// are whole only then.
    async fn stop(self) -> Arc<Stats> {
        self.stop.cancel();
        self.task.await.unwrap();
        self.stats
    }
}

pub(super) fn message(event: Event, incident: Option<Incident>, at: wire::UnixMillis) -> Message {
    Message {
        event,
        delivery: ca::new_id(at).unwrap().to_string(),
        at,
        reason: "it began".to_owned(),
        incident,
        before: None,
        changed_back: None,
        digest: Vec::new(),
        report: None,
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it_from_its_whole_route_and_no_other() {
    let desk = Desk::new();
    let asked = Duration::from_millis(700);
    let (slow, tries) =
        line("slow", move |n, _| if n == 0 { Answer::Later(asked) } else { Answer::Takes });
    let (other, others) = line("other", |_, _| Answer::Takes);
    desk.owe("slow", "A", Event::Opened).await;
    let tellers = desk.start(vec![slow, other], QUICK);
    while tries.all().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    desk.owe("slow", "B", Event::Opened).await;
    desk.owe("other", "B", Event::Opened).await;
    desk.until_owed("slow", 0).await;
    desk.until_owed("other", 0).await;
    let tries = tries.all();
    let first = tries[0].at;
    assert_eq!(tries.len(), 3, "{tries:?}");
    assert!(tries[1..].iter().all(|one| one.at - first >= asked), "{tries:?}");
    assert_eq!(others.all().len(), 1);
    let counts = tellers.stop().await.by_route();
    assert_eq!((counts["slow"].n_delivered, counts["slow"].n_failed), (2, 1));
    assert_eq!((counts["other"].n_delivered, counts["other"].n_failed), (1, 0));
}

#[tokio::test]
async fn a_pause_that_a_receiver_asks_for_holds_while_a_busy_disk_writes_it_down() {
    let desk = Desk::new();
    let (mut line, tries) =
        line("r", move |n, _| if n == 0 { Answer::Later(POLL * 3) } else { Answer::Takes });
    let (send, store) = (Arc::clone(&line.send), desk.store.clone());
    let is_first = AtomicBool::new(true);
    let answered = Arc::new(std::sync::OnceLock::new());
    let answers = answered.clone();
    line.send = Arc::new(move |message| {
        let (sent, store, answers) = (send(message), store.clone(), answers.clone());
        let is_first = is_first.swap(false, Ordering::Relaxed);
        Box::pin(async move {
            if is_first {
                // More is owed by now, and the disk is busy for two looks into the outbox.
                owe(&store, "r", "B", Event::Opened).await;
                let (free, freed) = std::sync::mpsc::channel();
                let stall = move |_: &WriteTx<'_>| {
                    freed.recv().ok();
                    Ok(())
                };
                tokio::spawn(async move { store.write(stall).await });
                tokio::spawn(async move {
                    tokio::time::sleep(POLL * 2).await;
                    free.send(()).unwrap();
                });
                tokio::task::yield_now().await;
                answers.set(clock::instant()).unwrap();
            }
            sent.await
        })
    });
    desk.owe("r", "A", Event::Opened).await;
    let tellers = desk.start(vec![line], QUICK);
    desk.until_owed("r", 0).await;
    tellers.stop().await;
    let tries = tries.all();
    let first = tries[0].at;
    assert_eq!(tries.len(), 3, "{tries:?}");
    // A machine that stood still may have begun the second before the answer to the first.
    let answered = *answered.get().unwrap();
    let is_right = |at| at < answered || at - first >= POLL * 3;
    assert!(tries[1..].iter().all(|one| is_right(one.at)), "{answered:?} {tries:?}");
}

#[tokio::test]
async fn what_is_refused_for_good_is_given_up_at_once_and_the_next_of_its_incident_goes_on() {
    let desk = Desk::new();
    let (line, tries) =
        line(
            "r",
            |_, one| {
                if one.event == Event::Opened { Answer::Refuses } else { Answer::Takes }
            },
        );
    desk.owe("r", "A", Event::Opened).await;
    desk.owe("r", "A", Event::Resolved).await;
    let tellers = desk.start(vec![line], QUICK);
    desk.until_owed("r", 0).await;
    assert_eq!(tries.all().len(), 2);
    assert_eq!(desk.whats("A").await, [What::Refused, What::Delivered]);
    let stats = tellers.stop().await;
    assert_eq!(stats.n_refused.load(Ordering::Relaxed), 1);
    assert_eq!(stats.n_expired.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_is_cut_off_and_its_other_incidents_go_on_meanwhile() {
    let desk = Desk::new();
    let (line, tries) =
        line(
            "r",
            |n, one| {
                if one.incident == "A" && n == 0 { Answer::Hangs } else { Answer::Takes }
            },
        );
    for (incident, event) in [("A", Event::Opened), ("A", Event::Resolved), ("B", Event::Opened)] {
        desk.owe("r", incident, event).await;
    }
    let tellers = desk.start(vec![line], QUICK);
    desk.until_owed("r", 0).await;
    let of_a = tries.of("A");
    let events: Vec<Event> = of_a.iter().map(|one| one.event).collect();
    assert_eq!(events, [Event::Opened, Event::Opened, Event::Resolved]);
    assert!(of_a[1].at - of_a[0].at >= CUT_OFF);
    assert!(tries.of("B")[0].at < of_a[1].at, "it did not wait: {:?}", tries.all());
    assert_eq!(tellers.stop().await.n_failed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_receiver_that_answers_500_for_hundreds_of_tries_has_it_once_it_works_and_in_order() {
    let desk = Desk::new();
    let (line, tries) = line("r", |n, _| if n < 300 { Answer::Fails } else { Answer::Takes });
    for event in [Event::Opened, Event::Updated, Event::Resolved] {
        desk.owe("r", "A", event).await;
    }
    let pace = Pace { base: Duration::from_micros(100), cap: Duration::from_micros(200) };
    let tellers = desk.start(vec![line], pace);
    desk.until_owed("r", 0).await;
    let tries = tries.all();
    assert!(tries[..=300].iter().all(|one| one.event == Event::Opened));
    assert_eq!(
        tries[301..].iter().map(|one| one.event).collect::<Vec<_>>(),
        [Event::Updated, Event::Resolved]
    );
    assert_eq!(desk.whats("A").await, [What::Delivered; 3], "one line each");
    assert_eq!(tellers.stop().await.n_failed.load(Ordering::Relaxed), 300);
}

#[test]
fn an_hour_of_500_is_some_dozen_tries_and_no_pause_is_longer_than_five_minutes() {
    let pace = Pace::default();
    for random in [0.0, 0.1, 0.5, 1.0] {
        let (mut age, mut n_tries) = (Duration::ZERO, 0);
        while age < Duration::from_secs(3600) {
            let wait = pace.wait(n_tries, random, None, age);
            assert!(wait <= Duration::from_secs(300) && wait >= Duration::from_millis(100));
            age += wait;
            n_tries += 1;
        }
        if random >= 0.5 {
            assert!((12..=40).contains(&n_tries), "{n_tries} tries with {random}");
        }
    }
    // Not before it is asked for, but not beyond the end either.
    let (s, hour) = (Duration::from_secs, Duration::from_secs(3600));
    for (asked, age, expected) in [
        (Some(s(30)), s(0), s(30)),
        (None, s(0), s(1)),
        (Some(AGE_MAX * 30), hour, AGE_MAX.checked_sub(hour).unwrap()),
        (Some(hour), AGE_MAX, s(1)),
    ] {
        assert_eq!(pace.wait(0, 1.0, asked, age), expected, "{asked:?} at {age:?}");
    }
}

#[tokio::test]
async fn what_is_over_the_limit_of_a_minute_waits_and_beginnings_go_first() {
    let desk = Desk::new();
    let (mut line, tries) = line("r", |_, _| Answer::Takes);
    line.per_minute = 3;
    for (incident, event) in [
        ("A", Event::Updated),
        ("B", Event::Updated),
        ("C", Event::Opened),
        ("D", Event::Resolved),
        ("E", Event::Opened),
    ] {
        desk.owe("r", incident, event).await;
    }
    let tellers = desk.start(vec![line], QUICK);
    desk.until_owed("r", 2).await;
    // Some looks later there are still no more.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut incidents: Vec<String> = tries.all().into_iter().map(|one| one.incident).collect();
    incidents.sort();
    assert_eq!(incidents, ["C", "D", "E"]);
    assert_eq!(desk.n_owed("r").await, 2, "the others wait");
    tellers.stop().await;
}

#[tokio::test]
async fn a_receiver_that_forgets_is_told_again_what_is_not_over_and_never_what_is() {
    let desk = Desk::new();
    let open = |id: &str| Incident { id: id.to_owned(), ..crate::samples::incident() };
    let told = [open("A"), open("B")];
    let write = desk.store.write(move |tx| {
        for incident in &told {
            outbox::set_told(tx, incident, "r", clock::now())?;
        }
        Ok(())
    });
    write.await.unwrap();
    let (mut line, tries) = line("r", |_, _| Answer::Takes);
    let repeated: Arc<Mutex<Vec<Repetition>>> = Arc::default();
    let kept = Arc::clone(&repeated);
    let again = move |incidents: Vec<Incident>| -> Sending {
        let ids = incidents.into_iter().map(|incident| incident.id).collect();
        kept.lock().unwrap().push((clock::instant(), ids));
        Box::pin(answered(Answer::Takes))
    };
    line.again = Some((Duration::from_millis(50), Arc::new(again)));
    let tellers = desk.start(vec![line], QUICK);
    let until_n = async |n: usize| {
        while repeated.lock().unwrap().len() < n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until_n(3).await;
    // The clerk owes its end and forgets that it was told, in one transaction.
    let (now, over) = (clock::now(), message(Event::Resolved, Some(open("A")), clock::now()));
    let body = serde_json::to_string(&over).unwrap();
    let write = desk.store.write(move |tx| {
        outbox::owe(tx, "A", "r", now, &over.delivery, &body)?;
        outbox::forget_told(tx, "A", "r")
    });
    write.await.unwrap();
    let n = repeated.lock().unwrap().len() + 1; // one may have read before
    until_n(n + 2).await;
    desk.until_owed("r", 0).await;
    let repeated = repeated.lock().unwrap().clone();
    assert!(repeated[..3].iter().all(|(_, ids)| ids == &["A", "B"]), "{repeated:?}");
    assert!(repeated[n..].iter().all(|(_, ids)| ids == &["B"]), "{repeated:?}");
    let ended = tries.of("A")[0].at;
    let late = repeated.iter().find(|(at, ids)| *at > ended && ids.iter().any(|id| id == "A"));
    assert!(late.is_none(), "it is not told again after its end: {late:?} after {ended:?}");
    let n_delivered = tellers.stop().await.n_delivered.load(Ordering::Relaxed);
    assert_eq!(n_delivered, 1, "a repetition is no message");
}

/// Waits until the receiver has been told something.
async fn until_tried(tries: &Tries) {
    while tries.all().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_long_after_a_stop_is_waited_for_and_written_down() {
    let desk = Desk::new();
    let (mut line, tries) = line("r", |_, _| Answer::Takes);
    line.answer_max = Duration::from_secs(600);
    let answers = Arc::new(Notify::new());
    let (send, late) = (Arc::clone(&line.send), Arc::clone(&answers));
    line.send = Arc::new(move |message| {
        let (sent, late) = (send(message), Arc::clone(&late));
        Box::pin(async move {
            late.notified().await;
            sent.await
        })
    });
    desk.owe("r", "A", Event::Opened).await;
    let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
    let signals = signals(stop.clone());
    let cut = signals.cut.clone();
    let ended = tokio::spawn(run(desk.store.clone(), vec![line], QUICK, stats, signals));
    until_tried(&tries).await;
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(2500)).await; // longer than a stop waited once
    assert!(!ended.is_finished(), "it waits");
    answers.notify_one();
    ended.await.unwrap();
    assert!(!cut.is_cancelled());
    assert_eq!(desk.n_owed("r").await, 0, "the next start does not send it again");
    assert_eq!(desk.whats("A").await, [What::Delivered]);
}

#[tokio::test]
async fn what_has_no_answer_when_the_stop_is_over_is_owed_as_before() {
    let desk = Desk::new();
    let (mut line, tries) = line("r", |_, _| Answer::Hangs);
    line.answer_max = Duration::from_secs(600);
    desk.owe("r", "A", Event::Opened).await;
    let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
    let signals = signals(stop.clone());
    let cut = signals.cut.clone();
    let counts = Arc::clone(&stats);
    let ended = tokio::spawn(run(desk.store.clone(), vec![line], QUICK, stats, signals));
    until_tried(&tries).await;
    stop.cancel();
    cut.cancel();
    ended.await.unwrap();
    assert_eq!((desk.n_owed("r").await, tries.all().len()), (1, 1));
    assert_eq!(counts.n_failed.load(Ordering::Relaxed), 0, "it did not fail");
}

/// A teller that nobody runs.
fn teller(desk: &Desk, line: Line) -> Teller {
    let (store, stats) = (desk.store.clone(), Arc::new(Stats::default()));
    let signals = signals(CancellationToken::new());
    let pause = Pause::default();
    Teller { store, line, pace: QUICK, rest_max: POLL, pause, stats, signals }
}

#[tokio::test]
async fn a_failure_is_news_again_when_what_failed_before_has_nothing_to_tell_any_more() {
    let desk = Desk::new();
    let teller = teller(&desk, line("r", |_, _| Answer::Takes).0);
    let failed = || Tried::Repeated(Err("no answer".to_owned()));
    for (why, id, ended) in [
        ("all is over", REPETITION, Tried::Idle),
        ("a stop came", REPETITION, Tried::CutOff),
        ("it was given up", 7, Tried::GivenUp(Outcome::Refused)),
    ] {
        let mut shift = Shift::new(9);
        teller.account(id, failed(), &mut shift);
        assert!(shift.is_failing, "{why}");
        teller.account(8, failed(), &mut shift);
        teller.account(id, ended, &mut shift);
        assert!(shift.is_failing, "{why}: another one fails on");
        teller.account(8, Tried::Idle, &mut shift);
        assert!(!shift.is_failing, "{why}: the next failure is logged");
    }
    let error = teller.stats.by_route()["r"].last_error.clone();
    assert_eq!(error.map(|(_, why)| why).as_deref(), Some("no answer"));
}

#[tokio::test]
async fn a_route_rests_until_its_next_message_is_due_and_is_woken_by_a_decision() {
    let desk = Desk::new();
    let (line, tries) = line("r", |_, _| Answer::Hangs);
    let mut teller = teller(&desk, line);
    let (mut shift, hour) = (Shift::new(9), Duration::from_secs(3600));
    assert_eq!(teller.begin(&mut shift).await, POLL, "nothing is owed");
    desk.owe("r", "A", Event::Opened).await;
    assert_eq!(teller.begin(&mut shift).await, POLL, "it is on its way, and nothing else is owed");
    let body = String::new();
    let later = clock::now().plus(hour);
    let write = desk.store.write(move |tx| {
        outbox::owe(tx, "B", "r", later, "D", &body)?;
        // It failed once: what is due so late without a try is taken for a clock that was set back.
        tx.execute("UPDATE outbox SET tries = 1 WHERE incident = 'B'", [])
    });
    write.await.unwrap();
    teller.rest_max = hour * 2;
    let rest = teller.begin(&mut shift).await;
    assert!(rest <= hour && rest > hour / 2, "{rest:?}");
    drop(shift);

    // From here on only a decision wakes it.
    let (told, decided) = watch::channel(());
    teller.signals.decided = decided;
    let stop = teller.signals.stop.clone();
    let before = tries.all().len();
    let ended = tokio::spawn(teller.run());
    while tries.all().len() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..3 {
        desk.owe("r", &format!("C{n}"), Event::Opened).await;
        told.send_replace(());
        while tries.of(&format!("C{n}")).is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    stop.cancel();
    ended.abort();
}
