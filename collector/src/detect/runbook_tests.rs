//! Titles and steps for every cause at every scope, and names that would rather be commands.

use super::cause::Verdict;
use super::cause_scenes::{ALL, Fails, SITE, fails, played, server};
use super::group_scenes::fleet;
use super::runbook::{About, actions, phrase, quoted};
use super::script::{REFUSED, Script};
use super::table::Class;
use super::{Engine, Fleet};
use crate::model::{Action, ServerId};

const REMOTE: &str = "connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.3, server: shop01.test, upstream: \"http://10.0.0.1:8080/shop/\", host: \"shop01.test\"";
const LOST: &str = "app.internal could not be resolved (3: Host not found), client: 203.0.113.1, server: shop06.test, host: \"shop06.test\"";

/// Programs that steps may start: they look, or start what should run anyway.
const SAFE: [&str; 36] = [
    "systemctl status ",
    "systemctl start ",
    "journalctl ",
    "tail -n ",
    "grep -rn ",
    "grep -c ",
    "ps axo ",
    "head -",
    "ls -l ",
    "ss -",
    "curl -sS -o /dev/null ",
    "nginx -t",
    "apachectl -t",
    "haproxy -c ",
    "mysqladmin processlist",
    "resolvectl query ",
    "resolvectl status",
    "cat /etc/resolv.conf",
    "df -",
    "du -xh ",
    "sort -",
    "lsof +L1",
    "awk ",
    "sort",
    "uniq -c",
    "tail -20",
    "vmstat ",
    "nft list ",
    "fail2ban-client status",
    "ip -s link",
    "ping -c 5 ",
    "ip route get ",
    "coredumpctl list ",
    "head",
    "uniq",
    "df",
];

fn group() -> Script {
    fails(fleet(), Fails { until: 20, status: 502, texts: &[REFUSED] })
}

fn of(
    engine: &Engine,
    members: &[u32],
    pool: Option<&str>,
    class: Option<Class>,
) -> (String, String, Vec<Action>) {
    let verdict = Verdict { class, margin: 3.0, ..Verdict::default() };
    let about = About { fleet: &engine.fleet, members, pool, verdict: &verdict };
    (phrase(&about, false), phrase(&about, true), actions(&about))
}

fn is_safe(command: &str) -> bool {
    // An awk program in quotes is one word.
    let plain = command.replace("'{print $4}'", "X").replace("'Killed process|oom'", "X");
    plain.split(['|', ';']).map(str::trim).all(|part| {
        SAFE.iter().any(|safe| part.starts_with(safe.trim_end()))
            && !part.contains(['$', '`', '&', '<', '\n'])
    }) && plain.matches('>').count() == 0
}

#[test]
fn every_cause_has_its_title_and_its_steps_at_every_scope() {
    let scenes = [
        ("server", fails(server(), ALL), None),
        ("pool", fails(server(), Fails { until: 8, ..ALL }), Some("www")),
        ("site", fails(server(), SITE), Some("www")),
        ("group", group(), None),
        (
            "shared backend",
            fails(fleet(), Fails { until: 20, status: 502, texts: &[REMOTE] }),
            None,
        ),
    ];
    for (scope, script, pool) in scenes {
        let (engine, members, _) = played(&script);
        for class in Class::ALL.into_iter().map(Some).chain([None]) {
            let (now, then, actions) = of(&engine, &members, pool, class);
            let of = format!("{scope} {class:?}: {now} / {then} {actions:#?}");
            assert!(now.len() > 10 && !now.contains("  ") && !now.ends_with('.'), "{of}");
            assert!(actions.len() >= 2 && actions.len() <= 5, "{of}");
            for Action { text, command } in &actions {
                let who = ["server admin: ", "site owner: ", "provider"];
                assert!(who.iter().any(|who| text.starts_with(who)), "{of}");
                assert!(command.as_deref().is_none_or(is_safe), "{of}");
            }
            let commands = actions.iter().filter(|action| action.command.is_some());
            assert!(commands.count() >= 1, "{of}");
        }
    }
}

#[test]
fn titles_of_several_servers_say_whether_they_share_the_backend() {
    let (engine, members, _) = played(&group());
    let title = |engine: &Engine, members: &[u32], class| of(engine, members, None, Some(class)).0;
    assert_eq!(title(&engine, &members, Class::ServiceDown), "PHP-FPM is down on each of them");
    assert_eq!(
        title(&engine, &members, Class::Steal),
        "their hypervisor takes the processors away"
    );
    assert_eq!(title(&engine, &members, Class::Network), "their network fails");
    let (engine, members, _) =
        played(&fails(fleet(), Fails { until: 20, status: 502, texts: &[REMOTE] }));
    let down = title(&engine, &members, Class::ServiceDown);
    assert_eq!(down, "the shared backend 10.0.0.1:8080 is down");
    let blocked = title(&engine, &members, Class::Firewall);
    assert_eq!(blocked, "a firewall blocks the way to the shared backend 10.0.0.1:8080");
}

