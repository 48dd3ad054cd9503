//! Faults as they happen, and what follows from each: which requests fail and how, which services,
//! log lines, changes and resources show it. Strengths are what real servers show.

use crate::lines::Way;
use crate::truth::Reach;
use crate::world::{Effect, Level, Said, Surge, World};

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    ServiceDown,
    Oom,
    Crash,
    Misconfig,
    Firewall,
    Dns,
    Timeout,
    SiteCode,
    Ddos,
    Overload,
    Steal,
    DiskFull,
    Network,
}

impl Cause {
    /// Classes of the contract that name it.
    fn classes(self) -> &'static [&'static str] {
        match self {
            Self::ServiceDown => &["service_down"],
            Self::Oom => &["oom"],
            Self::Crash => &["crash"],
            Self::Misconfig => &["misconfig"],
            Self::Firewall => &["firewall"],
            Self::Dns => &["dns"],
            Self::Timeout => &["timeout"],
            Self::SiteCode => &["site_code"],
            Self::Ddos => &["ddos"],
            Self::Overload => &["overload"],
            Self::Steal => &["steal"],
            Self::DiskFull => &["disk_full"],
            Self::Network => &["network"],
        }
    }
}

/// How requests fail while it lasts.
struct Failing {
    share: f64,
    ways: Vec<(f64, Way)>,
    ramp_ms: i64,
}

impl World {
    /// Breaks `reach` by `cause` between two moments, with all that follows. Returns the outage.
    pub(crate) fn inflict(&mut self, cause: Cause, reach: &Reach, from: i64, until: i64) -> usize {
        let fault = self.fault(&format!("{cause:?}"), reach.clone(), from, until);
        self.faults[fault].label.causes = cause.classes().iter().map(|c| (*c).to_owned()).collect();
        match reach {
            Reach::Servers(servers) if servers.len() > 1 => {
                let failing = self.failing(cause, reach);
                for &server in servers {
                    // One machine feels it a moment before the next.
                    let start = from + self.random.whole(0, 1500);
                    let end = until + self.random.whole(0, 1500);
                    self.break_part(
                        fault,
                        cause,
                        &Reach::Servers(vec![server]),
                        start,
                        end,
                        &failing,
                    );
                }
            }
            _ => {
                let failing = self.failing(cause, reach);
                self.break_part(fault, cause, reach, from, until, &failing);
            }
        }
        fault
    }

    /// The same change on servers one after the other: `offsets_ms` after `from`, each breaks a
    /// moment after its own change.
    pub(crate) fn roll_out(
        &mut self,
        servers: &[usize],
        offsets_ms: &[i64],
        (from, until): (i64, i64),
    ) -> usize {
        let reach = Reach::Servers(servers.to_vec());
        let fault = self.fault("Rollout", reach.clone(), from, until);
        let label = &mut self.faults[fault].label;
        label.causes = vec!["service_down".to_owned()];
        label.change = Some("package".to_owned());
        let failing = Failing { share: 1.0, ways: vec![(1.0, Way::Refused)], ramp_ms: 0 };
        for (&server, offset) in servers.iter().zip(offsets_ms) {
            let changed = from + offset;
            self.change(server, changed, "package", "php8.2-fpm 8.2.7 to 8.2.29");
            let start = changed + self.random.whole(800, 3000);
            let end = until + self.random.whole(0, 4000);
            let reach = Reach::Servers(vec![server]);
            self.requests_fail(fault, &reach, start, end, &failing);
            self.service(server, start + 200, "php8.2-fpm.service", "failed", None);
            self.service(server, end - 300, "php8.2-fpm.service", "active", None);
        }
        fault
    }

