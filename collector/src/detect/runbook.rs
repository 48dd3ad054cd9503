//! What to do next: the cause in words and the first steps, with the server's own names filled in.
//!
//! Every command only looks, or starts what should be running anyway. A step says who can take it:
//! the site's owner, the server's admin or the provider.

use super::Fleet;
use super::cause::Verdict;
use super::server::{Server, Unit};
use super::table::Class;
use crate::model::Action;

/// What the words are about.
pub struct About<'a> {
    /// The fleet.
    pub fleet: &'a Fleet,
    /// Failing sites, by position.
    pub members: &'a [u32],
    /// Pool that all of them share.
    pub pool: Option<&'a str>,
    /// The verdict.
    pub verdict: &'a Verdict,
}

impl About<'_> {
    fn server(&self) -> Option<&Server> {
        self.fleet.server(self.fleet.site(*self.members.first()?).server)
    }

    /// The address the error lines name.
    fn address(&self) -> Option<String> {
        let mut lines = self.members.iter().flat_map(|ix| self.fleet.site(*ix).said.lines.values());
        let named = lines.find_map(|lines| lines.upstream.as_deref());
        let named = named.or(self.members.first().and_then(|ix| {
            let site = self.fleet.site(*ix);
            site.upstream_named.as_deref().or(site.upstream.as_deref())
        }))?;
        let address = named.split_once("://").map_or(named, |(_, rest)| rest);
        let file = address.starts_with("unix:") || address.starts_with('/');
        let end = if file { None } else { address.find('/') }.unwrap_or(address.len());
        let address = address[..end].trim_end_matches(':');
        is_plain(address).then(|| address.to_owned())
    }

    fn socket(&self) -> Option<String> {
        let address = self.address()?;
        let path = address.strip_prefix("unix:").unwrap_or(&address);
        path.starts_with('/').then(|| path.to_owned())
    }

    fn is_fpm(&self) -> bool {
        let names = [self.pool.map(str::to_owned), self.address()];
        let php = |name: &String| name.contains("php") || name.contains("fpm");
        names.iter().flatten().any(php) || self.fpm_unit().is_some()
    }

    /// The unit that runs the pool: one that names it, else the PHP-FPM of its socket.
    fn unit(&self) -> Option<String> {
        let server = self.server()?;
        let mut units = server.units.iter().filter(|(name, _)| is_plain(name));
        let down = units.clone().find(|(name, unit)| {
            unit.down_at.is_some() && unit.is_gateway(name) && self.serves(unit)
        });
        let named =
            units.find(|(_, unit)| unit.pool.is_some() && unit.pool.as_deref() == self.pool);
        let found = down.or(named).map(|(name, _)| with_suffix(name));
        found.or_else(|| self.fpm_unit())
    }

    fn serves(&self, unit: &Unit) -> bool {
        unit.pool.is_none() || self.pool.is_none() || unit.pool.as_deref() == self.pool
    }

    fn fpm_unit(&self) -> Option<String> {
        let server = self.server()?;
        let is_fpm =
            |name: &&String| name.contains("php") && name.contains("fpm") && is_plain(name);
        let mut units = server.units.keys().filter(is_fpm);
        if let (Some(unit), None) = (units.next(), units.next()) {
            return Some(with_suffix(unit));
        }
        // "/run/php/php8.2-fpm-www.sock" belongs to php8.2-fpm.
        let socket = self.socket()?;
        let file = socket.rsplit('/').next()?;
        let end = file.find("-fpm")? + "-fpm".len();
        file.starts_with("php").then(|| format!("{}.service", &file[..end]))
    }

    /// The web server's unit.
    fn web_unit(&self) -> String {
        const NAMES: [&str; 7] =
            ["nginx", "apache2", "httpd", "haproxy", "lighttpd", "caddy", "lshttpd"];
        let units = self.server().map(|server| &server.units);
        let running = units.and_then(|units| {
            units.iter().find(|(name, unit)| {
                unit.state == "active"
                    && is_plain(name)
                    && NAMES.iter().any(|n| name.starts_with(n))
            })
        });
        running.map_or_else(|| "nginx.service".to_owned(), |(name, _)| with_suffix(name))
    }

    /// What serves the sites, in words.
    fn backend(&self) -> String {
        let is_address = |pool: &str| pool.contains([':', '/']);
        match self.pool {
            Some(pool) if !is_address(pool) && self.is_fpm() => format!("PHP-FPM pool {pool}"),
            Some(pool) if !is_address(pool) => format!("pool {pool}"),
            Some(pool) => format!("backend {}", pool.strip_prefix("unix:").unwrap_or(pool)),
            None if self.is_fpm() => "PHP-FPM".to_owned(),
            None => self.address().map_or_else(
                || "the backend".to_owned(),
                |a| format!("backend {}", a.strip_prefix("unix:").unwrap_or(&a)),
            ),
        }
    }
}