#[test]
fn steps_for_several_servers_say_whom_to_call_and_which_they_are() {
    let (mut engine, members, _) = played(&group());
    for (id, server) in &mut engine.fleet.servers {
        let provider = ("provider".to_owned(), "prov-a".to_owned());
        let hypervisor = ("hypervisor".to_owned(), format!("hv-{}", 1 + id.0 % 2));
        server.labels = [provider, hypervisor].into_iter().collect();
    }
    let (_, _, steal) = of(&engine, &members, None, Some(Class::Steal));
    let want = "provider prov-a: 5 servers fail together (provider prov-a): \
                web-01, web-02, web-03, web-04, web-05";
    assert_eq!(steal[0].text, want);
    assert_eq!(
        steal[1].text,
        "server admin: confirm the steal time (column st) (on web-01, as on the others)"
    );
    let (_, _, down) = of(&engine, &members, None, Some(Class::ServiceDown));
    assert!(down[0].text.starts_with("server admin: 5 servers fail together"), "{down:#?}");
}

#[test]
fn limits_to_raise_come_with_their_numbers() {
    let steps = |available: f64| {
        let pool = [
            ("phpfpm.max_children", 5.0),
            ("phpfpm.memory_per_process", 50.0 * 1_048_576.0),
            ("phpfpm.total_processes", 5.0),
            ("system.memory.available", available),
        ];
        let (engine, members, _) = played(&fails(server().sample(15, 1, &pool), ALL));
        let (_, _, actions) = of(&engine, &members, Some("www"), Some(Class::Overload));
        (actions[1].text.clone(), actions[1].command.clone().expect("it shows where"))
    };
    let (text, command) = steps(1000.0 * 1_048_576.0);
    assert_eq!(
        text,
        "server admin: pool www: pm.max_children is 5 now, memory fits 21 of 50 MiB each: raise it to at most that"
    );
    assert_eq!(command, "grep -rn -e max_children -e slowlog /etc/php/8.2/fpm/pool.d");
    let (text, _) = steps(10.0 * 1_048_576.0);
    assert!(text.contains("memory fits only 5 of 50 MiB each: do not raise it"), "{text}");
}

#[test]
fn the_name_that_does_not_resolve_is_asked_for() {
    let (engine, members, _) = played(&fails(server(), Fails { texts: &[LOST], ..ALL }));
    let (_, _, actions) = of(&engine, &members, None, Some(Class::Dns));
    assert_eq!(actions[0].command.as_deref(), Some("resolvectl query app.internal"));
}

#[test]
fn hostile_names_never_become_commands() {
    for (name, want) in [
        ("php8.2-fpm.service", "php8.2-fpm.service"),
        ("/run/php/php8.2-fpm-www.sock", "/run/php/php8.2-fpm-www.sock"),
        ("a b", "'a b'"),
        ("$(reboot)", "'$(reboot)'"),
        ("x'; reboot; '", "'x'\\''; reboot; '\\'''"),
        ("-rf", "'-rf'"),
        ("", "''"),
        ("a\nb\u{1b}[2J", "'ab[2J'"),
        ("[ab]", "'[ab]'"),
    ] {
        assert_eq!(quoted(name), want, "{name:?}");
    }
    let evil = "php-fpm;reboot;`id`.service";
    let (mut engine, members, _) = played(&fails(server(), ALL));
    let rename = |fleet: &mut Fleet| {
        let server = fleet.servers.get_mut(&ServerId(1)).expect("it is there");
        server.fold_service(0, evil, "active", Some("www"), None);
        server.fold_service(1, evil, "failed", Some("www"), None);
        server.fold_service(0, "nginx$(id).service", "active", None, None);
    };
    rename(&mut engine.fleet);
    for ix in &members {
        let site = engine.fleet.site_mut(*ix);
        site.said
            .lines
            .values_mut()
            .for_each(|lines| lines.upstream = Some("http://$(id):1/".into()));
        site.upstream_named = Some("`reboot`".into());
    }
    for class in Class::ALL.into_iter().map(Some).chain([None]) {
        let (_, _, actions) = of(&engine, &members, Some("$(reboot)"), class);
        for action in &actions {
            let command = action.command.clone().unwrap_or_default();
            assert!(command.is_empty() || is_safe(&command), "{class:?}: {command}");
            assert!(!command.contains("reboot") && !command.contains("$(id"), "{command}");
        }
    }
}