    fn break_part(
        &mut self,
        fault: usize,
        cause: Cause,
        reach: &Reach,
        from: i64,
        until: i64,
        failing: &Failing,
    ) {
        self.requests_fail(fault, reach, from, until, failing);
        let servers: Vec<usize> = match reach {
            Reach::Site(server, _) | Reach::Pool(server, _) => vec![*server],
            Reach::Servers(servers) => servers.clone(),
            // What happens on the backend machine is not seen by those that ask it.
            Reach::Upstream(_) => Vec::new(),
        };
        for &server in &servers {
            match cause {
                Cause::ServiceDown => self.show_stopped(server, reach, from, until),
                Cause::Oom => self.show_oom(server, reach, from, until),
                Cause::Crash => self.show_crash(server, reach, from, until),
                Cause::Misconfig => self.show_edit(fault, server, reach, from),
                Cause::Firewall => {
                    let at = from - self.random.whole(100, 1500);
                    self.change(server, at, "firewall", "nftables ruleset, 41 to 42 rules");
                    self.faults[fault].label.change = Some("firewall".to_owned());
                }
                Cause::SiteCode => self.show_plugin(fault, server, reach, from),
                Cause::Ddos => self.show_flood(server, from, until),
                Cause::Overload => self.show_load(server, reach, from, until),
                Cause::Steal => self.show_steal(server, from, until),
                Cause::DiskFull => self.show_full_disk(server, from, until),
                Cause::Network => {
                    let lost = self.random.between(0.10, 0.35);
                    let span = (from, until);
                    self.strain(server, span, "system.network.tcp.retransmit", Level::Near(lost));
                }
                Cause::Dns | Cause::Timeout => {}
            }
        }
    }

    fn failing(&mut self, cause: Cause, reach: &Reach) -> Failing {
        let random = &mut self.random;
        let (share, ways, ramp_ms): (f64, Vec<(f64, Way)>, i64) = match cause {
            Cause::ServiceDown => {
                let file = random.chance(0.4) && !matches!(reach, Reach::Upstream(_));
                let way = if file { Way::NoSocket } else { Way::Refused };
                (1.0, vec![(1.0, way)], 0)
            }
            Cause::Oom => {
                let ways = vec![(0.6, Way::Reset), (0.3, Way::Closed), (0.1, Way::Refused)];
                (random.between(0.5, 0.95), ways, 5_000)
            }
            Cause::Crash => {
                (random.between(0.6, 1.0), vec![(0.7, Way::Reset), (0.3, Way::Closed)], 0)
            }
            Cause::Misconfig => {
                let way = random.pick(&[Way::NoSocket, Way::Permission, Way::Refused]);
                (1.0, vec![(1.0, way)], 0)
            }
            Cause::Firewall => {
                let rejects = random.chance(0.3);
                let share = if rejects { 0.2 } else { 0.0 };
                (1.0, vec![(1.0 - share, Way::ConnectTimeout), (share, Way::NoRoute)], 0)
            }
            Cause::Dns => (1.0, vec![(1.0, Way::NoName)], 2_000),
            Cause::Timeout => (random.between(0.7, 1.0), vec![(1.0, Way::ReadTimeout)], 0),
            Cause::SiteCode => {
                let ways = random.pick(&[Way::Closed, Way::ByApplication, Way::BadHeader]);
                (random.between(0.6, 1.0), vec![(1.0, ways)], 0)
            }
            Cause::Ddos => {
                let ways = vec![(0.75, Way::QueueFull), (0.25, Way::ReadTimeout)];
                (random.between(0.4, 0.9), ways, 4_000)
            }
            Cause::Overload => {
                let ways = vec![(0.85, Way::QueueFull), (0.15, Way::ReadTimeout)];
                (random.between(0.3, 0.8), ways, 6_000)
            }
            Cause::Steal => {
                let ways = vec![(0.85, Way::ReadTimeout), (0.15, Way::QueueFull)];
                (random.between(0.3, 0.7), ways, 3_000)
            }
            Cause::DiskFull => {
                let ways = vec![(0.6, Way::ReadTimeout), (0.4, Way::Closed)];
                (random.between(0.6, 1.0), ways, 3_000)
            }
            Cause::Network => {
                let ways =
                    vec![(0.6, Way::ConnectTimeout), (0.25, Way::ReadTimeout), (0.15, Way::Reset)];
                (random.between(0.3, 0.8), ways, 0)
            }
        };
        Failing { share, ways, ramp_ms }
    }