/// Whether a name that came in a log or a message may stand in a command.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:@/[]".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

fn with_suffix(unit: &str) -> String {
    if unit.contains('.') && unit.ends_with(".service") {
        unit.to_owned()
    } else {
        format!("{unit}.service")
    }
}

/// The cause in one clause, for the title; in the past tense when it is over.
#[must_use]
pub fn phrase(about: &About<'_>, over: bool) -> String {
    let backend = about.backend();
    let Some(class) = about.verdict.class else { return "cause unknown".to_owned() };
    let tense = |now: &str, then: &str| if over { then.to_owned() } else { now.to_owned() };
    let (is, killed) = (tense("is", "was"), tense("killed", "had killed"));
    let text = match class {
        Class::Overload => format!("{backend} {is} exhausted"),
        Class::Oom => format!("the kernel {killed} {backend} for lack of memory"),
        Class::Crash => format!("{backend} {}", tense("crashes", "crashed")),
        Class::ServiceDown => format!("{backend} {is} down"),
        Class::Misconfig => {
            format!("the configuration {} fit {backend}", tense("does not", "did not"))
        }
        Class::Firewall => format!("a firewall {} {backend}", tense("blocks", "blocked")),
        Class::Dns => format!("the upstream's name {} resolve", tense("does not", "did not")),
        Class::Timeout => format!("{backend} {} too late", tense("answers", "answered")),
        Class::SiteCode => "the site's own code".to_owned(),
        Class::Ddos => "a flood of requests".to_owned(),
        Class::Steal => {
            format!("the hypervisor {} the processors away", tense("takes", "took"))
        }
        Class::DiskFull => format!("a file system {is} full"),
        Class::Network => format!("the network to {backend} {}", tense("fails", "failed")),
    };
    if about.verdict.margin < 1.0 { format!("probably {text}") } else { text }
}

/// The next steps, first things first.
#[must_use]
pub fn actions(about: &About<'_>) -> Vec<Action> {
    let mut actions = by_class(about);
    if let Some(change) = &about.verdict.change {
        let text = format!(
            "{}: undo or check this change of {}: {}",
            if change.kind == "plugin" { "site owner" } else { "server admin" },
            change.at,
            change.text
        );
        actions.insert(usize::from(!actions.is_empty()), step(&text, None));
    }
    actions
}

fn step(text: &str, command: Option<String>) -> Action {
    Action { text: text.to_owned(), command }
}

fn by_class(about: &About<'_>) -> Vec<Action> {
    let unit = about.unit();
    let status = unit.as_ref().map(|unit| format!("systemctl status {unit}"));
    let journal = unit.as_ref().map(|unit| format!("journalctl -u {unit} --since -15min"));
    let backend = about.backend();
    let Some(class) = about.verdict.class else { return unknown(about) };
    match class {
        Class::ServiceDown => vec![
            step(&format!("server admin: see why {backend} is down"), status),
            step(
                "server admin: start it again",
                unit.as_ref().map(|unit| format!("systemctl start {unit}")),
            ),
            step("server admin: read its last words", journal),
        ],
        Class::Overload => overload(about, journal),
        Class::Oom => vec![
            step(
                "server admin: see what the kernel killed",
                Some("journalctl -k --since -1h --grep 'Killed process|oom'".to_owned()),
            ),
            step(
                "server admin: lower pm.max_children so that children x memory per child fit, or \
                 take more memory",
                Some("ps -C php-fpm,php-fpm8.2 -o rss=,args= --sort=-rss".to_owned())
                    .filter(|_| about.is_fpm())
                    .or(Some("ps axo rss=,args= --sort=-rss".to_owned())),
            ),
            step(&format!("server admin: check that {backend} runs again"), status),
        ],
        Class::Crash => vec![
            step(&format!("server admin: find the crashes of {backend}"), journal),
            step(
                "server admin: look for segfaults; an extension or OPcache is the usual reason",
                Some("journalctl -k --since -1h --grep segfault".to_owned()),
            ),
        ],
        Class::Misconfig => misconfig(about),
        Class::Timeout => vec![
            step("server admin: find the slow scripts in the slow log", journal),
            step(
                "site owner: shorten what these requests wait for (database, remote calls); raise \
                 a timeout only if they would have finished",
                None,
            ),
        ],
        Class::SiteCode => vec![step(
            "site owner: the application itself answers or breaks: read its own log, and undo \
             the last plugin, theme or code change",
            None,
        )],
        _ => by_machine(about, class),
    }
}

