//! What somebody changed on a server reaches the collector before the failures it explains: an edited
//! vhost, packages, firewall rules, the resolver, a certificate, `.htaccess`, an application.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use harness::{
    AgentSpec, Fleet, Nginx, Output, PhpFpm, Pool, Root, Vhost, eventually, find_program, get,
    is_root, now_ms, pause,
};
use wire::v1::Change;

use crate::farm::LIMIT;

const SITES: [&str; 3] = ["www01.test", "www02.test", "www03.test"];

/// Of `shop.test`, made with `openssl req -x509`, until 2027-02-28 and 2027-03-30; nobody has their keys.
const OLD_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUUAKL3Ib93a33khZgQ1xl+JuKuSQwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJc2hvcC50ZXN0MB4XDTI2MTEzMDEwMTI1NFoXDTI3MDIyODEw
MTI1NFowFDESMBAGA1UEAwwJc2hvcC50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEgVsdYGqu/wxyf7M9UlVkahF/7NfNUZL/hMOmLJmtp8itfdfh+4KJUMzD
QwdrnY3hFNO0CYQaqs4rxC3P7B2R5KNTMFEwHQYDVR0OBBYEFMqlP1JQ5FgYunKK
dvLR/X+I4h8+MB8GA1UdIwQYMBaAFMqlP1JQ5FgYunKKdvLR/X+I4h8+MA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAOc/1NCOyIMKh4y/dAAC/yry
366Z2GCjJHwh0yQULfQuAiBiR1Ic+ATdHeeX3sZdvd74xbheegnbo2icqeag16oa
pg==
-----END CERTIFICATE-----
";
const NEW_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUUhvNBA51KE2nhD5Lf9T2VA8bXwswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJc2hvcC50ZXN0MB4XDTI2MTEzMDEwMTI1NFoXDTI3MDMzMDEw
MTI1NFowFDESMBAGA1UEAwwJc2hvcC50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEXa1KlxlY9Ywo3qPVcEP7jUD5q0IMuweVAWVgk56PT2+FgqArZW5K43LY
T2EhpAe79uB0Abk0OFbXiY3T2CJN5qNTMFEwHQYDVR0OBBYEFItRlDCh5PHAaoC+
E25p2Grmc/jwMB8GA1UdIwQYMBaAFItRlDCh5PHAaoC+E25p2Grmc/jwMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMaRsUzdchj8RHWh2fKeEz8O
DWR544XuNzgujYOk+PPnAiAJ7rM8QXoh259ZluzonQOxqewtCxZ8qVHEpK+8JTBz
VQ==
-----END CERTIFICATE-----
";

/// As `sha256sum | cut -c1-16`.
fn hash(text: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    u64::from_be_bytes(*digest.as_ref().first_chunk().expect("of 32 bytes"))
}

pub(crate) fn changes(fleet: &Fleet) -> Vec<Change> {
    let bodies = fleet.db().bodies("web-1").unwrap_or_default();
    bodies.into_iter().flat_map(|body| body.changes).collect()
}

/// Changes told from now on: what the agent has seen of this file is on disk.
pub(crate) fn wait_for_first_look(fleet: &Fleet, file: &str, word: &str) {
    let path = fleet.agent("web-1").dir().join("state").join(file);
    eventually("the agent has looked at everything once", LIMIT, || {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if text.contains(word) { Ok(()) } else { Err(text) }
    });
}

fn start(root: &Root) -> Fleet {
    let agent = AgentSpec::new("web-1").root(root).unprivileged();
    Fleet::builder().agent(agent).batch_interval("200ms").start()
}

