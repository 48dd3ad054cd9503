//! The commands against a real collector's socket and HTTP port: JSON shapes, exit codes, failures.

use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};
use crate::samples;
use crate::web;
use crate::web::tests::Site;

struct Shell {
    site: Site,
    client: Client,
}

impl Shell {
    async fn start() -> Self {
        let site = Site::new();
        let path = site.dir.path().join("collector.sock");
        let listener = web::bind_socket(&path).await.unwrap();
        let (router, stop) = (site.router.clone(), site.state.stop.clone());
        tokio::spawn(web::serve_socket(listener, path.clone(), router, stop));
        Self { client: Client::local(&path).unwrap(), site }
    }

    async fn run(&self, line: &str) -> Result<Answer, Failure> {
        obey(order(line), &self.client).await
    }

    async fn json(&self, line: &str) -> Vec<Value> {
        let answer = self.run(line).await.unwrap();
        answer.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn order(line: &str) -> Order {
    let words = ["gatewatch-collector"].into_iter().chain(line.split(' '));
    match Cli::try_parse_from(words).unwrap().command {
        Command::Token(command) => Order::Token(command),
        Command::Agent(command) => Order::Agent(command),
        Command::Incident(command) => Order::Incident(command),
        Command::Silence(command) => Order::Silence(command),
        Command::Notify(command) => Order::Notify(command),
        other => panic!("{other:?} is no order"),
    }
}

/// Keys in the order in which they are printed.
fn keys(line: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(line).unwrap();
    let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort_by_key(|key| line.find(&format!("\"{key}\":")));
    keys
}

#[tokio::test]
async fn token_commands_speak_the_json_of_the_contract() {
    let shell = Shell::start().await;
    let made = shell.run("token create --json --label rack=r7 --ttl 2h --uses 3").await.unwrap();
    assert_eq!(made.out.lines().count(), 1);
    assert_eq!(
        keys(&made.out),
        [
            "id",
            "token",
            "ca_hash",
            "expires_at",
            "uses",
            "labels",
            "replace",
            "command",
            "enroll_command"
        ]
    );
    let listed = shell.run("token list --json").await.unwrap();
    assert_eq!(
        keys(listed.out.trim()),
        ["id", "state", "created_at", "expires_at", "uses", "n_used", "labels", "replace"]
    );
    let id = shell.json("token list --json").await[0]["id"].as_str().unwrap().to_owned();
    let revoked = shell.run(&format!("token revoke {id}")).await.unwrap();
    assert!(revoked.out.is_empty() && revoked.talk.contains("revoked"), "{revoked:?}");
    assert_eq!(shell.json("token list --json").await[0]["state"], "revoked");
    let people = shell.run("token create").await.unwrap().out;
    assert!(people.contains("curl -fsS --insecure --pinnedpubkey 'sha256//"), "{people}");
    assert!(people.contains("\n  gatewatch-agent enroll --collector "), "{people}");
}

#[tokio::test]
async fn agent_commands_speak_the_json_of_the_contract() {
    let shell = Shell::start().await;
    shell.site.add_server("web-07").await;
    shell.site.add_server("web-08").await;
    let listed = shell.run("agent list --json").await.unwrap().out;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        keys(lines[0]),
        [
            "server",
            "labels",
            "version",
            "state",
            "last_seen_at",
            "clock_offset_ms",
            "spool_bytes",
            "n_sites",
            "loss",
            "ledger"
        ]
    );
    let labelled = shell.run("agent label web-08 rack=r9 role=db").await.unwrap();
    assert_eq!(labelled.talk, "web-08: rack=r9 role=db");
    let only = shell.json("agent list --json --label rack=r9").await;
    assert_eq!((only.len(), &only[0]["server"]), (1, &Value::from("web-08")));
    assert_eq!(shell.json("agent show web-08 --json").await[0]["labels"]["role"], "db");
    shell.run("agent revoke web-08").await.unwrap();
    assert_eq!(shell.json("agent show web-08 --json").await[0]["state"], "revoked");
    shell.run("agent forget web-08").await.unwrap();
    assert_eq!(shell.json("agent list --json").await.len(), 1);
}

#[tokio::test]
async fn incident_commands_speak_the_json_of_the_contract_and_answer_by_exit_code() {
    let shell = Shell::start().await;
    let none = shell.run("incident list --fail-if-open --json").await.unwrap();
    assert_eq!(none, Answer::default());
    shell.site.add_incident(1, samples::incident()).await;
    let open = shell.run("incident list --open --fail-if-open --json").await.unwrap();
    assert_eq!(open.code, exit::NO);
    let expected = [
        "id",
        "kind",
        "state",
        "severity",
        "scope",
        "where",
        "title",
        "started_at",
        "detected_at",
        "resolved_at",
        "updated_at",
        "retroactive",
        "affected",
        "cause",
        "change",
        "actions",
        "parent",
        "children",
        "acked_by",
        "silenced",
        "timeline",
    ];
    let mut printed = keys(open.out.trim());
    let mut wanted = expected.map(str::to_owned).to_vec();
    assert_eq!((printed.len(), printed.sort(), wanted.sort()), (21, (), ()));
    assert_eq!(printed, wanted);
    assert_eq!(shell.run("incident list --open").await.unwrap().code, exit::GOOD);
    shell.run("incident ack 01JD4 --by ann").await.unwrap();
    shell.run("incident note 01JD4 restarted --by ann").await.unwrap();
    let shown = shell.json("incident show 01jd4 --json").await;
    assert_eq!(shown[0]["acked_by"], "ann");
    assert!(shown[0]["timeline"].to_string().contains("note by ann: restarted"));
    let page = shell.run("incident show 01JD4").await.unwrap().out;
    assert!(page.contains("Taken by   ann"), "{page}");
}

#[tokio::test]
async fn an_evidence_bundle_is_printed_or_written_to_a_file() {
    let shell = Shell::start().await;
    shell.site.add_server("web-07").await;
    shell.site.add_incident(1, samples::incident()).await;
    let bundle = shell.json("incident evidence 01JD4").await;
    assert_eq!(bundle[0]["incident"]["id"], "01JD4Z8QK0A1B2C3D4E5F6G7H8");
    let file = shell.site.dir.path().join("evidence.html");
    let line = format!("incident evidence 01JD4 --format html --out {}", file.display());
    let written = shell.run(&line).await.unwrap();
    assert!(written.out.is_empty() && written.talk.contains("written to"), "{written:?}");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("<!doctype html>"));
    let nowhere = shell.run("incident evidence 01JD4 --out /nowhere/at/all").await.unwrap_err();
    assert_eq!(nowhere.code, exit::USAGE);
}

