//! What firewalls write of themselves: failed and new rule sets, and addresses they ban.
//!
//! Bans of visitors are no change of the firewall: a server on the internet has them all day. They are
//! counted for a minute and told as context. A ban of an address of our own network is one: it may be
//! the gateway or the backend that is shut out. No address leaves the server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::added::{Mark, read_added};
use super::package_lines::{Reading, wall, without_year};
use crate::discover::Discovery;
use crate::window::{Change, LogEvidence, Observation};

const LOGS: [(&str, Firewall); 3] = [
    ("var/log/fail2ban.log", Firewall::Fail2ban),
    ("var/log/lfd.log", Firewall::Lfd),
    ("var/log/firewalld", Firewall::Firewalld),
];
const COUNT_MS: i64 = 60_000;
/// Jails that are counted by their name.
const JAILS_MAX: usize = 50;
/// Jails named in one text.
const JAILS_TOLD_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firewall {
    Fail2ban,
    Lfd,
    Firewalld,
}

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    logs: BTreeMap<PathBuf, Mark>,
}

/// Bans of the running minute.
#[derive(Debug, Default)]
pub(super) struct Bans {
    by_jail: BTreeMap<String, u32>,
    since: Option<UnixMillis>,
}

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Banned { jail: String, address: IpAddr },
    Changed(&'static str),
}

impl Bans {
    /// Reads what was added to each log. Also says whether `seen` is another now.
    pub(super) fn look(
        &mut self,
        root: &Path,
        discovery: &Discovery,
        seen: &mut Seen,
        now: UnixMillis,
    ) -> (Vec<Observation>, bool) {
        let mut found = Vec::new();
        let mut is_moved = false;
        for (name, firewall) in LOGS {
            let path = root.join(name);
            let known = seen.logs.get(&path).copied();
            let Ok((mark, text)) = read_added(&path, known) else { continue };
            if known == Some(mark) {
                continue;
            }
            is_moved = true;
            let reading = Reading { zone: &TimeZone::system(), now };
            let mut told: BTreeMap<String, UnixMillis> = BTreeMap::new();
            for line in text.lines() {
                let Some((at, said)) = parse(firewall, line, &reading) else { continue };
                let what = match said {
                    Said::Changed(what) => what.to_owned(),
                    Said::Banned { jail, address } if is_own(address, discovery) => {
                        format!("an address of the own network was banned ({jail})")
                    }
                    Said::Banned { jail, .. } => {
                        self.count(jail, now);
                        continue;
                    }
                };
                told.entry(what).or_insert(at.min(now));
            }
            for (what, at) in told {
                let path = path.display().to_string();
                let change = Change { path, ..Change::new("firewall", what, at) };
                found.push(Observation::Change(change));
            }
            seen.logs.insert(path, mark);
        }
        found.extend(self.take(now).map(Observation::Log));
        (found, is_moved)
    }

    fn count(&mut self, jail: String, now: UnixMillis) {
        self.since.get_or_insert(now);
        let jail = if self.by_jail.len() < JAILS_MAX { jail } else { "others".to_owned() };
        *self.by_jail.entry(jail).or_default() += 1;
    }

    /// The sum of a minute that is over.
    fn take(&mut self, now: UnixMillis) -> Option<LogEvidence> {
        let since = self.since.filter(|since| now.0 - since.0 >= COUNT_MS)?;
        self.since = None;
        let mut jails: Vec<_> = std::mem::take(&mut self.by_jail).into_iter().collect();
        jails.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let n: u32 = jails.iter().map(|(_, n)| n).sum();
        let named: Vec<_> =
            jails.iter().take(JAILS_TOLD_MAX).map(|(jail, n)| format!("{jail} {n}")).collect();
        let message = format!("{n} addresses banned within a minute: {}", named.join(", "));
        Some(LogEvidence { source: "syslog", message, at: since, signal: None, pool: None })
    }
}

/// True for an address of a private network, of this machine, or of a backend.
fn is_own(address: IpAddr, discovery: &Discovery) -> bool {
    let is_private = match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    let text = address.to_string();
    let is_backend = |upstream: &String| {
        let host = upstream.rsplit_once(':').map_or(upstream.as_str(), |(host, _)| host);
        host.trim_matches(['[', ']']) == text
    };
    is_private
        || discovery.addresses.contains(&address)
        || discovery.sites.iter().filter_map(|site| site.upstream.as_ref()).any(is_backend)
}

