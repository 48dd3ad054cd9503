//! What to do next: the cause in words and the first steps, with the server's own names filled in.
//!
//! Every command only looks, or starts what should be running anyway; names in it are quoted, and
//! odd ones left out. A step says who can take it: the site's owner, the server's admin or the
//! provider. Of several servers one stands for all: they share the cause.

use std::collections::{BTreeMap, BTreeSet};

use super::cause::Verdict;
use super::server::{Server, Unit};
use super::table::Class;
use super::{Fleet, evidence, steps};
use crate::model::{Action, ServerId};

/// Servers named in a step.
const SERVERS_MAX: usize = 8;

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
    /// The server whose names stand in commands.
    pub(super) fn server(&self) -> Option<&Server> {
        self.fleet.server(self.fleet.site(*self.members.first()?).server)
    }

    fn server_ids(&self) -> BTreeSet<ServerId> {
        self.members.iter().map(|ix| self.fleet.site(*ix).server).collect()
    }

    /// Whether more than one server fails.
    pub(super) fn is_of_servers(&self) -> bool {
        let mut servers = self.members.iter().map(|ix| self.fleet.site(*ix).server);
        let first = servers.next();
        servers.any(|server| Some(server) != first)
    }

    /// The address the error lines name.
    pub(super) fn address(&self) -> Option<String> {
        let mut lines = self.members.iter().flat_map(|ix| self.fleet.site(*ix).said.lines.values());
        let named = lines.find_map(|lines| lines.upstream.as_deref());
        let named = named.or(self.members.first().and_then(|ix| {
            let site = self.fleet.site(*ix);
            site.upstream_named.as_deref().or(site.upstream.as_deref())
        }))?;
        let address = evidence::address(named);
        is_plain(address).then(|| address.to_owned())
    }

    /// The socket the error lines name.
    pub(super) fn socket(&self) -> Option<String> {
        self.address().filter(|address| address.starts_with('/'))
    }

    pub(super) fn is_fpm(&self) -> bool {
        let names = [self.pool.map(str::to_owned), self.address()];
        let php = |name: &String| name.contains("php") || name.contains("fpm");
        names.iter().flatten().any(php) || self.fpm_unit().is_some()
    }

    /// The unit that runs the pool: one that names it, else the PHP-FPM of its socket.
    pub(super) fn unit(&self) -> Option<String> {
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
    pub(super) fn web_unit(&self) -> String {
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
    pub(super) fn backend(&self) -> String {
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

/// Whether a name that came in a log or a message may stand in words and commands: printable ASCII
/// that no command takes for an option.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"`$\\;&|<>(){}*?!~#".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

/// A name as a shell takes it for one word.
pub(super) fn quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._-:@/%+=,".contains(c);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(bare) {
        return name.to_owned();
    }
    let safe: String = name.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", safe.replace('\'', "'\\''"))
}

fn with_suffix(unit: &str) -> String {
    const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".target", ".slice"];
    if KINDS.iter().any(|kind| unit.ends_with(kind)) {
        unit.to_owned()
    } else {
        format!("{unit}.service")
    }
}

/// The cause in one clause, for the title; in the past tense when it is over.
#[must_use]
pub fn phrase(about: &About<'_>, over: bool) -> String {
    let Some(class) = about.verdict.class else { return "cause unknown".to_owned() };
    let text = if about.is_of_servers() {
        phrase_of_servers(about, class, over)
    } else {
        phrase_of_server(about, class, over)
    };
    if about.verdict.margin < 1.0 { format!("probably {text}") } else { text }
}

fn phrase_of_server(about: &About<'_>, class: Class, over: bool) -> String {
    let backend = about.backend();
    let tense = |now: &str, then: &str| if over { then.to_owned() } else { now.to_owned() };
    let (is, killed) = (tense("is", "was"), tense("killed", "had killed"));
    match class {
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
    }
}

