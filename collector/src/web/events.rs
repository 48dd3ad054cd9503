//! `GET /api/v1/stream`: server-sent events, one for each change of an incident.
//!
//! `event:` is `open` for each incident that is open when the stream begins, then `opened`,
//! `updated` or `resolved`; `data:` is the incident. Every 15 s a comment keeps the line alive.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::AppState;
use super::error::ApiError;
use crate::model::Incident;
use crate::store::follow::{self, Mark};
use crate::store::{Store, StoreError, incidents};
use crate::{clock, errors};

/// How often a stream looks for changes: the most a follower lags behind the store.
const LOOK: Duration = Duration::from_millis(250);

/// Incidents that ended longer ago are not looked at: they change no more than by a note.
const CLOSED_KEPT: Duration = Duration::from_secs(3600);

/// Events waiting for a slow reader; when full, looking waits, so changes are told together later.
const WAITING_MAX: usize = 64;

/// Followers served at once, so that forgotten ones cannot use up the machine.
pub(super) const STREAMS_MAX: usize = 64;

/// Opens a stream; ends with the collector.
pub(super) async fn stream(
    State(state): State<AppState>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = state.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            format!("{STREAMS_MAX} streams are open"),
            "close one, or ask /api/v1/incidents now and then",
        )
    })?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let _place = place;
        let follow = Follower { store: state.store, known: BTreeMap::new(), sender };
        tokio::select! {
            biased;
            () = state.stop.cancelled() => {}
            // Not cancelled but ended: by the reader going away.
            () = follow.run() => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()))
}

struct Follower {
    store: Store,
    known: BTreeMap<String, Mark>,
    sender: mpsc::Sender<Result<Event, Infallible>>,
}

impl Follower {
    async fn run(mut self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut first, mut failing) = (true, false);
        while !self.sender.is_closed() {
            look.tick().await;
            match self.look(first).await {
                Ok(true) => (first, failing) = (false, false),
                Ok(false) => return,
                Err(error) => {
                    if !failing {
                        tracing::error!(error = %errors::chain(&error), "incidents cannot be read");
                    }
                    failing = true;
                }
            }
        }
    }

    /// Tells what changed; false when nobody listens any more.
    async fn look(&mut self, first: bool) -> Result<bool, StoreError> {
        let closed_after = clock::now().minus(CLOSED_KEPT);
        let marks = self.store.read(move |conn| follow::marks(conn, closed_after)).await?;
        let kept: BTreeSet<&str> = marks.iter().map(|mark| mark.id.as_str()).collect();
        self.known.retain(|id, _| kept.contains(id.as_str()));
        for mark in &marks {
            for event in changes(self.known.get(&mark.id), mark, first) {
                let id = mark.id.clone();
                let found = self.store.read(move |conn| incidents::shown(conn, &id)).await?;
                let incident = match found {
                    Ok(Some(incident)) => incident,
                    Ok(None) => continue,
                    Err(why) => {
                        tracing::error!(id = mark.id, why, "followers do not hear of an incident");
                        continue;
                    }
                };
                if self.sender.send(Ok(render(event, &incident))).await.is_err() {
                    return Ok(false);
                }
            }
            // What was told is not told again when another one cannot be read.
            self.known.insert(mark.id.clone(), mark.clone());
        }
        Ok(true)
    }
}

fn render(event: &'static str, incident: &Incident) -> Event {
    let json = serde_json::to_string(incident).expect("an incident is JSON");
    Event::default().event(event).data(json)
}

/// What to tell of an incident.
fn changes(known: Option<&Mark>, mark: &Mark, first: bool) -> Vec<&'static str> {
    match known {
        None if first && mark.open => vec!["open"],
        None if first => vec![],
        None if mark.open => vec!["opened"],
        None => vec!["opened", "resolved"],
        Some(before) if before == mark => vec![],
        Some(before) if before.open && !mark.open => vec!["resolved"],
        Some(before) if !before.open && mark.open => vec!["opened"],
        Some(_) => vec!["updated"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_incident_that_cannot_be_read_is_told_to_nobody_and_repeats_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let fill = |tx: &crate::store::WriteTx<'_>| {
            let whole = serde_json::to_string(&crate::samples::incident()).unwrap();
            for (n, body) in [whole.clone(), "{}".to_owned(), whole].iter().enumerate() {
                let sql =
                    "INSERT INTO incident(id, key, opened, rev, body) VALUES(?1, ?1, ?2, 1, ?3)";
                tx.execute(sql, (format!("I{n}"), n as i64, body))?;
            }
            Ok(())
        };
        store.write(fill).await.unwrap();
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        let mut follow = Follower { store, known: BTreeMap::new(), sender };
        assert!(follow.look(true).await.unwrap() && follow.look(false).await.unwrap());
        let mut n_told = 0;
        while receiver.try_recv().is_ok() {
            n_told += 1;
        }
        assert_eq!(n_told, 2, "each of the others once");
    }

    #[test]
    fn each_change_of_a_mark_is_told_once() {
        let mark = |id: &str, open, rev, n_notes| Mark {
            id: id.to_owned(),
            open,
            rev,
            acked_at: None,
            n_notes,
        };
        let mut known: BTreeMap<String, Mark> = BTreeMap::new();
        for (n, (now, expected)) in [
            (vec![mark("A", true, 1, 0), mark("Z", false, 9, 0)], "open A"),
            (vec![mark("A", true, 1, 0), mark("Z", false, 9, 0)], ""),
            (vec![mark("A", true, 2, 0), mark("B", true, 1, 0)], "updated A, opened B"),
            (vec![mark("A", false, 3, 0), mark("B", true, 1, 1)], "resolved A, updated B"),
            (vec![mark("A", true, 4, 0), mark("C", false, 2, 0)], "opened A, opened C, resolved C"),
        ]
        .into_iter()
        .enumerate()
        {
            let of = |mark: &Mark| {
                let events = changes(known.get(&mark.id), mark, n == 0).into_iter();
                events.map(|event| format!("{event} {}", mark.id)).collect::<Vec<_>>()
            };
            let told: Vec<String> = now.iter().flat_map(of).collect();
            assert_eq!(told.join(", "), expected);
            known = now.into_iter().map(|mark| (mark.id.clone(), mark)).collect();
        }
    }
}
