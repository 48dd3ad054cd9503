//! The next steps by cause, with the names, paths and numbers of the server that stands for all.

use super::runbook::{About, is_local, is_plain, quoted, step};
use super::server::Server;
use super::table::Class;
use crate::model::Action;

/// Of the memory that is available, what more workers may take.
const MEMORY_PART: f64 = 0.8;
/// Sites named at most.
const NAMED_MAX: usize = 3;

/// The steps for the cause of a verdict.
pub(super) fn by_class(about: &About<'_>) -> Vec<Action> {
    let Some(class) = about.verdict.class else { return unknown(about) };
    match class {
        Class::ServiceDown => service_down(about),
        Class::Overload => overload(about),
        Class::Oom => oom(about),
        Class::Crash => crash(about),
        Class::Misconfig => misconfig(about),
        Class::Timeout => timeout(about),
        Class::SiteCode => site_code(about),
        Class::Firewall => firewall(about),
        Class::Network => network(about),
        Class::Dns => dns(about),
        Class::DiskFull => disk_full(),
        Class::Ddos => ddos(about),
        Class::Steal => steal(),
    }
}

fn status(about: &About<'_>) -> Option<String> {
    about.unit().map(|unit| format!("systemctl status {}", quoted(&unit)))
}

fn journal(about: &About<'_>) -> Option<String> {
    about.unit().map(|unit| format!("journalctl -u {} --since -15min", quoted(&unit)))
}

/// Where the web server writes its errors when nobody told it otherwise.
fn error_log(about: &About<'_>) -> String {
    let unit = about.web_unit();
    match unit.trim_end_matches(".service") {
        "nginx" => "tail -n 50 /var/log/nginx/error.log".to_owned(),
        "apache2" => "tail -n 50 /var/log/apache2/error.log".to_owned(),
        "httpd" => "tail -n 50 /var/log/httpd/error_log".to_owned(),
        "lighttpd" => "tail -n 50 /var/log/lighttpd/error.log".to_owned(),
        _ => format!("journalctl -u {} --since -15min", quoted(&unit)),
    }
}

/// The folder of the pools of the PHP-FPM that a unit runs, by how it is packaged.
fn pool_folder(unit: &str) -> String {
    let name = unit.trim_end_matches(".service");
    let dotted = |digits: &str| match digits.split_at_checked(1) {
        Some((major, minor)) if !minor.is_empty() => format!("{major}.{minor}"),
        _ => digits.to_owned(),
    };
    let between = |start: &str, end: &str| {
        let inner = name.strip_prefix(start)?.strip_suffix(end)?;
        let is_version = inner.chars().all(|c| c.is_ascii_digit() || c == '.');
        (is_version && !inner.is_empty()).then(|| inner.to_owned())
    };
    if let Some(version) = between("ea-php", "-php-fpm") {
        format!("/opt/cpanel/ea-php{version}/root/etc/php-fpm.d")
    } else if let Some(version) = between("plesk-php", "-fpm") {
        format!("/opt/plesk/php/{}/etc/php-fpm.d", dotted(&version))
    } else if let Some(version) = between("php", "-php-fpm") {
        format!("/etc/opt/remi/php{version}/php-fpm.d")
    } else if let Some(version) = between("php", "-fpm") {
        format!("/etc/php/{version}/fpm/pool.d")
    } else if name == "php-fpm" {
        "/etc/php-fpm.d".to_owned()
    } else {
        "/etc/php*".to_owned()
    }
}

fn service_down(about: &About<'_>) -> Vec<Action> {
    let backend = about.backend();
    let remote = about.address().filter(|address| !is_local(address));
    if let (Some(address), None) = (&remote, about.unit()) {
        return vec![
            step(&format!("server admin: test {address} from here"), probe(Some(address))),
            step("server admin: log in on that machine and start what serves this port", None),
        ];
    }
    let start = about.unit().map(|unit| format!("systemctl start {}", quoted(&unit)));
    vec![
        step(&format!("server admin: see why {backend} is down"), status(about)),
        step("server admin: read its last words", journal(about)),
        step("server admin: start it again", start),
    ]
}