    fn requests_fail(
        &mut self,
        fault: usize,
        reach: &Reach,
        from: i64,
        until: i64,
        failing: &Failing,
    ) {
        for place in self.places(reach) {
            self.effects.entry(place).or_default().push(Effect {
                from,
                until,
                share: failing.share,
                ramp_ms: failing.ramp_ms,
                ways: failing.ways.clone(),
                instead: None,
                fault: Some(fault),
            });
        }
    }

    /// Pool of a reach inside one server, and the unit that runs it.
    fn unit(&self, server: usize, reach: &Reach) -> (String, Option<String>) {
        match reach {
            Reach::Site(_, ix) => {
                let site = &self.fleet[server].sites[*ix];
                (format!("app-{}.service", site.name), site.pool.clone())
            }
            Reach::Pool(_, pool) => (format!("php-fpm-{pool}.service"), Some(pool.clone())),
            _ => ("php8.2-fpm.service".to_owned(), None),
        }
    }

    fn show_stopped(&mut self, server: usize, reach: &Reach, from: i64, until: i64) {
        let (unit, pool) = self.unit(server, reach);
        let at = from + self.random.whole(20, 400);
        self.service(server, at, &unit, "failed", pool.as_deref());
        self.service(server, until - 400, &unit, "activating", pool.as_deref());
        self.service(server, until, &unit, "active", pool.as_deref());
    }

    fn show_oom(&mut self, server: usize, reach: &Reach, from: i64, until: i64) {
        let whole = matches!(reach, Reach::Servers(_));
        let (_, pool) = self.unit(server, reach);
        let pool = pool.unwrap_or_else(|| "www".to_owned());
        if whole {
            let span = (from - 30_000, until);
            self.strain(server, span, "system.memory.utilization", Level::Near(0.975));
            self.strain(server, (from - 5_000, until), "system.pressure.memory", Level::Near(0.4));
        }
        self.strain(server, (from, until), "system.oom_kills", Level::Rises(0.4));
        let mut at = from - 300;
        while at < until {
            let pid = self.random.whole(900, 60_000);
            let what = if whole { "Out of memory" } else { "Memory cgroup out of memory" };
            let line = format!(
                "{what}: Killed process {pid} (php-fpm8.2) total-vm:812340kB, anon-rss:402112kB"
            );
            self.log(server, at, "kernel", line);
            let line = format!(
                "[pool {pool}] child {pid} exited on signal 9 (SIGKILL) after 12.731047 seconds \
                 from start"
            );
            self.log(server, at + 20, "php_fpm", line);
            at += self.random.whole(1_500, 4_000);
        }
    }

    fn show_crash(&mut self, server: usize, reach: &Reach, from: i64, until: i64) {
        let pool = match reach {
            Reach::Site(_, ix) => self.fleet[server].sites[*ix].pool.clone(),
            _ => self.unit(server, reach).1,
        };
        let pool = pool.unwrap_or_else(|| "www".to_owned());
        let mut at = from + 30;
        while at < until {
            let pid = self.random.whole(900, 60_000);
            let line = format!(
                "php-fpm8.2[{pid}]: segfault at 0 ip 00007f1c sp 00007ffd error 4 in opcache.so"
            );
            self.log(server, at, "kernel", line);
            let line = format!(
                "[pool {pool}] child {pid} exited on signal 11 (SIGSEGV) after 1.259416 seconds \
                 from start"
            );
            self.log(server, at + 15, "php_fpm", line);
            at += self.random.whole(800, 5_000);
        }
    }

