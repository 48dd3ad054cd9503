//! The commands around notifications, by the programs themselves: a trial of a route, a maintenance
//! window, what `check` says and what the log says at the start.

use std::process::Command;

use harness::{Fleet, Output, Root, Webhook, eventually, program};
use serde_json::Value;

use crate::farm::LIMIT;

/// JSON lines.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn a_route_is_tried_and_a_maintenance_window_made_and_ended_by_command() {
    let webhook = Webhook::start(1); // the first test meets a broken receiver
    let toml = format!("{}name = \"oncall\"\nmatch = {{ rack = \"r9\" }}\n", webhook.toml());
    let fleet = Fleet::builder().agents(["web-1"]).toml(&toml).start();
    let refused = fleet.cli(&["notify", "test", "oncall"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
    assert!(refused.stderr.contains("500") && refused.stderr.contains("fix: "), "{refused:?}");
    let arrived = fleet.cli(&["notify", "test", "oncall", "--json"]).good().expect("it arrives");
    let told = webhook.deliveries();
    let body = told.last().expect("two came").json();
    assert_eq!(
        (&body["event"], &body["delivery"]),
        (&"test".into(), &lines(&arrived)[0]["delivery"])
    );
    let title = body["incident"]["title"].as_str().expect("a title");
    assert!(title.starts_with("TEST of gatewatch, nothing is broken"), "{title}");
    let log = lines(&fleet.cli(&["notify", "log", "--json"]).good().expect("the log"));
    let ends: Vec<&Value> = log.iter().map(|line| &line["what"]).collect();
    assert_eq!(ends, ["refused", "delivered"]);
    let routes = fleet.cli(&["notify", "routes"]).good().expect("the routes");
    assert!(routes.contains("oncall") && !routes.contains("/hook"), "{routes}");

    let add = ["silence", "add", "--match", "server=web-*", "--until", "2h", "--reason", "disks"];
    let made = fleet.cli(&add);
    assert!(made.stdout.contains("It covers 1 server and 0 open incidents now."), "{made:?}");
    let listed = lines(&fleet.cli(&["silence", "list", "--json"]).good().expect("the list"));
    assert_eq!((&listed[0]["state"], &listed[0]["reason"]), (&"active".into(), &"disks".into()));
    let page = fleet.cli(&["agent", "list"]).good().expect("the fleet");
    assert!(page.contains(", silenced"), "{page}");
    let id = listed[0]["id"].as_str().expect("an id");
    fleet.cli(&["silence", "end", id]).good().expect("it ends");
    let none = fleet.cli(&["silence", "list"]).good().expect("the list");
    assert!(none.starts_with("No silences."), "{none}");
    let everything = fleet.cli(&["silence", "add", "--until", "2h", "--reason", "all"]);
    assert_eq!(everything.code, 2, "{everything:?}");
    assert!(everything.stderr.contains("--match 'server=*'"), "{everything:?}");

    // What is sound but tells nobody is said at `check`, and at the next start.
    let hint = "[[notify]] oncall: no server has rack=r9";
    let checked = fleet.cli(&["check"]);
    assert_eq!(
        (checked.code, checked.stdout.as_str()),
        (0, "the config is sound\n"),
        "{checked:?}"
    );
    assert!(checked.stderr.contains(&format!("hint: {hint}")), "{checked:?}");
    let mut fleet = fleet;
    fleet.stop_collector();
    fleet.start_collector();
    eventually("the start warns of it", LIMIT, || {
        let log = fleet.collector_log();
        let warned = log.lines().any(|line| line.contains("WARN") && line.contains(hint));
        if warned { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_secret_that_everybody_can_read_is_refused_by_check_and_by_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Root::new();
    let key = dir.write("slack.url", "https://hooks.example/services/hunter2");
    let config = dir.write(
        "collector.toml",
        &format!("[[notify]]\nkind = \"slack\"\nurl_file = {key:?}\nchat_id = \"1\"\n"),
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    for command in ["check", "run"] {
        let program = program("gatewatch-collector");
        let done = Output::of(Command::new(program).arg("--config").arg(&config).arg(command));
        assert_eq!(done.code, 78, "{done:?}");
        let told = format!("{}{}", done.stdout, done.stderr);
        let mut places = told.lines().filter_map(|line| line.rsplit("collector.toml:").next());
        let open = places.next().expect("a problem");
        assert!(open.starts_with("3: [[notify]] url_file ") && open.contains("chmod o="), "{told}");
        let strange = places.next().expect("another one");
        assert!(strange.starts_with("4: [[notify]] chat_id is nothing that slack takes"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}
