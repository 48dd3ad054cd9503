//! The judge's count of what was refused: requests by ModSecurity, packets by a firewall.

use std::time::Duration;

use wire::UnixMillis;

use super::{Judge, OTHER};
use crate::discover::{LogKind, SiteRule};
use crate::logs::ErrorRecord;
use crate::logs::parse::{firewall, modsecurity};
use crate::logs::refused::Refused;
use crate::window::{Dropped, LogEvidence};

/// How long the audit log of a site is not counted after a line of the web server's log.
const ERROR_LOG_COUNTS: Duration = Duration::from_secs(3600);

/// False for a line that an application may have written: what PHP and scripts say goes into the same
/// log. Apache tells the module; versions that do not have the request's id behind it; what nginx says
/// of ModSecurity begins with the client, and what it relays does not.
fn is_of_modsecurity(record: &ErrorRecord<'_>) -> bool {
    match record.module.as_deref() {
        Some(module) => matches!(module, "security2" | "security3"),
        None => record.message.starts_with("[client ") || record.message.contains("[unique_id \""),
    }
}

impl Judge {
    /// Takes a line that tells of something refused; true when it was one.
    pub(super) fn refusal(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> bool {
        match self.sources[source].kind {
            // Not from syslog: any user may write there, in anybody's name.
            LogKind::Error if !is_of_modsecurity(record) => false,
            LogKind::Error | LogKind::Modsecurity => match modsecurity::blocked(&record.message) {
                Some(rule) => {
                    self.blocked(source, record, rule, at, now);
                    true
                }
                None => false,
            },
            // The kernel's own log, into which syslog daemons let nobody else write; the others hold
            // what `logger -t kernel` says, too.
            LogKind::Kernel => self.packet(record, at, now),
            _ => false,
        }
    }

    /// A request that ModSecurity refused.
    fn blocked(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        rule: u32,
        at: UnixMillis,
        now: UnixMillis,
    ) {
        let is_audit = self.sources[source].kind == LogKind::Modsecurity;
        let named = [&record.host, &record.server_name].into_iter().flatten();
        let hosts = named.map(|host| &**host).chain(modsecurity::hostname(&record.message));
        let mut site = hosts.map(|host| self.sites.find_host(host)).find_map(|site| site);
        if let (None, SiteRule::Fixed(name)) = (site, &self.sources[source].rule) {
            site = self.sites.find_host(name);
        }
        let site = site.or_else(|| self.only_site_of(source));
        // Both logs tell of the same request: that of the web server counts where there is one.
        if is_audit {
            let told = match site {
                Some(_) => self.error_log_blocks.get(&site),
                // Of no known host: the error log may have it under its only site.
                None => self.error_log_blocks.values().max(),
            };
            if told.is_some_and(|at| *at <= now && now < at.plus(ERROR_LOG_COUNTS)) {
                return;
            }
        } else {
            self.error_log_blocks.insert(site, now);
        }
        let name = site.map(|site| self.sites.infos()[site as usize].name.clone());
        let what = name.filter(|name| name != OTHER).map_or(Refused::Sites, Refused::Site);
        self.refusals.note(what, rule, 1, at, now);
        if let Some(site) = site {
            self.blocked_last = Some((at.second(), site));
        }
    }

    /// The site of an error log that only one site writes to.
    fn only_site_of(&self, source: usize) -> Option<u32> {
        let path = &self.sources[source].path;
        let mut owners = self.discovery.sites.iter().filter(|site| site.error_logs.contains(path));
        match (owners.next(), owners.next()) {
            (Some(only), None) => self.sites.find_host(&only.name),
            _ => None,
        }
    }

    /// A packet that a firewall refused.
    fn packet(&mut self, record: &ErrorRecord<'_>, at: UnixMillis, now: UnixMillis) -> bool {
        let Some(packet) = firewall::refused(&record.message) else { return false };
        if let Some(backend) = self.backends.of_packet(&packet) {
            self.refusals.note(Refused::Backend(backend), 0, 1, at, now);
        }
        true
    }

    /// Packets that a firewall refused, as the kernel itself told.
    pub fn dropped(&mut self, dropped: Dropped, now: UnixMillis) {
        self.refusals.note(Refused::Backend(dropped.backend), 0, dropped.n, dropped.at, now);
    }

    /// Attacks on a site that Wordfence recorded since the last look at its log.
    pub fn recorded(&mut self, site: &str, n: u32, now: UnixMillis) {
        self.refusals.note(Refused::Recorded(site.to_owned()), 0, n, now, now);
    }

    /// Second and site of the request that was refused by the last line, once.
    pub fn take_blocked(&mut self) -> Option<(i64, u32)> {
        self.blocked_last.take()
    }

    /// The summaries that are due; with `all` those that are not, too.
    pub fn take_refusals(&mut self, now: UnixMillis, all: bool) -> Vec<LogEvidence> {
        self.refusals.take_due(now, all)
    }
}
