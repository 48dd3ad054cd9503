//! What firewalls write of themselves: addresses they ban, starts and errors.
//!
//! Bans of visitors are no change of the firewall: a server on the internet has them all day. They are
//! counted for a minute and told as context, as are starts and errors. A ban of an address of this
//! server, or of a backend, is a change: gateway and backend are shut out from each other. No address
//! leaves the server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::added::{Mark, read_added};
use super::package_lines::{Reading, wall, without_year};
use super::refused::Refused;
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
    /// Starts and errors, by when they were told last.
    told: BTreeMap<&'static str, UnixMillis>,
    refused: Refused,
}

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Banned {
        jail: String,
        address: IpAddr,
    },
    /// No rule is another one for it.
    Context(&'static str),
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
            let (mark, text) = match read_added(&path, known) {
                Ok(added) => added,
                Err(error) => {
                    self.refused.say(&path, &error, "bans and errors of this firewall are");
                    continue;
                }
            };
            if known == Some(mark) {
                continue;
            }
            is_moved = true;
            let reading = Reading { zone: &TimeZone::system(), now };
            let mut told: BTreeMap<String, UnixMillis> = BTreeMap::new();
            for line in text.lines() {
                let Some((at, said)) = parse(firewall, line, &reading) else { continue };
                let what = match said {
                    Said::Context(what) => {
                        found.extend(self.tell(what, at.min(now), now).map(Observation::Log));
                        continue;
                    }
                    Said::Banned { jail, address } if is_own(address, discovery) => {
                        format!("an address of this server or of a backend was banned ({jail})")
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

    /// The same only once a minute.
    fn tell(&mut self, what: &'static str, at: UnixMillis, now: UnixMillis) -> Option<LogEvidence> {
        let is_told = self.told.get(what).is_some_and(|last| now.0 - last.0 < COUNT_MS);
        if is_told {
            return None;
        }
        self.told.insert(what, now);
        Some(LogEvidence { source: "syslog", message: what.into(), at, signal: None, pool: None })
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

/// True for an address of this machine or of a backend. Visitors may have one of a private network.
fn is_own(address: IpAddr, discovery: &Discovery) -> bool {
    let is_of = |upstream: &String| {
        let host = upstream.rsplit_once(':').map_or(upstream.as_str(), |(host, _)| host);
        host.trim_matches(['[', ']']).parse() == Ok(address)
    };
    let mut backends = discovery.backends.iter().map(|backend| &backend.address);
    let mut upstreams = discovery.sites.iter().filter_map(|site| site.upstream.as_ref());
    address.is_loopback()
        || discovery.addresses.contains(&address)
        || backends.any(is_of)
        || upstreams.any(is_of)
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
                return Some((at, Said::Context("lfd was started")));
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
            Some((dated()?, Said::Context(what)))
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
    use crate::discover::backends::Backend;
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
            Some(&Said::Context("lfd was started")),
        );
        check(Firewall::Lfd, "", None);
        check(
            Firewall::Firewalld,
            &format!("{stamp} ERROR: COMMAND_FAILED: '/usr/sbin/iptables-restore -w -n' failed"),
            Some(&Said::Context("firewalld could not set its rules")),
        );
        check(Firewall::Firewalld, &format!("{stamp} WARNING: ALREADY_ENABLED: x"), None);
    }

    #[test]
    fn bans_of_visitors_are_counted_and_one_of_a_backend_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/fail2ban.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let ban = |jail: &str, address: &str| {
            format!("2026-11-20 12:00:00,1 fail2ban.actions [9]: NOTICE  [{jail}] Ban {address}\n")
        };
        let mut seen = Seen::default();
        let mut bans = Bans::default();
        let backend = |address: &str| Backend { address: address.into(), ..Backend::default() };
        let discovery = Discovery {
            backends: vec![backend("/run/app.sock"), backend("10.0.0.7:3000")],
            addresses: vec!["192.0.2.80".parse().unwrap()],
            ..Discovery::default()
        };
        let start = crate::clock::now().0;
        let mut look =
            |after: i64| bans.look(dir.path(), &discovery, &mut seen, UnixMillis(start + after)).0;
        assert!(look(0).is_empty());
        let visitors = ban("sshd", "192.0.2.1") + &ban("sshd", "10.0.0.9");
        fs::write(&log, visitors + &ban("web", "10.0.0.7") + &ban("ssh", "192.0.2.80")).unwrap();
        let found = look(2000);
        let changes = found.iter().map(|observation| match observation {
            Observation::Change(change) => (change.kind, change.what.as_str()),
            other => panic!("{other:?}"),
        });
        let what =
            |jail: &str| format!("an address of this server or of a backend was banned ({jail})");
        let (ssh, web) = (what("ssh"), what("web"));
        assert_eq!(changes.collect::<Vec<_>>(), [("firewall", &*ssh), ("firewall", &*web)]);
        assert!(look(4000).is_empty());
        let found = look(62_000);
        let [Observation::Log(line)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(line.message, "2 addresses banned within a minute: sshd 2");
        assert!(look(64_000).is_empty());
    }

    #[test]
    fn a_start_and_errors_of_a_firewall_are_context_once_a_minute_and_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/firewalld");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let (mut seen, mut bans) = (Seen::default(), Bans::default());
        let start = crate::clock::now().0;
        let mut look = |after: i64| {
            let now = UnixMillis(start + after);
            bans.look(dir.path(), &Discovery::default(), &mut seen, now).0
        };
        assert!(look(0).is_empty());
        let mut text = String::new();
        for (after, want) in [(2000, 1), (4000, 0), (62_000, 1)] {
            text += "2026-11-20 12:00:00 ERROR: COMMAND_FAILED: x\n2026-11-20 12:00:00 ERROR: \
                     COMMAND_FAILED: y\n";
            fs::write(&log, &text).unwrap();
            let found = look(after);
            let is_context = |seen: &Observation| {
                matches!(seen, Observation::Log(line)
                if line.message == "firewalld could not set its rules")
            };
            assert!(found.len() == want && found.iter().all(is_context), "{after} {found:?}");
        }
    }
}