    fn show_edit(&mut self, fault: usize, server: usize, reach: &Reach, from: i64) {
        let (what, site, pool) = match reach {
            Reach::Site(_, ix) => {
                let name = self.fleet[server].sites[*ix].name.clone();
                (format!("/etc/nginx/sites-enabled/{name}.conf"), Some(name), None)
            }
            Reach::Pool(_, pool) => {
                (format!("/etc/php/8.2/fpm/pool.d/{pool}.conf"), None, Some(pool.clone()))
            }
            _ => ("/etc/nginx/conf.d/upstream.conf".to_owned(), None, None),
        };
        let at = from - self.random.whole(800, 6_000);
        self.say(server, at, Said::Change { kind: "config", what, site, pool });
        self.service(server, from - 150, "nginx.service", "reloading", None);
        self.service(server, from - 20, "nginx.service", "active", None);
        self.faults[fault].label.change = Some("config".to_owned());
    }

    fn show_plugin(&mut self, fault: usize, server: usize, reach: &Reach, from: i64) {
        let Reach::Site(_, ix) = reach else { return };
        let name = self.fleet[server].sites[*ix].name.clone();
        let at = from - self.random.whole(300, 20_000);
        let what = format!("plugin woocommerce 8.1.0 to 8.2.0 on {name}");
        let change = Said::Change { kind: "plugin", what, site: Some(name), pool: None };
        self.say(server, at, change);
        self.faults[fault].label.change = Some("plugin".to_owned());
    }

    fn show_flood(&mut self, server: usize, from: i64, until: i64) {
        let usual: f64 = self.fleet[server].sites.iter().map(|site| site.rate).sum();
        let flood = self.random.between(150.0, 400.0);
        let (factor, n_clients) = ((flood / usual).max(8.0), 4_000);
        self.surges.push(Surge { server, site: None, from, until, factor, n_clients });
        let span = (from, until);
        let overflows = self.random.between(50.0, 400.0);
        self.strain(server, span, "system.tcp.listen_overflows", Level::Rises(overflows));
        self.strain(server, span, "system.tcp.listen_drops", Level::Rises(overflows));
        self.strain(server, span, "system.conntrack.utilization", Level::Near(0.9));
        self.strain(server, span, "system.cpu.utilization", Level::Near(0.94));
        self.strain(server, span, "system.pressure.cpu", Level::Near(0.5));
    }

    fn show_load(&mut self, server: usize, reach: &Reach, from: i64, until: i64) {
        let pools: Vec<String> = if let Reach::Pool(_, pool) = reach {
            vec![pool.clone()]
        } else {
            let pools = self.fleet[server].sites.iter().filter_map(|site| site.pool.clone());
            let all: std::collections::BTreeSet<String> = pools.collect();
            all.into_iter().collect()
        };
        for pool in pools {
            let line = format!(
                "[pool {pool}] server reached pm.max_children setting (12), consider raising it"
            );
            self.log(server, from - 400, "php_fpm", line);
        }
        let span = (from - 3_000, until);
        self.strain(server, span, "phpfpm.max_children_reached", Level::Rises(0.8));
        let factor = self.random.between(2.5, 5.0);
        if matches!(reach, Reach::Servers(_)) {
            let surge =
                Surge { server, site: None, from: from - 20_000, until, factor, n_clients: 200 };
            self.surges.push(surge);
            self.strain(server, span, "system.cpu.utilization", Level::Near(0.97));
            self.strain(server, span, "system.pressure.cpu", Level::Near(0.55));
        } else {
            self.strain(server, span, "system.cpu.utilization", Level::Near(0.7));
        }
    }

    fn show_steal(&mut self, server: usize, from: i64, until: i64) {
        let steal = self.random.between(0.35, 0.65);
        let span = (from - 15_000, until);
        self.strain(server, span, "system.cpu.steal", Level::Near(steal));
        self.strain(server, span, "system.pressure.cpu", Level::Near(0.5));
    }

    fn show_full_disk(&mut self, server: usize, from: i64, until: i64) {
        let span = (from - 8_000, until);
        self.strain(server, span, "system.filesystem.utilization", Level::Near(1.0));
        let mut at = from - 1_000;
        while at < until {
            let line = "[ERROR] Disk is full writing './shop/wp_options.MYD' (Errcode: 28 \"No \
                        space left on device\"). Waiting for someone to free space...";
            self.log(server, at, "mysql", line.to_owned());
            at += self.random.whole(5_000, 20_000);
        }
    }
}