#[test]
fn a_vhost_edited_before_the_outage_is_named_by_the_incident() {
    let root = Root::new();
    let _php = PhpFpm::start(&root, &[Pool::new("www")]);
    let nginx = Nginx::start(&root, &Vhost::many("www", SITES.len()));
    let fleet = start(&root);
    wait_for_first_look(&fleet, "changes.json", "sites-enabled/www02.test");
    for site in SITES {
        for _ in 0..30 {
            assert_eq!(get(nginx.address(), site, "/index.php"), 200);
        }
    }
    eventually("the past is stored", LIMIT, || {
        let n = fleet.db().n_requests("web-1");
        if n == 90 { Ok(()) } else { Err(format!("{n}")) }
    });

    let path = root.join("etc/nginx/sites-enabled/www02.test");
    let before = fs::read_to_string(&path).expect("nginx has read it");
    let after = before.replace("/run/php/www.sock", "/run/php/gone.sock");
    assert_ne!(before, after);
    let edited_ms = now_ms();
    fs::write(&path, &after).expect("it is ours");
    nginx.reload();
    let incident = eventually("the incident names the edit", LIMIT, || {
        assert_eq!(get(nginx.address(), "www02.test", "/index.php"), 502);
        assert_eq!(get(nginx.address(), "www01.test", "/index.php"), 200);
        pause(Duration::from_millis(250)); // the pace of the failing traffic
        let all = fleet.incidents()?;
        let named = all.iter().find(|i| i.is_top() && i.text("/change/kind") == "config");
        named.cloned().ok_or_else(|| format!("{all:#?} {:#?}", changes(&fleet)))
    });
    assert_eq!(incident.sites(), ["www02.test"]);
    assert_eq!(incident.text("/change/text"), path.to_str().expect("a plain path"));

    let found: Vec<_> = changes(&fleet).into_iter().filter(|c| c.kind == "config").collect();
    let [change] = &found[..] else { panic!("one edit is one change: {found:#?}") };
    assert_eq!((change.site.as_str(), &*change.path), ("www02.test", &*path.to_string_lossy()));
    assert_eq!([change.hash_before, change.hash_after], [hash(&before), hash(&after)]);
    let bodies = fleet.db().bodies("web-1").expect("stored");
    let errors = bodies.iter().flat_map(|body| &body.exemplars).map(|error| error.at_unix_ms);
    let first_ms = errors.min().expect("nginx answered 502");
    // The file system's clock is a tick behind, and the access log tells whole seconds.
    let told_ms = change.at_unix_ms;
    assert!(
        (edited_ms - 50..=first_ms + 1000).contains(&told_ms),
        "{edited_ms} {told_ms} {first_ms}"
    );
    let text = serde_json::to_string(incident.json()).expect("JSON");
    assert!(!text.contains("fastcgi_pass"), "the content stays where it is: {text}");
}

fn plugin(version: &str) -> String {
    format!("<?php\n/*\n * Plugin Name: WooCommerce\n * Version: {version}\n */\n")
}

fn theme(version: &str) -> String {
    format!("/*\nTheme Name: Shop\nVersion: {version}\n*/\n")
}

fn wordpress(version: &str) -> String {
    format!("<?php\n$wp_version = '{version}';\n")
}

fn joomla(version: &str) -> String {
    format!("<extension><version>{version}</version></extension>\n")
}

fn drupal(version: &str) -> String {
    format!("<?php class Drupal {{ const VERSION = '{version}'; }}\n")
}