/// How many workers a pool may have, how many the memory takes, in words.
fn limits(server: &Server, pool: Option<&str>) -> Option<String> {
    let limit = server.gauge("phpfpm.max_children", pool)?;
    let each = server.gauge("phpfpm.memory_per_process", pool).filter(|each| *each > 0.0);
    let room = server.gauge("system.memory.available", None);
    let running = server.gauge("phpfpm.total_processes", pool);
    let (Some(each), Some(room), Some(running)) = (each, room, running) else {
        return Some(format!("pm.max_children is {limit:.0} now"));
    };
    let fits = (running + room * MEMORY_PART / each).floor();
    let each = each / (1024.0 * 1024.0);
    Some(if fits > limit {
        format!(
            "pm.max_children is {limit:.0} now, memory fits {fits:.0} of {each:.0} MiB each: \
             raise it to at most that"
        )
    } else {
        format!(
            "pm.max_children is {limit:.0} now, memory fits only {fits:.0} of {each:.0} MiB \
             each: do not raise it, take more memory or make the scripts faster"
        )
    })
}

fn overload(about: &About<'_>) -> Vec<Action> {
    let mut busiest: Vec<_> = about.members.iter().map(|ix| about.fleet.site(*ix)).collect();
    busiest.sort_by_key(|site| std::cmp::Reverse(site.episode.as_ref().map_or(0, |e| e.totals.n)));
    let names: Vec<&str> = busiest.iter().take(NAMED_MAX).map(|site| site.name.as_str()).collect();
    let text = format!("server admin: see what drives the load; busiest: {}", names.join(", "));
    let known = about.server().and_then(|server| limits(server, about.pool));
    let limit = match (known, about.pool, about.is_fpm()) {
        (Some(known), Some(pool), true) => format!("server admin: pool {pool}: {known}"),
        (Some(known), None, true) => format!("server admin: {known}"),
        (None, Some(pool), true) => format!(
            "server admin: raise pm.max_children of pool {pool} as far as memory allows, and \
             find slow scripts first"
        ),
        _ => "server admin: give the backend more workers, as far as memory allows".to_owned(),
    };
    let unit = about.unit().unwrap_or_default();
    let show = about
        .is_fpm()
        .then(|| format!("grep -rn -e max_children -e slowlog {}", pool_folder(&unit)));
    vec![step(&text, journal(about)), step(&limit, show)]
}

fn oom(about: &About<'_>) -> Vec<Action> {
    let known = about.server().and_then(|server| limits(server, about.pool));
    let text = match known.filter(|_| about.is_fpm()) {
        Some(known) => format!("server admin: {known}"),
        None => "server admin: lower the number of workers so that workers x memory of each fit, \
                 or take more memory"
            .to_owned(),
    };
    vec![
        step(
            "server admin: see what the kernel killed",
            Some("journalctl -k --since -1h --grep 'Killed process|oom'".to_owned()),
        ),
        step(&text, Some("ps axo rss=,user=,args= --sort=-rss | head -20".to_owned())),
        step(&format!("server admin: check that {} runs again", about.backend()), status(about)),
    ]
}

fn crash(about: &About<'_>) -> Vec<Action> {
    vec![
        step(&format!("server admin: find the crashes of {}", about.backend()), journal(about)),
        step(
            "server admin: look for segfaults; an extension or OPcache is the usual reason",
            Some("journalctl -k --since -1h --grep segfault".to_owned()),
        ),
        step(
            "server admin: see which dumps were kept",
            Some("coredumpctl list --since -1h".to_owned()),
        ),
    ]
}

fn misconfig(about: &About<'_>) -> Vec<Action> {
    let test = match about.web_unit().as_str() {
        "nginx.service" => "nginx -t".to_owned(),
        "apache2.service" | "httpd.service" => "apachectl -t".to_owned(),
        "haproxy.service" => "haproxy -c -f /etc/haproxy/haproxy.cfg".to_owned(),
        unit => format!("systemctl status {}", quoted(unit)),
    };
    let mut actions = Vec::new();
    if let Some(socket) = about.socket() {
        let folder = socket.rsplit_once('/').map_or("/run", |(folder, _)| folder);
        actions.push(step(
            &format!("server admin: compare {socket} with the sockets that exist and their owners"),
            Some(format!("ls -l {}", quoted(folder))),
        ));
    } else if let Some(address) = about.address() {
        actions.push(step(
            &format!("server admin: see whether anything listens on {address}"),
            Some("ss -ltnp".to_owned()),
        ));
    }
    actions.push(step(
        "server admin: correct the address in the site's configuration, or the owner and mode of \
         the socket (listen.owner, listen.group, listen.mode), then test it",
        Some(test),
    ));
    actions
}

fn timeout(about: &About<'_>) -> Vec<Action> {
    vec![
        step("server admin: find the slow scripts in the slow log", journal(about)),
        step(
            "server admin: see whether the database is what they wait for",
            Some("mysqladmin processlist".to_owned()),
        ),
        step(
            "site owner: shorten what these requests wait for (database, remote calls); raise \
             a timeout only if they would have finished",
            None,
        ),
    ]
}

