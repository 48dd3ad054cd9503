//! Whom a report is about, and what is missing in it.

use std::sync::Mutex;

use super::*;
use crate::clock;
use crate::store::fleet;
use crate::store::history::Hole;

/// A store of three servers; web-1 and web-2 are in rack r1, web-3 in none.
async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    crate::store::tests::enrol(&store, 3).await;
    let label = |tx: &crate::store::WriteTx<'_>| {
        for (server, key, value) in
            [("web-1", "rack", "r1"), ("web-2", "rack", "r1"), ("web-2", "customer", "acme")]
        {
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            fleet::label(tx, server, &labels)?;
        }
        Ok(())
    };
    store.write(label).await.unwrap();
    (dir, store)
}

async fn refused(desk: &Desk, wanted: Wanted) -> (String, String) {
    match desk.make(desk.ask(), &wanted, clock::now(), |_| ()).await {
        Err(ReportError::Refused(refusal)) => (refusal.what, refusal.fix),
        other => panic!("{other:?}"),
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[tokio::test]
async fn who_is_not_there_is_refused_with_names_that_are_near() {
    let (_dir, store) = store().await;
    let desk = Desk::new(store.clone(), ReportConfig::default());
    let of = || Wanted::of(Kind::Noise);
    for (wanted, what, fix) in [
        (
            Wanted { server: Some("web-11".into()), ..of() },
            "there is no server \"web-11\"",
            "did you mean \"web-1\"",
        ),
        (
            Wanted { server: Some("mail.elsewhere".into()), ..of() },
            "there is no server \"mail.elsewhere\"",
            "`gatewatch-collector agent list` shows what there is",
        ),
        (
            Wanted { labels: labels(&[("custmer", "acme")]), ..of() },
            "no server has a label \"custmer\"",
            "did you mean \"customer\"?",
        ),
        (
            Wanted { labels: labels(&[("rack", "r7")]), ..of() },
            "no server has rack=r7",
            "did you mean \"r1\"?",
        ),
        (
            Wanted { labels: labels(&[("rack", "r1")]), server: Some("web-3".into()), ..of() },
            "no server has all of that at once",
            "ask for fewer labels",
        ),
        (
            Wanted { by: vec!["rak".into()], ..of() },
            "no server has a label \"rak\"",
            "did you mean \"rack\"?",
        ),
    ] {
        let (told, mended) = refused(&desk, wanted).await;
        assert_eq!(told, what);
        assert!(mended.starts_with(fix), "{what}: {mended}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_fleet_without_servers_says_how_one_joins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let desk = Desk::new(store.clone(), ReportConfig::default());
    let (told, fix) = refused(&desk, Wanted::of(Kind::Capacity)).await;
    assert_eq!(told, "no server has joined yet");
    assert!(fix.contains("token create"), "{fix}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn every_kind_is_made_of_servers_that_sent_nothing() {
    let (_dir, store) = store().await;
    let desk = Desk::new(store.clone(), ReportConfig::default());
    for kind in Kind::ALL {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let progress = move |step: Progress| seen.lock().unwrap().push(step);
        let made = desk.make(desk.ask(), &Wanted::of(kind), clock::now(), progress).await.unwrap();
        assert_eq!(made.value.kind, kind);
        assert_eq!(made.notes, Notes::default());
        let steps = steps.lock().unwrap();
        assert_eq!(steps.last().unwrap(), &Progress { what: "computes", n_done: 1, n: 1 });
        assert!(steps.iter().all(|step| step.n_done <= step.n), "{steps:?}");
        assert_eq!(desk.ask().n_before, 0, "who was served stands there no longer");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn reports_are_made_one_after_the_other_and_who_left_keeps_nobody_waiting() {
    let (_dir, store) = store().await;
    let desk = Desk::new(store.clone(), ReportConfig::default());
    let turn = Arc::clone(&desk.turns).acquire_owned().await.unwrap();
    let (first, second) = (desk.ask(), desk.ask());
    assert_eq!((first.n_before, second.n_before), (0, 1));
    let (of_first, wanted) = (desk.clone(), Wanted::of(Kind::Outage));
    let waiting =
        tokio::spawn(async move { of_first.make(first, &wanted, clock::now(), |_| ()).await });
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(desk.ask().n_before, 1, "the second one alone");
    drop(turn);
    desk.make(second, &Wanted::of(Kind::Outage), clock::now(), |_| ()).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_a_report_is_read_ends_the_reading_and_gives_the_turn_back() {
    let (_dir, store) = store().await;
    let desk = Desk::new(store.clone(), ReportConfig::default());
    let (begin, begun) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let n_steps = Arc::new(AtomicUsize::new(0));
    let n = Arc::clone(&n_steps);
    // The first step lasts until the asker has left.
    let progress = move |_: Progress| {
        if n.fetch_add(1, Ordering::Relaxed) == 0 {
            begin.send(()).unwrap();
            left.recv().unwrap();
        }
    };
    let (of_asker, place) = (desk.clone(), desk.ask());
    let making = tokio::spawn(async move {
        of_asker.make(place, &Wanted::of(Kind::Capacity), clock::now(), progress).await
    });
    tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    leave.send(()).unwrap();
    let wanted = Wanted::of(Kind::Noise);
    let next = desk.make(desk.ask(), &wanted, clock::now(), |_| ());
    tokio::time::timeout(Duration::from_secs(60), next).await.unwrap().unwrap();
    let n = n_steps.load(Ordering::Relaxed);
    assert!(n <= 2, "{n} steps were taken for nobody");
    store.close().await.unwrap();
}

#[test]
fn what_is_missing_is_told_in_sentences() {
    let hole = |hour: i64, server: Option<&str>| Hole {
        from: UnixMillis(1_795_176_000_000 + hour * 3_600_000),
        to: UnixMillis(1_795_176_000_000 + (hour + 1) * 3_600_000),
        server: server.map(str::to_owned),
        why: "damaged".into(),
    };
    let notes = Notes {
        cut: None,
        holes: (0..25).map(|hour| hole(hour * 2, (hour == 0).then_some("web-1"))).collect(),
        n_batches_unreadable: 3,
    };
    let told = caveats(&notes);
    assert_eq!(told.len(), HOLES_TOLD + 2);
    assert_eq!(
        told[0],
        "History of web-1 from 2026-11-20 12:00 UTC to 2026-11-20 13:00 UTC is damaged: what only it \
         has is not in these figures."
    );
    assert!(told[1].starts_with("History of all servers from "), "{}", told[1]);
    assert_eq!(told[20], "So is history of 5 more times.");
    assert_eq!(told[21], "3 stored batches cannot be read: what they hold is missing here.");
}
