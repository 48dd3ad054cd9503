//! Which change is named for an outage, of one server and of several.

use super::cause_scenes::{ALL, Fails, SITE, fails, played, server};
use super::change::{before, rows};
use super::group_scenes::fleet;
use super::script::{NO_SOCKET, Script};
use crate::model::ChangeBefore;

fn named(script: &Script, scope: &str) -> Option<ChangeBefore> {
    let (engine, members, first) = played(script);
    before(&engine.fleet, scope, &members, first)
}

fn what(script: &Script, scope: &str) -> Option<String> {
    named(script, scope).map(|change| format!("{}: {}", change.kind, change.text))
}

/// Five of six servers fail from second 20 on.
fn group() -> Script {
    fails(fleet(), Fails { until: 20, status: 502, texts: &[NO_SOCKET] })
}

#[test]
fn the_newer_of_two_like_changes_is_named_and_nothing_older_than_ten_minutes() {
    let outage = || fails(server(), ALL);
    let two = outage().change(-40, 1, "config", "/etc/nginx/old.conf").change(
        12,
        1,
        "config",
        "/etc/nginx/new.conf",
    );
    assert_eq!(what(&two, "server").as_deref(), Some("config: /etc/nginx/new.conf"));
    let score = |second: i64| {
        let script = outage().change(second, 1, "firewall", "nft ruleset changed");
        named(&script, "server").map_or(0.0, |change| change.score)
    };
    assert!(score(19) > 0.9 && score(19) > score(-50) && score(-50) > 0.5);
    assert_eq!((score(-581), score(23)), (0.0, 0.0), "too old, and after the first failure");
    assert!(score(21) > 0.9, "clocks are not that exact");
    // A package has five minutes.
    let package = |second| what(&outage().change(second, 1, "package", "nginx 1 to 2"), "server");
    assert!(package(15).is_some() && package(-290).is_none());
}

#[test]
fn a_restart_or_a_boot_is_named_when_nothing_fits_better() {
    let outage = || fails(server(), ALL);
    let boot = outage().change(18, 1, "boot", "machine booted, kernel 6.1.0-18 to 6.1.0-21");
    let want = "boot: machine booted, kernel 6.1.0-18 to 6.1.0-21";
    assert_eq!(what(&boot, "server").as_deref(), Some(want));
    let restart = outage().change(18, 1, "restart", "php8.2-fpm.service restarted");
    assert_eq!(what(&restart, "server").as_deref(), Some("restart: php8.2-fpm.service restarted"));
    let other = outage().change(18, 1, "restart", "cups.service restarted");
    assert_eq!(what(&other, "server"), None, "no page waits for a printer");
    let edited = restart.change(16, 1, "config", "/etc/php/8.2/fpm/pool.d/www.conf");
    let want = "config: /etc/php/8.2/fpm/pool.d/www.conf";
    assert_eq!(what(&edited, "server").as_deref(), Some(want));
}

#[test]
fn of_several_servers_the_change_that_most_of_them_share_is_named() {
    let rollout =
        (1..=5).fold(group(), |s, n| s.change(10 + n, n, "package", "php8.2-fpm 8.2.7 to 8.2.29"));
    // A stronger kind of change, on one of them and on two.
    let noise = rollout
        .change(18, 1, "firewall", "nft ruleset changed")
        .change(17, 2, "config", "/etc/nginx/conf.d/x.conf")
        .change(17, 3, "config", "/etc/nginx/conf.d/x.conf");
    let change = named(&noise, "group").expect("it is named");
    assert_eq!(
        (change.kind.as_str(), change.text.as_str()),
        ("package", "php8.2-fpm 8.2.7 to 8.2.29")
    );
    assert_eq!(change.at.0, super::script::at(11), "when the first of them had it");
    let (engine, members, first) = played(&noise);
    let rows = rows(&engine.fleet, "group", &members, first);
    let n = |key: &str| rows.iter().find(|row| row.key == key).map(|row| row.n_servers);
    assert_eq!(
        (n("change_package"), n("change_config"), n("change_firewall")),
        (Some(5), Some(2), Some(1))
    );
    // All servers had it, the healthy one too: it is less suspicious.
    let everywhere = named(&rollout_everywhere(), "group").expect("it is named");
    assert!(everywhere.score < change.score, "{} {}", everywhere.score, change.score);
    // One server's change is none of a group of five, nor is a site's.
    assert_eq!(what(&group().change(18, 1, "firewall", "nft ruleset changed"), "group"), None);
    let site = (1..=4)
        .fold(group(), |s, n| s.change_of(18, &format!("shop0{n}.test"), "plugin", "x 1 to 2"));
    assert_eq!(what(&site, "group"), None);
}

fn rollout_everywhere() -> Script {
    (1..=6).fold(group(), |s, n| s.change(11, n, "package", "php8.2-fpm 8.2.7 to 8.2.29"))
}

#[test]
fn a_change_of_a_site_lifts_over_the_sites_that_were_left_alone() {
    let own =
        fails(server(), SITE).change_of(12, "shop03.test", "plugin", "woocommerce 8.1 to 8.2");
    let change = named(&own, "site").expect("it is named");
    assert!(change.score > 0.98, "{}", change.score);
    let other =
        fails(server(), SITE).change_of(12, "shop04.test", "plugin", "woocommerce 8.1 to 8.2");
    assert_eq!(named(&other, "site"), None);
}

#[test]
fn servers_of_a_rollout_are_each_judged_by_their_own_first_failure() {
    // One server after the other gets the change and fails five seconds later.
    let script = fleet().run(0, super::cause_scenes::END, 5, |def, second| {
        let server = (def.site.0 - 1) / 4;
        let hit = server < 5 && second >= 20 + 5 * server;
        if hit { super::script::Fate::Fail(502, NO_SOCKET) } else { super::script::Fate::Ok }
    });
    let script = (1..=5).fold(script, |s, n| {
        let at = 15 + 5 * (n - 1);
        s.change(at, n, "package", "php8.2-fpm 8.2.7 to 8.2.29").unit(
            at + 4,
            n,
            "php8.2-fpm.service",
            "failed",
        )
    });
    let change = named(&script, "group").expect("it is named");
    assert_eq!(change.text, "php8.2-fpm 8.2.7 to 8.2.29");
    let verdict = super::cause_scenes::judge(&script, "group");
    let down = verdict.evidence.iter().find(|e| e.kind == "service").expect("the units");
    assert!(down.text.ends_with("is failed (on 5 of 5 servers)"), "{}", down.text);
}
