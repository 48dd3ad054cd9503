//! The operator commands: ask the collector, print the answer. stdout is data, stderr is talk.

pub mod client;
mod follow;
mod render;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};

use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use crate::cli::{AgentCommand, IncidentCommand, IncidentList, TokenCommand, TokenCreate, exit};
use crate::clock;
use crate::model::Incident;
use crate::store::fleet::{ServerDetail, ServerView};
use crate::store::tokens::TokenView;
use crate::web::api::{AckRequest, IncidentQuery, NewToken, NoteRequest, TokenRequest};
use client::{Client, Failure};

/// One of the commands that need a running collector.
#[derive(Debug)]
pub enum Order {
    /// `token ...`
    Token(TokenCommand),
    /// `agent ...`
    Agent(AgentCommand),
    /// `incident ...`
    Incident(IncidentCommand),
}

/// Runs a command; the exit code. Failures are told on stderr with their fix.
///
/// The local collector is the one whose `socket` is given; `url` names a remote one, whose token
/// is in `GATEWATCH_TOKEN`.
pub async fn run(order: Order, url: Option<&str>, socket: &std::path::Path) -> u8 {
    let client = match url {
        Some(url) => Client::remote(url, std::env::var("GATEWATCH_TOKEN").ok()),
        None => Client::local(socket),
    };
    let done = match client {
        Ok(client) => obey(order, &client).await,
        Err(failure) => Err(failure),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("error: {failure}"));
            failure.code
        }
    }
}

async fn obey(order: Order, client: &Client) -> Result<u8, Failure> {
    match order {
        Order::Token(command) => token(command, client).await,
        Order::Agent(command) => agent(command, client).await,
        Order::Incident(command) => incident(command, client).await,
    }
}

async fn token(command: TokenCommand, client: &Client) -> Result<u8, Failure> {
    match command {
        TokenCommand::Create(create) => create_token(create, client).await,
        TokenCommand::List { json } => {
            let tokens: Vec<TokenView> = client.get(&["tokens"], &()).await?;
            if json { lines(&tokens) } else { print(&render::tokens(&tokens, clock::now())) }
        }
        TokenCommand::Revoke { id } => {
            client.delete(&["tokens", &id]).await?;
            say(&format!("token {id} is revoked: nobody joins with it any more"));
            Ok(exit::GOOD)
        }
    }
}

async fn create_token(create: TokenCreate, client: &Client) -> Result<u8, Failure> {
    let request = TokenRequest {
        labels: create.labels.into_iter().collect(),
        ttl: create.ttl,
        uses: create.uses,
        replace: create.replace,
    };
    let made: NewToken = client.put(Method::POST, &["tokens"], &request).await?;
    if create.json { lines(&[made]) } else { print(&render::new_token(&made)) }
}

async fn agent(command: AgentCommand, client: &Client) -> Result<u8, Failure> {
    let now = clock::now();
    match command {
        AgentCommand::List { labels, json } => {
            let mut servers: Vec<ServerView> = client.get(&["agents"], &()).await?;
            servers.retain(|server| labels.iter().all(|(k, v)| server.labels.get(k) == Some(v)));
            if json { lines(&servers) } else { print(&render::servers(&servers, now)) }
        }
        AgentCommand::Show { name, json } => {
            let server: ServerDetail = client.get(&["agents", &name], &()).await?;
            if json { lines(&[server]) } else { print(&render::server(&server, now)) }
        }
        AgentCommand::Label { name, labels } => {
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let path = ["agents", &name, "labels"];
            let server: ServerDetail = client.put(Method::PATCH, &path, &labels).await?;
            say(&format!("{name}: {}", text::labels(&server.view.labels)));
            Ok(exit::GOOD)
        }
        AgentCommand::Revoke { name } => {
            let path = ["agents", &name, "revoke"];
            let _: ServerDetail = client.put(Method::POST, &path, &json!({})).await?;
            say(&format!(
                "{name} is revoked: its agent is cut off. To let it back in: \
                 `gatewatch-collector token create --replace {name}`"
            ));
            Ok(exit::GOOD)
        }
        AgentCommand::Forget { name } => {
            client.delete(&["agents", &name]).await?;
            say(&format!("{name} is forgotten; its incidents stay"));
            Ok(exit::GOOD)
        }
    }
}

async fn incident(command: IncidentCommand, client: &Client) -> Result<u8, Failure> {
    match command {
        IncidentCommand::List(list) => list_incidents(list, client).await,
        IncidentCommand::Show { id, json } => {
            let found: Incident = client.get(&["incidents", &id], &()).await?;
            if json { lines(&[found]) } else { print(&render::incident(&found, clock::now())) }
        }
        IncidentCommand::Ack { id, by } => {
            let by = by.unwrap_or_else(whoami);
            let request = AckRequest { by };
            let path = ["incidents", &id, "ack"];
            let acked: Incident = client.put(Method::POST, &path, &request).await?;
            say(&format!("{} is yours, {}", acked.id, text::clean(&request.by)));
            Ok(exit::GOOD)
        }
        IncidentCommand::Note { id, text, by } => {
            let request = NoteRequest { by: by.unwrap_or_else(whoami), text };
            let path = ["incidents", &id, "notes"];
            let noted: Incident = client.put(Method::POST, &path, &request).await?;
            say(&format!("noted on {}", noted.id));
            Ok(exit::GOOD)
        }
        IncidentCommand::Follow { json } => follow::follow(client, json).await,
    }
}

async fn list_incidents(list: IncidentList, client: &Client) -> Result<u8, Failure> {
    let now = clock::now();
    let query = IncidentQuery {
        open: list.open,
        since: list.since.map(|since| since.at(now).to_rfc3339()),
        merged: false,
        limit: Some(list.limit),
    };
    let found: Vec<Incident> = client.get(&["incidents"], &query).await?;
    let mut any_open = found.iter().any(|incident| incident.state == "open");
    if list.json {
        lines(&found)?
    } else {
        print(&render::incidents(&found, now))?
    };
    if list.fail_if_open && !any_open {
        // One that is open may be older than the newest `limit`.
        let query = IncidentQuery { open: true, limit: Some(1), ..IncidentQuery::default() };
        any_open = !client.get::<Vec<Incident>>(&["incidents"], &query).await?.is_empty();
    }
    Ok(if list.fail_if_open && any_open { exit::NO } else { exit::GOOD })
}

/// Name of whoever runs this, also behind sudo.
fn whoami() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

/// One JSON object a line.
fn lines<T: Serialize>(items: &[T]) -> Result<u8, Failure> {
    let mut out = String::new();
    for item in items {
        out.push_str(&serde_json::to_string(item).expect("our own types are JSON"));
        out.push('\n');
    }
    print(&out)
}

/// Writes data to stdout. A reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(exit::GOOD),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::GOOD),
        Err(error) => Err(Failure {
            error: format!("stdout cannot be written: {error}"),
            fix: "is the disk full?".into(),
            code: exit::INTERNAL,
        }),
    }
}

/// Writes talk to stderr; where that is closed there is nobody to tell.
fn say(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}
