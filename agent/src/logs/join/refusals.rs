//! The judge's count of what was refused: requests by ModSecurity, packets by a firewall.

use wire::UnixMillis;

use super::{Judge, OTHER};
use crate::discover::{LogKind, SiteRule};
use crate::logs::ErrorRecord;
use crate::logs::parse::{firewall, modsecurity};
use crate::logs::refused::Refused;
use crate::window::{Dropped, LogEvidence};

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
            LogKind::Error | LogKind::Modsecurity | LogKind::Syslog => {
                let Some(rule) = modsecurity::blocked(&record.message) else {
                    return self.packet(source, record, at, now);
                };
                self.blocked(source, record, rule, at, now);
                true
            }
            LogKind::Kernel => self.packet(source, record, at, now),
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
        // Both logs tell of the same request: that of the web server counts where there is one.
        if is_audit && self.has_error_log_blocks {
            return;
        }
        self.has_error_log_blocks |= !is_audit;
        let named = [&record.host, &record.server_name].into_iter().flatten();
        let hosts = named.map(|host| &**host).chain(modsecurity::hostname(&record.message));
        let mut site = hosts.map(|host| self.sites.find_host(host)).find_map(|site| site);
        if let (None, SiteRule::Fixed(name)) = (site, &self.sources[source].rule) {
            site = self.sites.find_host(name);
        }
        let site = site.or_else(|| self.only_site_of(source));
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

    /// A packet that a firewall refused, of a log that has the kernel's messages.
    fn packet(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> bool {
        let kind = self.sources[source].kind;
        let is_kernels = kind == LogKind::Kernel
            || kind == LogKind::Syslog && record.message.starts_with("kernel: ");
        let packet = if is_kernels { firewall::refused(&record.message) } else { None };
        let Some(packet) = packet else { return false };
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
