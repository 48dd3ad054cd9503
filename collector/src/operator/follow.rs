//! `incident follow`: prints changes until Ctrl-C, through restarts of the collector.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, Failure};
use super::{print, render, say};
use crate::clock;
use crate::model::Incident;

/// Pause before asking a collector again that went away.
const RETRY: Duration = Duration::from_secs(1);

/// Largest event taken: an incident names at most 1,000 sites.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Prints until SIGINT or SIGTERM. An unreachable collector is an error at first, later a pause.
pub(super) async fn follow(client: &Client, json: bool) -> Result<(), Failure> {
    let stop = async {
        let terminated = async {
            match signal(SignalKind::terminate()) {
                Ok(mut signal) => signal.recv().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            // Both only end here, so there is nothing to lose.
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated => {}
        }
    };
    tokio::select! {
        biased;
        () = stop => Ok(()),
        // Cancelled at the end only; what was read is printed.
        failed = listen(client, json) => failed,
    }
}

async fn listen(client: &Client, json: bool) -> Result<(), Failure> {
    let mut heard = BTreeMap::new();
    let mut response = client.stream(&["stream"]).await?;
    loop {
        let mut events = Events::default();
        while let Ok(Some(chunk)) = response.chunk().await {
            for (event, incident) in events.push(&chunk) {
                let gist = Gist::of(&incident);
                let known = heard.insert(incident.id.clone(), gist.clone());
                let same = known.is_some_and(|known| known == gist);
                // After a reconnect all open ones come again; numbers alone are news only to programs.
                if !(same && (event == "open" || event == "updated" && !json)) {
                    tell(&event, &incident, json)?;
                }
            }
        }
        say("the collector went away; waiting for it");
        response = loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(response) = client.stream(&["stream"]).await {
                break response;
            }
        };
        say("the collector is back");
    }
}

/// What makes an update news to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gist {
    title: String,
    severity: String,
    parent: Option<String>,
    n_moments: usize,
}

impl Gist {
    fn of(incident: &Incident) -> Self {
        Self {
            title: incident.title.clone(),
            severity: incident.severity.clone(),
            parent: incident.parent.clone(),
            n_moments: incident.timeline.len(),
        }
    }
}

fn tell(event: &str, incident: &Incident, json: bool) -> Result<(), Failure> {
    let line = if json {
        json!({ "event": event, "incident": incident }).to_string()
    } else {
        render::change(event, incident, clock::now())
    };
    print(&format!("{line}\n"))
}

/// Puts server-sent events together from the pieces they arrive in.
#[derive(Debug, Default)]
struct Events {
    bytes: Vec<u8>,
}

impl Events {
    /// The events that this piece completes; what is no incident is left out.
    fn push(&mut self, piece: &[u8]) -> Vec<(String, Incident)> {
        self.bytes.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
            events.extend(parse(&String::from_utf8_lossy(&event)));
        }
        if self.bytes.len() > EVENT_BYTES_MAX {
            self.bytes.clear();
        }
        events
    }
}

fn parse(event: &str) -> Option<(String, Incident)> {
    let field = |name: &str| {
        event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let incident = serde_json::from_str(field("data")?).ok()?;
    Some((field("event")?.to_owned(), incident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let data = serde_json::to_string(&crate::samples::incident()).unwrap();
        let stream = format!(
            ": alive\n\nevent: opened\ndata: {data}\n\nevent: x\ndata: nonsense\n\nevent: resolved\ndata: {data}\n\n"
        );
        for size in [1, 7, 1000, 100_000] {
            let mut events = Events::default();
            let heard: Vec<(String, Incident)> =
                stream.as_bytes().chunks(size).flat_map(|piece| events.push(piece)).collect();
            let names: Vec<&str> = heard.iter().map(|(event, _)| event.as_str()).collect();
            assert_eq!(names, ["opened", "resolved"], "pieces of {size}");
            assert_eq!(heard[0].1, crate::samples::incident());
        }
    }
}
