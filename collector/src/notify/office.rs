//! A clerk on a real store and simulated time, for tests.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::clerk::Clerk;
use super::message::Message;
use super::route::Route;
use crate::config::NotifyConfig;
use crate::model::{Incident, Notify, NotifyEvent, Transition, TransitionEvent};
use crate::samples::{self, START};
use crate::store::silences::{self, Silence};
use crate::store::{Store, incidents, notices, outbox};

pub(super) const SILENCE: &str = "01JSILENCE";

pub(super) fn route(name: &str, change: impl FnOnce(&mut NotifyConfig)) -> Route {
    let mut config = NotifyConfig {
        kind: "webhook".into(),
        name: Some(name.to_owned()),
        timezone: Some("UTC".into()),
        ..NotifyConfig::default()
    };
    change(&mut config);
    Route::new(&config, 0).expect("it is a route")
}

pub(super) fn ops() -> Route {
    route("ops", |_| ())
}

pub(super) fn at(second: i64) -> UnixMillis {
    UnixMillis(START.0 + second * 1000)
}

pub(super) fn incident(id: &str) -> Incident {
    Incident { id: id.to_owned(), ..samples::incident() }
}

pub(super) fn over(incident: Incident, second: i64) -> Incident {
    Incident { state: "resolved".into(), resolved_at: Some(at(second)), ..incident }
}

/// A store, a clerk and the time, seconds since the sample incident began.
pub(super) struct Office {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) clerk: Clerk,
    pub(super) routes: Vec<Route>,
    pub(super) now: i64,
    pub(super) revs: BTreeMap<String, u64>,
}

impl Office {
    pub(super) fn new(routes: &[Route]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let clerk = Clerk::new(store.clone(), routes.to_vec());
        Self { dir, store, clerk, routes: routes.to_vec(), now: 10, revs: BTreeMap::new() }
    }

    /// The detector stores a revision, and may ask for a page that is due so many seconds later.
    pub(super) async fn commit(&mut self, incident: &Incident, page: Option<(NotifyEvent, i64)>) {
        let rev = self.revs.entry(incident.id.clone()).or_default();
        *rev += 1;
        let now = self.now;
        let transition = Transition {
            event: TransitionEvent::Update,
            at: at(now),
            key: incident.id.clone(),
            rev: *rev,
            incident: incident.clone(),
            sites: Vec::new(),
            servers: Vec::new(),
            notify: page.map(|(event, wait)| Notify { event, due: at(now + wait) }),
        };
        let write = self.store.write(move |tx| incidents::commit(tx, &[transition], b"", 0));
        write.await.unwrap();
    }

    /// The same, asked for now, and decided.
    pub(super) async fn page(&mut self, incident: &Incident, event: NotifyEvent) {
        self.commit(incident, Some((event, 0))).await;
        self.turn(0).await;
    }

    /// Time passes, then the clerk looks at everything.
    pub(super) async fn turn(&mut self, seconds: i64) {
        self.now += seconds;
        self.clerk.turn(at(self.now), true).await.unwrap();
    }

    pub(super) async fn silence(&self, matches: &[(&str, &str)], from: i64, until: i64) {
        let matches = matches.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let silence = Silence {
            id: SILENCE.into(),
            matches,
            starts_at: at(from),
            ends_at: at(until),
            reason: "kernel upgrade".into(),
            by: "ada".into(),
            made_at: at(from),
            ended_at: None,
            ended_by: None,
        };
        self.store.write(move |tx| silences::add(tx, &silence)).await.unwrap();
    }

    pub(super) async fn ack(&self, id: &str) {
        let (id, now) = (id.to_owned(), at(self.now));
        assert!(self.store.write(move |tx| incidents::ack(tx, &id, "ada", now)).await.unwrap());
    }

    /// Messages in the outbox, oldest first.
    pub(super) async fn messages(&self) -> Vec<(String, Message)> {
        let read = |conn: &crate::store::Conn| {
            let mut query = conn.prepare("SELECT route, body FROM outbox ORDER BY id")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<Result<Vec<(String, String)>, _>>()
        };
        let rows = self.store.read(read).await.unwrap();
        rows.into_iter()
            .map(|(route, body)| (route, serde_json::from_str(&body).unwrap()))
            .collect()
    }

    /// The same in words.
    pub(super) async fn told(&self) -> Vec<String> {
        let messages = self.messages().await;
        messages
            .iter()
            .map(|(route, m)| format!("{route} {}: {}", m.event.name(), m.reason))
            .collect()
    }

    /// The notify log in words.
    pub(super) async fn log(&self) -> Vec<String> {
        let lines = self.store.read(|conn| notices::list(conn, &notices::Filter::default()));
        let line = |n: &notices::Notice| {
            let what = serde_json::to_value(n.what).unwrap();
            format!("{} {} {}: {}", n.route, n.event, what.as_str().unwrap_or_default(), n.why)
        };
        lines.await.unwrap().iter().map(line).collect()
    }

    pub(super) async fn timeline(&self, id: &str) -> Vec<String> {
        let id = id.to_owned();
        let found = self.store.read(move |conn| incidents::get(conn, &id)).await.unwrap();
        found.expect("it is stored").timeline.into_iter().map(|moment| moment.what).collect()
    }

    pub(super) async fn n_held(&self) -> usize {
        self.store.read(outbox::held).await.unwrap().len()
    }

    /// The collector starts again.
    pub(super) fn restart(self) -> Self {
        let Self { dir, store, clerk, routes, now, revs } = self;
        drop((store, clerk));
        let store = Store::open(dir.path()).unwrap();
        let clerk = Clerk::new(store.clone(), routes.clone());
        Self { dir, store, clerk, routes, now, revs }
    }
}
