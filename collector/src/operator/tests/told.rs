//! `silence` and `notify` against a real collector's socket.

use super::*;

#[tokio::test]
async fn silence_commands_speak_json_and_tables_and_hint_at_what_matches_nothing() {
    let shell = Shell::start().await;
    shell.site.add_server("web-07").await;
    shell.site.add_incident(1, samples::incident()).await;
    let line =
        "silence add --match rack=r7 --match server=web-* --until 2h --reason update --by ann";
    let made = shell.run(&format!("{line} --json")).await.unwrap();
    assert_eq!(made.talk, "");
    assert_eq!(
        keys(&made.out),
        [
            "state",
            "id",
            "match",
            "starts_at",
            "ends_at",
            "reason",
            "by",
            "made_at",
            "ended_at",
            "ended_by",
            "n_incidents",
            "n_servers",
            "hint"
        ]
    );
    let people = shell.run(line).await.unwrap();
    assert!(people.out.contains("\nIt covers 1 server and 1 open incident now."), "{people:?}");
    let elsewhere = shell.run("silence add --match rack=r9 --until 2h --reason x").await.unwrap();
    assert!(
        elsewhere.out.contains("It covers 0 servers and 0 open incidents now."),
        "{elsewhere:?}"
    );
    assert_eq!(elsewhere.talk, "hint: no server has rack=r9: it silences nothing until one has it");
    let listed = shell.json("silence list --json").await;
    assert_eq!((listed.len(), &listed[0]["state"]), (3, &Value::from("active")));
    let page = shell.run("agent list").await.unwrap().out;
    assert!(page.contains("silent, silenced"), "{page}");
    let id = listed[0]["id"].as_str().unwrap();
    let ended = shell.run(&format!("silence end {id} --by bob")).await.unwrap();
    assert!(ended.talk.starts_with(&format!("silence {id} is over")), "{ended:?}");
    assert_eq!(shell.json("silence list --json").await.len(), 2);
    let all = shell.json("silence list --all --json").await;
    assert_eq!((&all[0]["state"], &all[0]["ended_by"]), (&"ended".into(), &"bob".into()));
    let table = shell.run("silence list --all").await.unwrap().out;
    assert!(table.starts_with("ID ") && table.contains("ended by bob"), "{table}");
}

#[tokio::test]
async fn a_silence_that_cannot_be_is_a_usage_error_with_its_fix() {
    let shell = Shell::start().await;
    for (line, error, fix) in [
        ("silence add --until 2h --reason x", "it would silence everything", "'server=*'"),
        ("silence add --match rack=r7 --until 0s --reason x", "not after its begin", "later"),
        (
            "silence add --match rack=r7 --until 2026-01-01T00:00:00Z --reason x",
            "ends_at: ",
            "later",
        ),
        (
            "silence add --match rack=r7 --match rack=r8 --until 2h --reason x",
            "no server has both",
            "`*`",
        ),
        (
            "silence add --match kind=outage --until 2h --reason x",
            "no incident has \"outage\"",
            "gateway_errors",
        ),
        ("silence end none", "there is no silence", "silence list"),
        ("notify log --incident none", "there is no incident", "incident list"),
        ("notify log --route none", "there is no route", "notify routes"),
        ("notify test none", "there is no route", "notify routes"),
    ] {
        let failure = shell.run(line).await.unwrap_err();
        assert_eq!(failure.code, exit::USAGE, "{line}: {failure}");
        assert!(failure.error.contains(error), "{line}: {failure}");
        assert!(failure.fix.contains(fix), "{line}: {failure}");
    }
    for line in [
        "silence add --match rack=r7 --until 2h",
        "silence add --match rack=r7 --reason x",
        "notify test",
    ] {
        let words = ["gatewatch-collector"].into_iter().chain(line.split(' '));
        assert_eq!(
            Cli::try_parse_from(words).map(drop).map_err(|e| e.exit_code()),
            Err(2),
            "{line}"
        );
    }
}

/// A shell whose collector has routes `good`, `bad` and `dead`.
async fn with_routes() -> Shell {
    let shell = Shell::start().await;
    let dir = shell.site.dir.path();
    let mut state = shell.site.state.clone();
    state.receivers = web::tests::told::receivers(dir).await;
    let path = dir.join("routes.sock");
    let (socket, stop) = (web::bind_socket(&path).await.unwrap(), state.stop.clone());
    tokio::spawn(web::serve_socket(socket, path.clone(), web::router(state), stop));
    Shell { client: Client::local(&path).unwrap(), ..shell }
}

#[tokio::test]
async fn a_test_answers_by_exit_code_and_says_what_went_wrong() {
    let shell = with_routes().await;
    let good = shell.run("notify test good").await.unwrap();
    assert_eq!((good.code, good.talk.as_str()), (exit::GOOD, ""));
    assert!(
        good.out.starts_with("good: http://127.0.0.1:") && good.out.contains(" took the test in ")
    );
    let bad = shell.run("notify test bad").await.unwrap();
    assert_eq!((bad.code, bad.out.as_str()), (exit::NO, ""));
    assert!(bad.talk.contains("answered 403") && bad.talk.contains("\n  fix: "), "{bad:?}");
    let all = shell.run("notify test --all --json").await.unwrap();
    assert_eq!(all.code, exit::NO);
    let lines: Vec<&str> = all.out.lines().collect();
    assert_eq!(keys(lines[0]), ["ok", "route", "place", "delivery", "took_ms"]);
    assert_eq!(keys(lines[1]), ["route", "ok", "error", "fix"]);
    assert!(lines[2].contains("listens"), "{lines:?}");
    let none = Shell::start().await.run("notify test --all").await.unwrap();
    assert_eq!(none.code, exit::NO);
    assert!(none.talk.contains("[[notify]]"), "{none:?}");
}

#[tokio::test]
async fn the_log_and_the_routes_are_printed() {
    let shell = with_routes().await;
    shell.run("notify test good").await.unwrap();
    shell.run("notify test bad").await.unwrap();
    let log = shell.run("notify log --json").await.unwrap();
    assert_eq!(
        keys(log.out.lines().next().unwrap()),
        ["at", "incident", "route", "event", "what", "why", "delivery"]
    );
    let table = shell.run("notify log --route bad --since 1h --limit 1").await.unwrap();
    assert!(table.out.contains("refused") && table.out.contains("403"), "{table:?}");
    assert_eq!(table.talk, "the newest 1 line; more with --limit");
    let routes = shell.run("notify routes --json").await.unwrap();
    assert_eq!(
        keys(routes.out.lines().next().unwrap()),
        [
            "route",
            "kind",
            "place",
            "min_severity",
            "match",
            "hours",
            "digest",
            "timezone",
            "escalate_after",
            "send_resolved",
            "n_owed",
            "n_tries",
            "oldest_due_at",
            "n_held",
            "last_delivered_at",
            "last_error",
            "n_delivered",
            "n_failed"
        ]
    );
    let table = shell.run("notify routes").await.unwrap().out;
    assert!(table.contains("webhook http://127.0.0.1:9"), "{table}");
}

#[tokio::test]
async fn an_incident_shows_where_it_is_in_a_browser() {
    let shell = Shell::start().await;
    shell.site.add_incident(1, samples::incident()).await;
    let page = shell.run("incident show 01JD4").await.unwrap().out;
    assert!(page.contains("\nLink       /incidents/01JD4Z8QK0A1B2C3D4E5F6G7H8\n"), "{page}");
}