#[tokio::test]
async fn what_is_not_there_is_named_with_a_fix() {
    let shell = Shell::start().await;
    for line in [
        "token revoke none",
        "token create --replace none",
        "agent show none",
        "agent show ../tokens",
        "agent label none a=b",
        "agent revoke none",
        "agent forget none",
        "incident show none",
        "incident ack none",
        "incident note none text",
        "incident evidence none",
        "incident evidence none --format html",
    ] {
        let failure = shell.run(line).await.unwrap_err();
        assert_eq!(failure.code, exit::USAGE, "{line}: {failure}");
        assert!(failure.error.contains("there is no "), "{line}: {failure}");
        assert!(failure.fix.contains(" list"), "{line}: {failure}");
    }
}

#[tokio::test]
async fn a_collector_that_does_not_run_is_named_with_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("collector.sock");
    for prepare in ["absent", "left by a crash"] {
        if prepare != "absent" {
            drop(web::bind_socket(&path).await.unwrap());
        }
        let client = Client::local(&path).unwrap();
        let failure = obey(order("agent list"), &client).await.unwrap_err();
        assert_eq!(failure.code, exit::INTERNAL);
        let text = failure.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{prepare}: {text}");
        assert!(text.contains("not running") && text.contains("gatewatch-collector run"), "{text}");
    }
}

#[tokio::test]
async fn a_remote_collector_wants_its_token() {
    let site = Site::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(web::serve_http(listener, site.router.clone(), site.state.stop.clone()));
    let token = site.admin_token();
    let good = Client::remote(&url, Some(token)).unwrap();
    obey(order("agent list"), &good).await.unwrap();
    let wrong = Client::remote(&url, Some("wrong".into())).unwrap();
    let failure = obey(order("agent list"), &wrong).await.unwrap_err();
    assert!(failure.fix.contains("admin.token"), "{failure}");
    assert!(Client::remote(&url, None).unwrap_err().fix.contains("GATEWATCH_TOKEN"));
    assert!(Client::remote("collector:8503", Some("t".into())).is_err());
    let nobody = Client::remote("http://127.0.0.1:9", Some("t".into())).unwrap();
    let failure = obey(order("agent list"), &nobody).await.unwrap_err();
    assert!(failure.error.contains("http://127.0.0.1:9/ does not answer"), "{failure}");
}

mod told;
