//! What the sites of a sample server answer, and what its logs and services say when they fail.

use std::collections::BTreeMap;

use wire::signal::counter;
use wire::v1::{BatchBody, Change, Exemplar, LogLine, ServiceState, Signal, Site, SiteSecond};

use crate::fleet::{Episode, Kind, Pool, Server};
use crate::machine::{Dice, rhythm};

/// Exemplars that an agent keeps of a site and second.
const EXEMPLARS_MAX: u32 = 5;

/// How requests of a site fail while something goes wrong.
struct Failure {
    share: f64,
    status: u32,
    signal: Signal,
    message: String,
}

/// The sites of a server, as a body names them.
pub(crate) fn sites(server: &Server) -> Vec<Site> {
    let one = |site: &crate::fleet::Site| Site {
        name: site.name.to_owned(),
        pool: server.pools[site.pool].name.to_owned(),
        owner: site.owner.to_owned(),
        ..Site::default()
    };
    server.sites.iter().map(one).collect()
}

/// Adds the requests that ended in `step` seconds from `at` on, all dated `at`.
pub(crate) fn count(
    body: &mut BatchBody,
    (no, server): (usize, &Server),
    (at, step): (i64, i64),
    episode: Option<&Episode>,
) {
    let load = rhythm(no as u64, at);
    for (ix, site) in server.sites.iter().enumerate() {
        let mut dice = Dice::new(1000 + no as u64 * 100 + ix as u64, at);
        let failure = episode.and_then(|episode| failure(server, ix, episode.kind));
        let n = dice.count(site.rate * load * step as f64);
        let n_failed = failure.as_ref().map_or(0, |failure| {
            let want = f64::from(n) * failure.share;
            (want.floor() as u32 + u32::from(dice.share() < want.fract())).min(n)
        });
        let mut counts = BTreeMap::<u32, u32>::new();
        let mut put = |status, n: u32| {
            if n > 0 {
                *counts.entry(status).or_default() += n;
            }
        };
        let mut left = n - n_failed;
        for (status, share) in [(304, 0.05), (404, 0.03), (301, 0.02), (499, 0.002), (500, 0.0004)]
        {
            let some = dice.count(f64::from(n) * share).min(left);
            left -= some;
            put(status, some);
        }
        // Now and then one fails by itself.
        let alone = u32::from(left > 0 && step > 10 && dice.share() < 0.0015);
        put(200, left - alone);
        put(if dice.share() < 0.5 { 502 } else { 504 }, alone);
        if let Some(failure) = failure.filter(|_| n_failed > 0) {
            put(failure.status, n_failed);
            put(counter::CRAWLER, dice.count(f64::from(n_failed) * 0.04).min(n_failed));
            exemplars(body, ix as u32, at, n_failed, &failure, &mut dice);
        }
        if counts.is_empty() {
            continue;
        }
        let (status, count) = counts.into_iter().unzip();
        body.seconds.push(SiteSecond { site: ix as u32, second: at, status, count });
    }
}

fn exemplars(
    body: &mut BatchBody,
    site: u32,
    at: i64,
    n_failed: u32,
    failure: &Failure,
    dice: &mut Dice,
) {
    const PATHS: [&str; 5] = ["/", "/shop/", "/cart", "/product/17", "/contact"];
    for _ in 0..n_failed.min(EXEMPLARS_MAX) {
        body.exemplars.push(Exemplar {
            site,
            at_unix_ms: at * 1000 + (dice.share() * 1000.0) as i64,
            status: failure.status,
            signal: failure.signal.into(),
            client_hash: dice.next() % 5000 + 1,
            path_hash: dice.next() % 5 + 1,
            client: format!("203.0.113.{}", dice.next() % 250 + 1),
            method: "GET".to_owned(),
            path: PATHS[(dice.next() % 5) as usize].to_owned(),
            message: Some(failure.message.clone()),
            ..Exemplar::default()
        });
    }
}