fn site_code(about: &About<'_>) -> Vec<Action> {
    vec![
        step(
            "site owner: the application itself answers or breaks: read its own log, and undo \
             the last plugin, theme or code change",
            None,
        ),
        step("server admin: read the web server's errors for the site", Some(error_log(about))),
    ]
}

/// Asks a backend from here, for at most five seconds.
fn probe(address: Option<&str>) -> Option<String> {
    let address = address.filter(|a| !a.contains('/') && is_plain(a))?;
    let url = quoted(&format!("http://{address}/"));
    Some(format!("curl -sS -o /dev/null -w '%{{http_code}} %{{time_connect}}\\n' -m 5 {url}"))
}

fn host(address: Option<&String>) -> Option<String> {
    let (host, _) = address?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (is_plain(host) && !host.contains('/')).then(|| host.to_owned())
}

fn firewall(about: &About<'_>) -> Vec<Action> {
    let address = about.address();
    vec![
        step("server admin: test the way to the backend", probe(address.as_deref())),
        step("server admin: look for the rule", Some("nft list ruleset".to_owned())),
        step("server admin: see what was banned lately", Some("fail2ban-client status".to_owned())),
    ]
}

fn network(about: &About<'_>) -> Vec<Action> {
    let address = about.address();
    let host = host(address.as_ref()).filter(|_| address.as_deref().is_some_and(|a| !is_local(a)));
    let host = host.map(|host| quoted(&host));
    vec![
        step("server admin: test the way to the backend", probe(address.as_deref())),
        step(
            "server admin: look for lost packets and errors of the link",
            Some("ip -s link; ss -ti state established | grep -c retrans".to_owned()),
        ),
        step(
            "provider: ask about the network if the way is broken",
            host.map(|host| format!("ping -c 5 {host}; ip route get {host}")),
        ),
    ]
}

/// The name that does not resolve, as the error lines have it.
fn unresolved(about: &About<'_>) -> Option<String> {
    let lines = about.members.iter().flat_map(|ix| about.fleet.site(*ix).said.lines.values());
    lines.into_iter().find_map(|lines| {
        let text = &lines.text;
        let before = text.split_once(" could not be resolved").map(|(before, _)| before);
        let after = text.split_once("defined to resolve ").map(|(_, after)| after);
        let name = match (before, after) {
            (Some(before), _) => before.rsplit(' ').next()?,
            (_, Some(after)) => after.split([',', ' ']).next()?,
            _ => return None,
        };
        is_plain(name).then(|| name.to_owned())
    })
}

fn dns(about: &About<'_>) -> Vec<Action> {
    let ask = match unresolved(about) {
        Some(name) => format!("resolvectl query {}", quoted(&name)),
        None => "resolvectl status".to_owned(),
    };
    vec![
        step("server admin: ask the resolver", Some(ask)),
        step("server admin: check its addresses", Some("cat /etc/resolv.conf".to_owned())),
        step(
            "server admin: nginx asks the resolver of its own configuration",
            Some("grep -rn resolver /etc/nginx".to_owned())
                .filter(|_| about.web_unit() == "nginx.service"),
        ),
    ]
}

fn disk_full() -> Vec<Action> {
    vec![
        step("server admin: see which file system is full", Some("df -h; df -i".to_owned())),
        step(
            "server admin: find what grew, then delete or move it",
            Some("du -xh --max-depth=2 /var | sort -h | tail -20".to_owned()),
        ),
        step(
            "server admin: files that were deleted but are still open keep their space",
            Some("lsof +L1".to_owned()),
        ),
    ]
}

fn ddos(about: &About<'_>) -> Vec<Action> {
    let clients =
        "ss -tn state established | awk '{print $4}' | sort | uniq -c | sort -n | tail -20";
    vec![
        step("server admin: see who connects", Some(clients.to_owned())),
        step("server admin: see what is asked for", Some(error_log(about))),
        step("server admin: limit requests per client; provider: filter upstream", None),
    ]
}

fn steal() -> Vec<Action> {
    vec![
        step("server admin: confirm the steal time (column st)", Some("vmstat 1 5".to_owned())),
        step("provider: move the machine to another host; a larger plan does not help", None),
    ]
}

fn unknown(about: &About<'_>) -> Vec<Action> {
    vec![
        step("server admin: read the web server's errors", Some(error_log(about))),
        step(&format!("server admin: check {}", about.backend()), status(about)),
    ]
}