fn overload(about: &About<'_>, journal: Option<String>) -> Vec<Action> {
    let mut busiest: Vec<_> = about.members.iter().map(|ix| about.fleet.site(*ix)).collect();
    busiest.sort_by_key(|site| std::cmp::Reverse(site.episode.as_ref().map_or(0, |e| e.totals.n)));
    let names: Vec<&str> = busiest.iter().take(3).map(|site| site.name.as_str()).collect();
    let text = format!("server admin: see what drives the load; busiest: {}", names.join(", "));
    let limit = match (about.pool, about.is_fpm()) {
        (Some(pool), true) => format!(
            "server admin: raise pm.max_children of pool {pool} as far as memory allows, and \
             find slow scripts first"
        ),
        _ => "server admin: give the backend more workers, as far as memory allows".to_owned(),
    };
    vec![
        step(&text, journal),
        step(&limit, about.is_fpm().then(|| "grep -rn max_children /etc/php*".to_owned())),
    ]
}

fn misconfig(about: &About<'_>) -> Vec<Action> {
    let web = about.web_unit();
    let test = match web.as_str() {
        "nginx.service" => "nginx -T".to_owned(),
        "apache2.service" | "httpd.service" => "apachectl -S".to_owned(),
        unit => format!("systemctl status {unit}"),
    };
    let mut actions = Vec::new();
    if let Some(socket) = about.socket() {
        let folder = socket.rsplit_once('/').map_or("/run", |(folder, _)| folder);
        actions.push(step(
            &format!("server admin: compare {socket} with the sockets that exist and their owners"),
            Some(format!("ls -l {folder}")),
        ));
    } else if let Some(address) = about.address() {
        actions.push(step(
            &format!("server admin: see whether anything listens on {address}"),
            Some("ss -ltnp".to_owned()),
        ));
    }
    actions.push(step(
        "server admin: correct the address in the site's configuration, or the owner and mode of \
         the socket (listen.owner, listen.group, listen.mode)",
        Some(test),
    ));
    actions
}

fn by_machine(about: &About<'_>, class: Class) -> Vec<Action> {
    let address = about.address();
    let host = address.as_deref().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host);
    let probe = address.as_deref().filter(|a| !a.contains(['/', '\''])).map(|a| {
        format!("curl -sS -o /dev/null -w '%{{http_code}} %{{time_connect}}\\n' -m 5 http://{a}/")
    });
    match class {
        Class::Firewall => vec![
            step("server admin: test the way to the backend", probe),
            step("server admin: look for the rule", Some("nft list ruleset".to_owned())),
        ],
        Class::Network => vec![
            step("server admin: test the way to the backend", probe),
            step(
                "provider: ask about the network if the way is broken",
                host.map(|host| format!("ping -c 5 {host}")),
            ),
        ],
        Class::Dns => vec![
            step("server admin: ask the resolver", Some("resolvectl status".to_owned())),
            step("server admin: check its addresses", Some("cat /etc/resolv.conf".to_owned())),
        ],
        Class::DiskFull => vec![
            step("server admin: see which file system is full", Some("df -h && df -i".to_owned())),
            step(
                "server admin: find what grew, then delete or move it",
                Some("du -xh --max-depth=2 /var | sort -h | tail -20".to_owned()),
            ),
        ],
        Class::Ddos => vec![
            step("server admin: see who connects", Some("ss -tn state established | awk '{print $4}' | sort | uniq -c | sort -n | tail -20".to_owned())),
            step("server admin: limit requests per client; provider: filter upstream", None),
        ],
        Class::Steal => vec![
            step("server admin: confirm the steal time", Some("vmstat 1 5".to_owned())),
            step("provider: move the machine to another host; a larger plan does not help", None),
        ],
        _ => unknown(about),
    }
}

fn unknown(about: &About<'_>) -> Vec<Action> {
    let unit = about.unit();
    let web = about.web_unit();
    vec![
        step(
            "server admin: read the web server's errors",
            Some(format!("journalctl -u {web} --since -15min")),
        ),
        step(
            &format!("server admin: check {}", about.backend()),
            unit.map(|unit| format!("systemctl status {unit}")),
        ),
    ]
}