/// A file, how it tells a version, and the versions before and after.
type Versioned = (&'static str, fn(&str) -> String, &'static str, &'static str);

const VERSIONS: [Versioned; 4] = [
    ("srv/shop/wp-includes/version.php", wordpress, "6.4.2", "6.5"),
    ("srv/shop/wp-content/themes/shop/style.css", theme, "1.3", "1.4"),
    ("srv/joomla/administrator/manifests/files/joomla.xml", joomla, "5.0.1", "5.1.0"),
    ("srv/drupal/core/lib/Drupal.php", drupal, "10.2.1", "10.2.2"),
];

const RPM_DATABASE: &str = "var/lib/rpm/rpmdb.sqlite";
/// What only root may read on most servers: nothing is told of them, which is said once each.
const REFUSED: [&str; 2] = ["var/log/yum.log", "var/spool/cron"];

/// Sites with document roots of their own, which nginx need not serve, on a server with files as its
/// packages leave them.
fn write_shop(root: &Root) {
    let dir = root.path().display();
    root.write(
        "etc/nginx/nginx.conf",
        &format!("http {{ include {dir}/etc/nginx/sites-enabled/*; }}"),
    );
    for name in ["shop", "joomla", "drupal"] {
        let certificate = if name == "shop" {
            format!("ssl_certificate {dir}/etc/letsencrypt/live/shop.test/fullchain.pem;")
        } else {
            String::new()
        };
        let vhost = format!(
            "server {{ server_name {name}.test; root {dir}/srv/{name};\n{certificate}\n\
             access_log {dir}/var/log/nginx/{name}.test.log; }}\n"
        );
        root.write(&format!("etc/nginx/sites-enabled/{name}.test"), &vhost);
        root.write(&format!("var/log/nginx/{name}.test.log"), "");
    }
    for file in ["dpkg.log", "dnf.rpm.log", "yum.log", "fail2ban.log"] {
        root.write(&format!("var/log/{file}"), "");
    }
    root.write(RPM_DATABASE, "");
    root.write("etc/nftables.conf", "flush ruleset\n");
    root.write("etc/resolv.conf", "nameserver 192.0.2.1\n");
    root.write("etc/mysql/my.cnf", "[mysqld]\n");
    root.write("etc/php/8.2/fpm/php.ini", "memory_limit = 128M\n");
    root.write("etc/php/8.2/fpm/pool.d/www.conf", "[www]\nlisten = /run/php/www.sock\n");
    root.write("etc/cron.d/report", "0 3 * * * root /usr/local/bin/report\n");
    root.write("etc/letsencrypt/live/shop.test/fullchain.pem", OLD_CERTIFICATE);
    root.write("srv/shop/.htaccess", "RewriteEngine On\n");
    root.write("srv/shop/wp-config.php", "<?php\n");
    root.write("srv/shop/wp-content/plugins/woocommerce/woocommerce.php", &plugin("8.1.0"));
    for (path, text, before, _) in VERSIONS {
        root.write(path, &text(before));
    }
    root.mkdir("var/spool/cron");
    if is_root() {
        let set = |path: &str, mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.join(path), mode).expect("root may chmod");
        };
        set("var/log/yum.log", 0o600);
        set("var/spool/cron", 0o700);
        set("srv/shop/wp-config.php", 0o600);
        set("var/log/fail2ban.log", 0o640);
        let adm = Some(rustix::fs::Gid::from_raw(4));
        rustix::fs::chown(root.join("var/log/fail2ban.log"), None, adm).expect("root may chown");
    }
}

/// Installs a package made here with the real dpkg, into the root.
fn install_package(root: &Root) {
    let build = root.mkdir("build/gatewatch-probe-test");
    root.write(
        "build/gatewatch-probe-test/DEBIAN/control",
        "Package: gatewatch-probe-test\nVersion: 1.0\nArchitecture: all\n\
         Maintainer: Nobody <nobody@shop.test>\nDescription: a package of a test\n",
    );
    root.write("build/gatewatch-probe-test/usr/share/gatewatch-probe-test/file", "x\n");
    let package = root.join("build/x.deb");
    let deb = find_program(&["dpkg-deb"], "dpkg");
    let mut command = Command::new(deb);
    command.args([Path::new("--build"), Path::new("--root-owner-group"), &build, &package]);
    Output::of(&mut command).good().expect("a package is made");
    for folder in ["updates", "info"] {
        root.mkdir(format!("var/lib/dpkg/{folder}"));
    }
    for file in ["status", "available"] {
        root.write(&format!("var/lib/dpkg/{file}"), "");
    }
    let dir = root.path().display();
    let mut command = Command::new(find_program(&["dpkg"], "dpkg"));
    command.args([format!("--root={dir}"), format!("--log={dir}/var/log/dpkg.log")]);
    command.args(["--force-not-root", "--force-script-chrootless", "-i"]).arg(&package);
    Output::of(&mut command).good().expect("it is installed");
}