fn phrase_of_servers(about: &About<'_>, class: Class, over: bool) -> String {
    let tense = |now: &'static str, then: &'static str| if over { then } else { now };
    let is = tense("is", "was");
    // A backend on another machine is one and the same; of PHP each server has its own.
    let (backend, each) = match about.address().filter(|address| !is_local(address)) {
        Some(address) => (format!("the shared backend {address}"), ""),
        None if about.is_fpm() => ("PHP-FPM".to_owned(), " on each of them"),
        None => ("the backend".to_owned(), " on each of them"),
    };
    match class {
        Class::Overload => format!("{backend} {is} exhausted{each}"),
        Class::Oom => {
            let killed = tense("kills", "killed");
            format!("the kernel {killed} {backend} for lack of memory{each}")
        }
        Class::Crash => format!("{backend} {}{each}", tense("crashes", "crashed")),
        Class::ServiceDown => format!("{backend} {is} down{each}"),
        Class::Misconfig => {
            format!("the configuration {} fit {backend}{each}", tense("does not", "did not"))
        }
        Class::Firewall => {
            format!("a firewall {} the way to {backend}{each}", tense("blocks", "blocked"))
        }
        Class::Dns => format!("the upstream's name {} resolve", tense("does not", "did not")),
        Class::Timeout => format!("{backend} {} too late{each}", tense("answers", "answered")),
        Class::SiteCode => "the sites' own code".to_owned(),
        Class::Ddos => "a flood of requests".to_owned(),
        Class::Steal => {
            format!("their hypervisor {} the processors away", tense("takes", "took"))
        }
        Class::DiskFull => format!("file systems {} full", tense("are", "were")),
        Class::Network if each.is_empty() => {
            format!("the network to {backend} {}", tense("fails", "failed"))
        }
        Class::Network => format!("their network {}", tense("fails", "failed")),
    }
}

/// Whether an address lies on the server itself.
pub(super) fn is_local(address: &str) -> bool {
    address.starts_with('/')
        || address.starts_with("127.")
        || address.starts_with("localhost")
        || address.starts_with("[::1]")
        || !address.contains([':', '.'])
}

/// The next steps, first things first.
#[must_use]
pub fn actions(about: &About<'_>) -> Vec<Action> {
    let mut actions = steps::by_class(about);
    if let Some(change) = &about.verdict.change {
        let who = if change.kind == "plugin" { "site owner" } else { "server admin" };
        let on = if about.is_of_servers() { "; stop rolling it out" } else { "" };
        let text =
            format!("{who}: undo or check this change of {}: {}{on}", change.at, change.text);
        actions.insert(usize::from(!actions.is_empty()), step(&text, None));
    }
    if about.is_of_servers() {
        let example = about.server().map_or("", |server| server.name.as_str());
        for action in actions.iter_mut().filter(|action| action.command.is_some()) {
            action.text = format!("{} (on {example}, as on the others)", action.text);
        }
        actions.insert(0, of_servers(about));
    }
    actions
}

pub(super) fn step(text: &str, command: Option<String>) -> Action {
    Action { text: text.to_owned(), command }
}

/// Whom to call about several servers, which they are, and what to show.
fn of_servers(about: &About<'_>) -> Action {
    let ids = about.server_ids();
    let servers: Vec<&Server> = ids.iter().filter_map(|id| about.fleet.server(*id)).collect();
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let more = match names.len().saturating_sub(SERVERS_MAX) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let listed = names[..names.len().min(SERVERS_MAX)].join(", ");
    let shared = shared_labels(&servers);
    let provider = shared.iter().find(|(name, _)| **name == "provider");
    let provider = provider.map(|(_, value)| format!("provider {value}"));
    let is_theirs = matches!(
        about.verdict.class,
        Some(Class::Steal | Class::Network | Class::Dns | Class::Firewall)
    );
    let who = match provider {
        Some(provider) if is_theirs || about.verdict.class.is_none() => provider,
        None if is_theirs => "provider".to_owned(),
        _ => "server admin".to_owned(),
    };
    let place: Vec<String> = shared.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
    let shows = about.verdict.evidence.iter().filter(|e| e.kind != "prior" && e.weight > 0.0);
    let shows: Vec<String> = shows.take(2).map(|e| format!("{} {}", e.at, e.text)).collect();
    let shows =
        if shows.is_empty() { String::new() } else { format!(". Show: {}", shows.join("; ")) };
    step(
        &format!("{who}: {} servers fail together{place}: {listed}{more}{shows}", names.len()),
        None,
    )
}

/// Labels with one value on all of these servers.
fn shared_labels<'a>(servers: &[&'a Server]) -> BTreeMap<&'a str, &'a str> {
    let Some(first) = servers.first() else { return BTreeMap::new() };
    let shared = |(name, value): &(&String, &String)| {
        servers.iter().all(|server| server.labels.get(*name) == Some(value))
    };
    first.labels.iter().filter(shared).map(|(k, v)| (k.as_str(), v.as_str())).collect()
}
