//! The operator commands: ask the collector, print the answer. stdout is data, stderr is talk.

pub mod backup;
pub mod client;
mod follow;
mod ledger;
pub mod localize;
mod notify;
mod render;
mod report;
mod series;
mod silences;
mod text;
pub mod when;

use std::collections::BTreeMap;
use std::io::{self, Write};

use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use crate::cli::{
    AgentCommand, EvidenceFormat, IncidentCommand, IncidentList, LocalizeArgs, NotifyCommand,
    ReportArgs, SeriesArgs, SilenceCommand, TokenCommand, TokenCreate, TopArgs, exit,
};
use crate::model::Incident;
use crate::store::fleet::{ServerDetail, ServerView};
use crate::store::tokens::TokenView;
use crate::web::api::{AckRequest, IncidentQuery, NewToken, NoteRequest, TokenRequest};
use crate::web::health::HealthView;
use crate::web::silences::SilenceView;
use crate::{clock, files};
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
    /// `silence ...`
    Silence(SilenceCommand),
    /// `notify ...`
    Notify(NotifyCommand),
    /// `localize` of the store.
    Localize(LocalizeArgs),
    /// `series`
    Series(SeriesArgs),
    /// `top`
    Top(TopArgs),
    /// `report`
    Report(ReportArgs),
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
    tell(done)
}

/// Prints an answer or why there is none; the exit code.
fn tell(done: Result<Answer, Failure>) -> u8 {
    let told = done.and_then(|answer| {
        print(&answer.out)?;
        Ok(answer)
    });
    match told {
        Ok(answer) => {
            if !answer.talk.is_empty() {
                say(&answer.talk);
            }
            answer.code
        }
        Err(failure) => {
            say(&format!("error: {failure}"));
            failure.code
        }
    }
}

/// What a command has to say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// For stdout.
    out: String,
    /// For stderr.
    talk: String,
    /// Exit code.
    code: u8,
}