fn change_everything(root: &Root) {
    let at = jiff::Zoned::now();
    install_package(root);
    let dnf = at.strftime("%Y-%m-%dT%H:%M:%S%z SUBDEBUG Installed: vim-2:9.0-1.el8.x86_64\n");
    root.write("var/log/dnf.rpm.log", &dnf.to_string());
    let yum = at.strftime("%b %e %H:%M:%S Updated: 1:nginx-1.20.1-1.el7.x86_64\n");
    root.write("var/log/yum.log", &yum.to_string());
    let ban =
        at.strftime("%Y-%m-%d %H:%M:%S,1 fail2ban.actions [9]: NOTICE  [web] Ban 127.0.0.1\n");
    root.write("var/log/fail2ban.log", &ban.to_string());
    // Two minutes away from what the logs tell.
    let database = fs::File::options().write(true).open(root.join(RPM_DATABASE)).expect("ours");
    let two_minutes_ago = UNIX_EPOCH + Duration::from_millis(now_ms() as u64 - 120_000);
    database.set_modified(two_minutes_ago).expect("ours");
    root.write("etc/nftables.conf", "table inet filter {}\n");
    root.write("etc/resolv.conf", "nameserver 192.0.2.2\n");
    root.write("etc/mysql/my.cnf", "[mysqld]\nmax_connections = 10\n");
    root.write("etc/php/8.2/fpm/php.ini", "memory_limit = 64M\n");
    root.write("etc/php/8.2/fpm/pool.d/www.conf", "[www]\nlisten = /run/php/w.sock\n");
    root.write("etc/cron.d/report", "30 3 * * * root /usr/local/bin/report\n");
    root.write("etc/letsencrypt/live/shop.test/fullchain.pem", NEW_CERTIFICATE);
    root.write("srv/shop/.htaccess", "Deny from all\n");
    root.write("srv/shop/wp-config.php", "<?php // longer\n");
    // As WordPress updates: the new one takes the place of the old one.
    fs::remove_dir_all(root.join("srv/shop/wp-content/plugins/woocommerce")).expect("ours");
    root.write("srv/shop/wp-content/plugins/woocommerce/woocommerce.php", &plugin("8.2.0"));
    for (path, text, _, after) in VERSIONS {
        root.write(path, &text(after));
    }
}

/// Kind, text, site, hash before and after.
type Want = (&'static str, String, &'static str, u64, u64);