fn parse(firewall: Firewall, line: &str, reading: &Reading<'_>) -> Option<(UnixMillis, Said)> {
    let dated = || {
        let (date, rest) = line.split_once(' ')?;
        wall(date, rest.get(..8)?, reading.zone)
    };
    match firewall {
        // 2026-11-20 12:00:00,123 fail2ban.actions [123]: NOTICE [sshd] Ban 192.0.2.7
        Firewall::Fail2ban => {
            let (before, address) = line.split_once("] Ban ")?;
            let jail = plain(before.rsplit_once('[')?.1)?;
            let address = address.split_whitespace().next()?.parse().ok()?;
            Some((dated()?, Said::Banned { jail, address }))
        }
        // Nov 20 12:00:01 web lfd[123]: (sshd) Failed SSH login from 192.0.2.7 (US/United States/-): 5
        // in the last 3600 secs - *Blocked in csf* [LF_SSHD]
        Firewall::Lfd => {
            let at = without_year(line.get(..15)?, reading)?;
            if line.contains("daemon started") {
                return Some((at, Said::Changed("lfd was started")));
            }
            if !line.contains("*Blocked in csf*") {
                return None;
            }
            let (_, rest) = line.split_once(" from ")?;
            let address = rest.split([' ', '(']).next()?.parse().ok()?;
            let jail = line.split_once('(').and_then(|(_, rest)| rest.split(')').next());
            let jail = jail.and_then(plain).unwrap_or_else(|| "lfd".to_owned());
            Some((at, Said::Banned { jail, address }))
        }
        // 2026-11-20 12:00:00 ERROR: COMMAND_FAILED: …
        Firewall::Firewalld => {
            let (_, rest) = line.split_once(" ERROR: ")?;
            let what = if rest.starts_with("COMMAND_FAILED") {
                "firewalld could not set its rules"
            } else {
                "firewalld reports an error"
            };
            Some((dated()?, Said::Changed(what)))
        }
    }
}

/// The name of a jail.
fn plain(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    ((1..=40).contains(&name.len()) && name.chars().all(plain)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn check(firewall: Firewall, line: &str, want: Option<&Said>) {
        let reading = Reading { zone: &TimeZone::UTC, now: UnixMillis(1_795_186_800_000) };
        let found = parse(firewall, line, &reading);
        assert_eq!(found.as_ref().map(|(_, said)| said), want, "{line}");
    }

    fn banned(jail: &str) -> Said {
        Said::Banned { jail: jail.to_owned(), address: "192.0.2.7".parse().unwrap() }
    }

    #[test]
    fn logs_of_firewalls_tell_bans_and_failures() {
        let stamp = "2026-11-20 12:00:00";
        let f2b = |rest: &str| format!("{stamp},123 fail2ban.actions        [9]: NOTICE  {rest}");
        check(Firewall::Fail2ban, &f2b("[sshd] Ban 192.0.2.7"), Some(&banned("sshd")));
        check(Firewall::Fail2ban, &f2b("[sshd] Unban 192.0.2.7"), None);
        check(Firewall::Fail2ban, &f2b("[s\u{1b}hd] Ban 192.0.2.7"), None);
        check(Firewall::Fail2ban, &f2b("[sshd] Ban everybody"), None);
        let lfd = |rest: &str| format!("Nov 20 12:00:01 web lfd[9]: {rest}");
        let blocked = "(sshd) Failed SSH login from 192.0.2.7 (US/United States/-): 5 in the last \
                       3600 secs - *Blocked in csf* [LF_SSHD]";
        check(Firewall::Lfd, &lfd(blocked), Some(&banned("sshd")));
        check(
            Firewall::Lfd,
            &lfd("daemon started on web - csf v14.15 (generic)"),
            Some(&Said::Changed("lfd was started")),
        );
        check(Firewall::Lfd, "", None);
        check(
            Firewall::Firewalld,
            &format!("{stamp} ERROR: COMMAND_FAILED: '/usr/sbin/iptables-restore -w -n' failed"),
            Some(&Said::Changed("firewalld could not set its rules")),
        );
        check(Firewall::Firewalld, &format!("{stamp} WARNING: ALREADY_ENABLED: x"), None);
    }

    #[test]
    fn bans_of_visitors_are_counted_and_one_of_the_own_network_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/fail2ban.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let ban = |jail: &str, address: &str| {
            format!("2026-11-20 12:00:00,1 fail2ban.actions [9]: NOTICE  [{jail}] Ban {address}\n")
        };
        let mut seen = Seen::default();
        let mut bans = Bans::default();
        let discovery = Discovery::default();
        let start = crate::clock::now().0;
        let mut look =
            |after: i64| bans.look(dir.path(), &discovery, &mut seen, UnixMillis(start + after)).0;
        assert!(look(0).is_empty());
        let text = ban("sshd", "192.0.2.1") + &ban("sshd", "192.0.2.2") + &ban("web", "10.0.0.7");
        fs::write(&log, text).unwrap();
        let found = look(2000);
        let [Observation::Change(change)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(change.kind, "firewall");
        assert_eq!(change.what, "an address of the own network was banned (web)");
        assert!(look(4000).is_empty());
        let found = look(62_000);
        let [Observation::Log(line)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(line.message, "2 addresses banned within a minute: sshd 2");
        assert!(look(64_000).is_empty());
    }
}