impl Answer {
    fn out(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    fn talk(talk: String) -> Self {
        Self { talk, ..Self::default() }
    }
}

async fn obey(order: Order, client: &Client) -> Result<Answer, Failure> {
    match order {
        Order::Token(command) => token(command, client).await,
        Order::Agent(command) => agent(command, client).await,
        Order::Incident(command) => incident(command, client).await,
        Order::Silence(command) => silences::silence(command, client).await,
        Order::Notify(command) => notify::notify(command, client).await,
        Order::Localize(args) => localize::stored(args, client).await,
        Order::Series(args) => series::series(args, client).await,
        Order::Top(args) => series::top(args, client).await,
        Order::Report(args) => report::report(args, client).await,
    }
}

async fn token(command: TokenCommand, client: &Client) -> Result<Answer, Failure> {
    Ok(match command {
        TokenCommand::Create(create) => create_token(create, client).await?,
        TokenCommand::List { json } => {
            let tokens: Vec<TokenView> = client.get(&["tokens"], &()).await?;
            answer(json, &tokens, |tokens| render::tokens(tokens, clock::now()))
        }
        TokenCommand::Revoke { id } => {
            client.delete(&["tokens", &id]).await?;
            Answer::talk(format!("token {id} is revoked: nobody joins with it any more"))
        }
    })
}

async fn create_token(create: TokenCreate, client: &Client) -> Result<Answer, Failure> {
    let request = TokenRequest {
        labels: create.labels.into_iter().collect(),
        ttl: create.ttl,
        uses: create.uses,
        replace: create.replace,
    };
    let made: NewToken = client.put(Method::POST, &["tokens"], &request).await?;
    Ok(answer(create.json, &[made], |made| render::new_token(&made[0])))
}

async fn agent(command: AgentCommand, client: &Client) -> Result<Answer, Failure> {
    let now = clock::now();
    Ok(match command {
        AgentCommand::List { labels, json } => {
            let mut servers: Vec<ServerView> = client.get(&["agents"], &()).await?;
            servers.retain(|server| labels.iter().all(|(k, v)| server.labels.get(k) == Some(v)));
            let silences = if json { Vec::new() } else { active_silences(client).await? };
            answer(json, &servers, |servers| render::servers(servers, &silences, now))
        }
        AgentCommand::Show { name, json } => {
            let server: ServerDetail = client.get(&["agents", &name], &()).await?;
            let silences = if json { Vec::new() } else { active_silences(client).await? };
            answer(json, &[server], |server| render::server(&server[0], &silences, now))
        }
        AgentCommand::Label { name, labels } => {
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let path = ["agents", &name, "labels"];
            let server: ServerDetail = client.put(Method::PATCH, &path, &labels).await?;
            Answer::talk(format!("{name}: {}", text::labels(&server.view.labels)))
        }
        AgentCommand::Revoke { name } => {
            let path = ["agents", &name, "revoke"];
            let _: ServerDetail = client.put(Method::POST, &path, &json!({})).await?;
            Answer::talk(format!(
                "{name} is revoked: its agent is cut off. To let it back in: \
                 `gatewatch-collector token create --replace {name}`"
            ))
        }
        AgentCommand::Forget { name } => {
            client.delete(&["agents", &name]).await?;
            Answer::talk(format!("{name} is forgotten; its incidents stay"))
        }
    })
}

async fn incident(command: IncidentCommand, client: &Client) -> Result<Answer, Failure> {
    Ok(match command {
        IncidentCommand::List(list) => list_incidents(list, client).await?,
        IncidentCommand::Show { id, json } => {
            let found: Incident = client.get(&["incidents", &id], &()).await?;
            let link = if json { None } else { Some(link(&found, client).await?) };
            answer(json, &[found], |found| {
                render::incident(&found[0], link.as_deref(), clock::now())
            })
        }
        IncidentCommand::Ack { id, by } => {
            let by = by.unwrap_or_else(whoami);
            let request = AckRequest { by };
            let path = ["incidents", &id, "ack"];
            let acked: Incident = client.put(Method::POST, &path, &request).await?;
            Answer::talk(format!("{} is yours, {}", acked.id, text::clean(&request.by)))
        }
        IncidentCommand::Note { id, text, by } => {
            let request = NoteRequest { by: by.unwrap_or_else(whoami), text };
            let path = ["incidents", &id, "notes"];
            let noted: Incident = client.put(Method::POST, &path, &request).await?;
            Answer::talk(format!("noted on {}", noted.id))
        }
        IncidentCommand::Evidence { id, format, out } => {
            let name = match format {
                EvidenceFormat::Json => "evidence",
                EvidenceFormat::Html => "evidence.html",
            };
            let mut text = client.get_text(&["incidents", &id, name]).await?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            let Some(out) = out else { return Ok(Answer::out(text)) };
            files::replace_private(&out, text.as_bytes()).map_err(|error| {
                let shown = out.display();
                Failure::usage(format!("{shown}: cannot be written: {error}"), "name another file")
            })?;
            Answer::talk(format!("written to {}", out.display()))
        }
        IncidentCommand::Follow { json } => {
            follow::follow(client, json).await?;
            Answer::default()
        }
    })
}

/// Maintenance windows of now.
async fn active_silences(client: &Client) -> Result<Vec<SilenceView>, Failure> {
    let mut found: Vec<SilenceView> = client.get(&["silences"], &()).await?;
    found.retain(|view| view.state == "active");
    Ok(found)
}

/// Where people find an incident: the address that notifications name.
async fn link(incident: &Incident, client: &Client) -> Result<String, Failure> {
    let health: HealthView = client.get(&["health"], &()).await?;
    Ok(format!("{}/incidents/{}", health.links, incident.id))
}

async fn list_incidents(list: IncidentList, client: &Client) -> Result<Answer, Failure> {
    let now = clock::now();
    let query = IncidentQuery {
        open: list.open,
        since: list.since.map(|since| since.at(now).to_rfc3339()),
        merged: false,
        limit: Some(list.limit),
    };
    let found: Vec<Incident> = client.get(&["incidents"], &query).await?;
    let mut any_open = found.iter().any(|incident| incident.state == "open");
    let mut told = answer(list.json, &found, |found| render::incidents(found, now));
    if list.fail_if_open && !any_open {
        // One that is open may be older than the newest `limit`.
        let query = IncidentQuery { open: true, limit: Some(1), ..IncidentQuery::default() };
        any_open = !client.get::<Vec<Incident>>(&["incidents"], &query).await?.is_empty();
    }
    if list.fail_if_open && any_open {
        told.code = exit::NO;
    }
    Ok(told)
}

/// Name of whoever runs this, also behind sudo.
fn whoami() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        .or_else(|| {
            // root's services have no such variables.
            let uid = rustix::process::getuid().as_raw();
            name_of(uid, &std::fs::read_to_string("/etc/passwd").ok()?)
        })
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

/// The name of a user in the text of `/etc/passwd`.
fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// JSON lines for programs, or what `render` makes of it for people.
fn answer<T: Serialize>(json: bool, items: &[T], render: impl FnOnce(&[T]) -> String) -> Answer {
    if !json {
        return Answer::out(render(items));
    }
    let line = |item| serde_json::to_string(item).expect("our own types are JSON") + "\n";
    Answer::out(items.iter().map(line).collect())
}

/// Writes data to stdout. A reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure {
            error: format!("stdout cannot be written: {error}"),
            fix: "is the disk full?".into(),
            code: exit::INTERNAL,
        }),
        _ => Ok(()),
    }
}

/// Writes talk to stderr; where that is closed there is nobody to tell.
fn say(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

#[cfg(test)]
mod tests;