/// How a site fails in such an episode; `None`: it does not.
fn failure(server: &Server, site: usize, kind: Kind) -> Option<Failure> {
    let pool = &server.pools[server.sites[site].pool];
    let socket = format!("unix:/run/php/{}.sock", pool.name);
    let reading = "while reading response header from upstream";
    let connecting = "while connecting to upstream";
    let is_in = |no: usize| server.sites[site].pool == no;
    let made =
        |share, status, signal, message: String| Some(Failure { share, status, signal, message });
    match kind {
        Kind::Exhausted(no) if is_in(no) => made(
            0.72,
            502,
            Signal::BacklogFull,
            format!(
                "connect() to {socket} failed (11: Resource temporarily unavailable) {connecting}"
            ),
        ),
        Kind::Oom => made(
            0.45,
            502,
            Signal::Reset,
            format!("recv() failed (104: Connection reset by peer) {reading}"),
        ),
        Kind::Steal => made(
            0.38,
            504,
            Signal::TimeoutRead,
            format!("upstream timed out (110: Connection timed out) {reading}"),
        ),
        Kind::Plugin(no) if no == site => made(
            0.66,
            502,
            Signal::MemoryLimit,
            format!(
                "FastCGI sent in stderr: \"PHP message: PHP Fatal error:  Allowed memory size of \
                 268435456 bytes exhausted (tried to allocate 20480 bytes) in \
                 /srv/{}/wp-content/plugins/shiny-slider/render.php on line 88\" {reading}",
                server.sites[site].owner
            ),
        ),
        Kind::Service(no) if is_in(no) => made(
            0.97,
            502,
            Signal::ConnectRefused,
            format!("connect() to {socket} failed (111: Connection refused) {connecting}"),
        ),
        _ => None,
    }
}

/// Adds what logs and services say at a second of an episode, or right after it.
pub(crate) fn say(
    body: &mut BatchBody,
    server: &Server,
    at: i64,
    (episode, n_restarts): (&Episode, u32),
) {
    let (from, to) = (episode.from, episode.to);
    match episode.kind {
        Kind::Exhausted(no) if (from..to).contains(&at) && (at - from) % 60 == 0 => {
            let Pool { name, max_children, .. } = &server.pools[no];
            let text = format!(
                "WARNING: [pool {name}] server reached pm.max_children setting ({max_children}), \
                 consider raising it"
            );
            body.log_lines.push(line("php_fpm", text, at, Signal::MaxChildren, name));
        }
        Kind::Oom if (from..to).contains(&at) && (at - from) % 100 == 0 => {
            let pid = 4000 + at % 997;
            let text = format!(
                "Out of memory: Killed process {pid} (php-fpm8.2) total-vm:412312kB, \
                 anon-rss:187204kB"
            );
            body.log_lines.push(line("kernel", text, at, Signal::Oom, ""));
        }
        Kind::Service(no) => {
            if at == from - 20 && server.pools.len() == 1 {
                let what = "php8.2-fpm 8.2.28-1 to 8.2.29-1".to_owned();
                let kind = "package".to_owned();
                body.changes.push(Change {
                    kind,
                    what,
                    at_unix_ms: at * 1000,
                    ..Change::default()
                });
            }
            let (state, sub_state, result) = match at {
                at if at == from => ("failed", "failed", "exit-code"),
                at if at == to => ("active", "running", "success"),
                _ => return,
            };
            let made = service(server, no, at, state);
            let (sub_state, result) = (sub_state.to_owned(), result.to_owned());
            let n_restarts = Some(n_restarts);
            body.services.push(ServiceState { sub_state, result, n_restarts, ..made });
        }
        _ => {}
    }
}

/// What an agent says of the services at its start: they run.
pub(crate) fn begin(body: &mut BatchBody, server: &Server, at: i64) {
    for no in 0..server.pools.len() {
        let made = service(server, no, at, "active");
        let (sub_state, result) = ("running".to_owned(), "success".to_owned());
        body.services.push(ServiceState { sub_state, result, ..made });
    }
}

/// The service of a pool: pools after the first have one of their own.
fn service(server: &Server, no: usize, at: i64, state: &str) -> ServiceState {
    let pool = server.pools[no].name;
    let unit = if no == 0 { String::new() } else { format!("-{pool}") };
    ServiceState {
        unit: format!("php8.2-fpm{unit}.service"),
        state: state.to_owned(),
        pool: pool.to_owned(),
        at_unix_ms: at * 1000,
        n_restarts: Some(0),
        ..ServiceState::default()
    }
}

fn line(source: &str, message: String, at: i64, signal: Signal, pool: &str) -> LogLine {
    LogLine {
        source: source.to_owned(),
        message,
        at_unix_ms: at * 1000,
        signal: signal.into(),
        pool: pool.to_owned(),
    }
}