fn wanted(root: &Root) -> Vec<Want> {
    let below = |path: &str| root.join(path).display().to_string();
    let certificate = below("etc/letsencrypt/live/shop.test/fullchain.pem");
    // Kind, text, site, contents before and after.
    let edited = |path: &str, kind: &'static str, site: &'static str, before, after| {
        (kind, below(path), site, hash(before), hash(after))
    };
    let renewed = format!("{certificate} renewed, until 2027-03-30");
    let (old, new) = (hash(OLD_CERTIFICATE), hash(NEW_CERTIFICATE));
    let updated = "plugin woocommerce 8.1.0 to 8.2.0 on shop.test".to_owned();
    // What the agent may not read has no hash.
    let secret = |text: &str| if is_root() { 0 } else { hash(text) };
    let config = below("srv/shop/wp-config.php");
    let (config_before, config_after) = (secret("<?php\n"), secret("<?php // longer\n"));
    let (theme_before, theme_after) = (hash(&theme("1.3")), hash(&theme("1.4")));
    let told =
        |kind: &'static str, what: &str, site: &'static str| (kind, what.to_owned(), site, 0, 0);
    vec![
        told("package", "gatewatch-probe-test 1.0 installed", ""),
        told("package", "vim 2:9.0-1.el8 installed", ""),
        told("package", "packages changed (rpm database written)", ""),
        told("firewall", "an address of this server or of a backend was banned (web)", ""),
        edited("etc/nftables.conf", "firewall", "", "flush ruleset\n", "table inet filter {}\n"),
        edited("etc/resolv.conf", "dns", "", "nameserver 192.0.2.1\n", "nameserver 192.0.2.2\n"),
        edited("etc/mysql/my.cnf", "config", "", "[mysqld]\n", "[mysqld]\nmax_connections = 10\n"),
        edited(
            "etc/php/8.2/fpm/php.ini",
            "config",
            "",
            "memory_limit = 128M\n",
            "memory_limit = 64M\n",
        ),
        edited(
            "etc/php/8.2/fpm/pool.d/www.conf",
            "config",
            "",
            "[www]\nlisten = /run/php/www.sock\n",
            "[www]\nlisten = /run/php/w.sock\n",
        ),
        edited(
            "etc/cron.d/report",
            "schedule",
            "",
            "0 3 * * * root /usr/local/bin/report\n",
            "30 3 * * * root /usr/local/bin/report\n",
        ),
        edited(
            "srv/shop/.htaccess",
            "config",
            "shop.test",
            "RewriteEngine On\n",
            "Deny from all\n",
        ),
        ("config", config, "shop.test", config_before, config_after),
        ("certificate", renewed, "shop.test", old, new),
        ("plugin", updated, "shop.test", hash(&plugin("8.1.0")), hash(&plugin("8.2.0"))),
        told("plugin", "WordPress 6.4.2 to 6.5 on shop.test", "shop.test"),
        (
            "plugin",
            "theme shop 1.3 to 1.4 on shop.test".to_owned(),
            "shop.test",
            theme_before,
            theme_after,
        ),
        told("plugin", "Joomla 5.0.1 to 5.1.0 on joomla.test", "joomla.test"),
        told("plugin", "Drupal 10.2.1 to 10.2.2 on drupal.test", "drupal.test"),
    ]
}

/// What may not be read is said, with the fix, and not at each look.
fn assert_refusals_are_said_once(root: &Root, fleet: &Fleet) {
    if !is_root() {
        return; // the files are our own
    }
    let log = fleet.agent("web-1").log_text();
    for path in REFUSED {
        let path = format!("path={} ", root.join(path).display());
        let said: Vec<_> = log.lines().filter(|line| line.contains(&path)).collect();
        let [line] = &said[..] else { panic!("{path}: {said:#?} in {log}") };
        assert!(line.contains("may not be read") && line.contains("setfacl"), "{line}");
    }
}

#[test]
fn every_kind_of_change_is_stored_with_its_site_and_its_hashes() {
    let root = Root::new();
    write_shop(&root);
    let mut fleet = start(&root);
    wait_for_first_look(&fleet, "changes.json", "resolv.conf");
    wait_for_first_look(&fleet, "applications.json", "woocommerce");
    assert!(changes(&fleet).is_empty(), "what is there at the first look is no change");
    change_everything(&root);
    let want = wanted(&root);
    eventually("every change is stored", LIMIT, || {
        let found = changes(&fleet);
        let is_there = |(kind, what, site, before, after): &Want| {
            found.iter().any(|change| {
                (change.kind == *kind && change.what == *what && change.site == *site)
                    && (change.hash_before, change.hash_after) == (*before, *after)
            })
        };
        let missing: Vec<_> = want.iter().filter(|change| !is_there(change)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:#?} in {found:#?}")) }
    });
    assert_eq!(changes(&fleet).len(), want.len(), "nothing is told twice: {:#?}", changes(&fleet));
    let recent = |change: &Change| (0..400_000).contains(&(now_ms() - change.at_unix_ms));
    assert!(changes(&fleet).iter().all(recent), "{:#?}", changes(&fleet));
    assert_refusals_are_said_once(&root, &fleet);
    restarts_tell_nothing_twice(&root, &mut fleet, want.len());
}

/// While the agent is stopped, and through one more restart.
fn restarts_tell_nothing_twice(root: &Root, fleet: &mut Fleet, n_before: usize) {
    fleet.agent_mut("web-1").stop();
    root.write("etc/resolv.conf", "nameserver 192.0.2.3\n");
    root.write("srv/shop/.htaccess", "Allow from all\n");
    fleet.agent_mut("web-1").start();
    let n = n_before + 2;
    let all_told = |fleet: &Fleet| {
        let found = changes(fleet);
        if found.len() == n { Ok(()) } else { Err(format!("{found:#?}")) }
    };
    eventually("what happened meanwhile is told", LIMIT, || all_told(fleet));
    fleet.agent_mut("web-1").stop();
    fleet.agent_mut("web-1").start();
    root.write("etc/mysql/my.cnf", "[mysqld]\n");
    eventually("the next change is told", LIMIT, || {
        let found = changes(fleet);
        if found.len() > n { Ok(()) } else { Err(format!("{found:#?}")) }
    });
    assert_eq!(changes(fleet).len(), n + 1, "and none twice: {:#?}", changes(fleet));
}

/// Jobs for each of the next minutes, one of them on a condition that does not hold.
fn crontab() -> String {
    let now = jiff::Zoned::now();
    let lines = (1..=5).map(|minutes| {
        let when = (&now + jiff::Span::new().minutes(minutes)).strftime("%M %H * * *").to_string();
        format!(
            "{when} root test -x /usr/local/bin/backup -a \\! -d /run/none && /usr/local/bin/backup\n\
             {when} root [ -d /run/none ] && /usr/local/bin/mysqldump\n"
        )
    });
    lines.collect()
}

#[test]
fn jobs_that_are_due_bans_and_the_history_of_apt_are_told() {
    let root = Root::new();
    let program = root.write("usr/local/bin/backup", "#!/bin/sh\nexit 1\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    let crontab = root.write("etc/cron.d/night", &crontab());
    root.write("var/log/apt/history.log", "");
    root.write("var/log/fail2ban.log", "");
    root.write("var/log/firewalld", "");
    root.write("etc/nginx/nginx.conf", "http { server { server_name a.test; } }\n");
    let fleet = start(&root);
    wait_for_first_look(&fleet, "changes.json", "cron.d/night");
    let at = jiff::Zoned::now();
    let apt =
        at.strftime("\nStart-Date: %Y-%m-%d  %H:%M:%S\nUpgrade: nginx:amd64 (1.22.1, 1.26.0)\n");
    root.write("var/log/apt/history.log", &apt.to_string());
    let stamp = at.strftime("%Y-%m-%d %H:%M:%S");
    let ban = |address| format!("{stamp},1 fail2ban.actions [9]: NOTICE  [sshd] Ban {address}\n");
    root.write("var/log/fail2ban.log", &(ban("192.0.2.7") + &ban("10.0.0.9")));
    root.write("var/log/firewalld", &format!("{stamp} ERROR: COMMAND_FAILED: x\n"));
    let due = format!("backup is due by schedule ({})", crontab.display());
    let changes = eventually("the job is due", 3 * LIMIT, || {
        let found = changes(&fleet);
        let is_due = found.iter().any(|change| change.what == due && change.kind == "schedule");
        if is_due { Ok(found) } else { Err(format!("{found:#?}")) }
    });
    let others: Vec<_> = changes.iter().filter(|change| change.what != due).collect();
    let [package] = &others[..] else { panic!("neither bans nor errors are changes: {others:#?}") };
    assert_eq!((&*package.kind, &*package.what), ("package", "nginx 1.22.1 to 1.26.0"));
    eventually("bans and errors are context", 3 * LIMIT, || {
        let bodies = fleet.db().bodies("web-1").unwrap_or_default();
        let lines: Vec<_> = bodies.into_iter().flat_map(|body| body.log_lines).collect();
        let has = |text: &str| lines.iter().any(|line| line.message == text);
        let has_both = has("2 addresses banned within a minute: sshd 2")
            && has("firewalld could not set its rules");
        if has_both { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
}
