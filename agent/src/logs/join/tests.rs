//! Scenes for the judge: lines of real shapes in, judged requests out.

use super::lines::{EVIDENCE_KINDS_MAX, POOL_BYTES_MAX, SAMPLE_BYTES_MAX, SAMPLES_MAX};
use super::*;
use crate::config::{ClientIp, QueryString};
use crate::discover::{AccessLog, Pool, Site};
use crate::logs::ErrorRecord;
use crate::logs::Line;
use crate::logs::parse::Parser;
use crate::window::{LogEvidence, ServiceState};

const NOW: &str = "2026-11-20T12:00:30Z";

/// A judge with two nginx sites in one pool and one elsewhere, and its logs.
struct Scene {
    judge: Judge,
    now: UnixMillis,
    out: Vec<Request>,
    /// Local addresses where nobody answers.
    absent: BTreeMap<&'static str, Signal>,
}

fn source(path: &str, kind: LogKind, format: &str, inner: bool) -> LogSource {
    LogSource {
        path: path.into(),
        kind,
        format: format.to_owned(),
        site: SiteRule::Host,
        timezone: None,
        inner,
        inner_sites: Vec::new(),
    }
}

const ACCESS: usize = 0;
const ERROR: usize = 1;
const FPM: usize = 2;
const APACHE: usize = 3;
const APACHE_ERROR: usize = 4;
const HAPROXY: usize = 5;

fn sources() -> Vec<LogSource> {
    let kv = r#"$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" ua="$upstream_addr" us="$upstream_status""#;
    vec![
        source("/log/access.log", LogKind::Access, kv, false),
        source("/log/error.log", LogKind::Error, "nginx_error", false),
        source("/log/fpm.log", LogKind::PhpFpm, "php_fpm", false),
        source("/log/apache.log", LogKind::Access, "vhost_combined", false),
        source("/log/apache-error.log", LogKind::Error, "apache_error", false),
        source("/log/haproxy.log", LogKind::Access, "haproxy", false),
    ]
}

impl Scene {
    fn new() -> Self {
        Self::with(PrivacyConfig { client_ip: ClientIp::Full, query_string: QueryString::Drop })
    }

    fn with(privacy: PrivacyConfig) -> Self {
        let site = |name: &str, pool: &str| Site {
            name: name.to_owned(),
            aliases: vec![format!("www.{name}")],
            access_logs: vec![AccessLog { path: "/log/access.log".into(), format: String::new() }],
            error_logs: vec!["/log/error.log".into(), "/log/apache-error.log".into()],
            pool: Some(pool.to_owned()),
            ..Site::default()
        };
        let discovery = Discovery {
            sites: vec![
                site("a.example", "www"),
                site("b.example", "www"),
                site("c.example", "own"),
            ],
            pools: vec![
                Pool {
                    name: "www".to_owned(),
                    listen: "/run/php/www.sock".to_owned(),
                    unit: Some("php8.2-fpm.service".to_owned()),
                    ..Pool::default()
                },
                Pool {
                    name: "own".to_owned(),
                    listen: "127.0.0.1:9001".to_owned(),
                    ..Pool::default()
                },
            ],
            addresses: vec!["192.0.2.10".parse().unwrap()],
            ..Discovery::default()
        };
        let mut judge = Judge::new(&discovery, privacy, 100, TimeZone::UTC);
        for (ix, source) in sources().iter().enumerate() {
            assert_eq!(judge.add_source(source), ix);
            judge.set_readable(ix, true);
        }
        let now = UnixMillis::parse_rfc3339(NOW).unwrap();
        Self { judge, now, out: Vec::new(), absent: BTreeMap::new() }
    }

    /// One line of a log, as the gather thread passes it.
    fn line(&mut self, ix: usize, line: &str) -> Option<LogEvidence> {
        let mut parser = Parser::for_source(&sources()[ix], &[]);
        match parser.parse(line.as_bytes()) {
            Line::Access(record) => {
                let out = &mut self.out;
                self.judge.access(ix, &record, self.now, &mut |r| out.push(r));
                None
            }
            Line::Error(record) => self.judge.error(ix, &record, self.now),
            Line::Rejected(reason) => panic!("{reason:?}: {line}"),
        }
    }

    /// An nginx request: site, client, second of the minute, path, status, attempts.
    fn ask(
        &mut self,
        host: &str,
        client: &str,
        second: u32,
        path: &str,
        status: u16,
        ua: (&str, &str),
    ) {
        let (ua, us) = ua;
        self.line(ACCESS, &format!(
            r#"{host} {client} - - [20/Nov/2026:12:00:{second:02} +0000] "GET {path} HTTP/1.1" {status} 157 "-" "x" ua="{ua}" us="{us}""#
        ));
    }

    /// An nginx error line.
    fn error(&mut self, host: &str, client: &str, second: u32, path: &str, text: &str) {
        let evidence = self.line(ERROR, &format!(
            r#"2026/11/20 12:00:{second:02} [error] 7#7: *{second} {text} while connecting to upstream, client: {client}, server: {host}, request: "GET {path} HTTP/1.1", upstream: "fastcgi://unix:/run/php/www.sock:", host: "{host}""#
        ));
        assert_eq!(evidence, None, "the request's exemplar carries it");
    }

    fn settle(&mut self) -> Vec<Request> {
        let mut out = std::mem::take(&mut self.out);
        self.judge.settle(self.now, &mut |address| self.absent.get(address).copied(), &mut |r| {
            out.push(r);
        });
        out
    }

    fn one(&mut self) -> Request {
        let out = self.settle();
        assert_eq!(out.len(), 1, "{out:?}");
        out.into_iter().next().unwrap()
    }

    fn name(&self, request: &Request) -> &str {
        &self.judge.sites()[request.site as usize].name
    }
}

const REFUSED: &str = "connect() to unix:/run/php/www.sock failed (111: Connection refused)";

#[test]
fn a_502_carries_the_error_line_of_its_own_request() {
    let mut s = Scene::new();
    s.error("a.example", "198.51.100.7", 5, "/x?token=1", REFUSED);
    s.ask("www.A.example:80", "198.51.100.7", 5, "/x?token=1", 502, ("-", "-"));
    let request = s.one();
    assert_eq!(s.name(&request), "a.example");
    let exemplar = request.exemplar.unwrap();
    assert_eq!(exemplar.signal, Some(Signal::ConnectRefused));
    assert_eq!(
        exemplar.message.as_deref(),
        Some(&*format!("{REFUSED} while connecting to upstream"))
    );
    assert_eq!((exemplar.path.as_str(), exemplar.method.as_str()), ("/x", "GET"));
    assert_eq!(exemplar.upstream, "unix:/run/php/www.sock");
    assert_eq!(exemplar.client, "198.51.100.7");
    assert_eq!(exemplar.pool, "", "it is the site's own");
    assert!(exemplar.client_hash != 0 && exemplar.path_hash != 0);
    assert_eq!(exemplar.at, UnixMillis::parse_rfc3339("2026-11-20T12:00:05Z").unwrap());
}

#[test]
fn each_failure_of_the_agents_own_question_is_a_clients_of_its_own() {
    let mut s = Scene::new();
    let hashes = |s: &mut Scene, agent: &str| -> std::collections::BTreeSet<u64> {
        for second in [0, 10, 20, 30] {
            s.line(ACCESS, &format!(
                r#"a.example 127.0.0.1 - - [20/Nov/2026:12:00:{second:02} +0000] "HEAD / HTTP/1.1" 502 0 "-" "{agent}" ua="-" us="-""#
            ));
        }
        s.settle().iter().map(|r| r.exemplar.as_ref().unwrap().client_hash).collect()
    };
    assert_eq!(hashes(&mut s, crate::own_requests::user_agent()).len(), 4);
    let others = hashes(&mut s, "gatewatch-probe/0000000000000000");
    assert_eq!(others.len(), 1, "whoever else asks is one client");
    let mut s =
        Scene::with(PrivacyConfig { client_ip: ClientIp::Drop, query_string: QueryString::Drop });
    assert_eq!(hashes(&mut s, crate::own_requests::user_agent()), [0].into(), "dropped");
}

#[test]
fn a_502_of_the_application_has_an_empty_message_and_an_unread_log_none() {
    let mut s = Scene::new();
    s.error("a.example", "198.51.100.7", 5, "/x", REFUSED);
    s.ask("a.example", "198.51.100.7", 5, "/x", 502, ("-", "-"));
    s.ask("a.example", "198.51.100.7", 6, "/x", 502, ("-", "-"));
    s.ask("a.example", "198.51.100.8", 6, "/x", 504, ("-", "-"));
    let out = s.settle();
    let messages: Vec<_> =
        out.iter().map(|r| r.exemplar.as_ref().unwrap().message.clone().unwrap()).collect();
    assert!(messages[0].starts_with("connect()"));
    assert_eq!(&messages[1..], ["", ""], "the one line is used up");
    s.judge.set_readable(ERROR, false);
    s.judge.set_readable(APACHE_ERROR, false);
    s.ask("a.example", "198.51.100.8", 7, "/x", 502, ("-", "-"));
    assert_eq!(s.one().exemplar.unwrap().message, None);
}

#[test]
fn a_503_counts_only_when_something_explains_it() {
    // Each case: what the error log says, and whether a 503 of a.example at second 20 counts.
    for (host, client, second, want) in [
        ("a.example", "198.51.100.9", 15, true), // same site
        ("a.example", "198.51.100.9", 11, true),
        ("a.example", "198.51.100.9", 10, false), // ten seconds old
        ("b.example", "198.51.100.9", 15, false), // names another site
        ("b.example", "198.51.100.7", 15, false), // even of the same client
    ] {
        let mut s = Scene::new();
        s.error(host, client, second, "/other", REFUSED);
        s.ask("a.example", "198.51.100.7", 20, "/x", 503, ("127.0.0.1:8080", "503"));
        let request = s.one();
        assert_eq!(request.gateway_503, want, "{host} {client} {second}");
        assert_eq!(
            request.exemplar.is_some(),
            want,
            "an application's own 503 is no gateway error"
        );
        assert_eq!(request.status, 503);
    }
    let mut s = Scene::new();
    s.error("a.example", "198.51.100.7", 19, "/x", REFUSED);
    s.ask("a.example", "198.51.100.7", 20, "/x", 503, ("-", "-"));
    assert!(!s.one().gateway_503, "no upstream was asked: the server's own 503");
}

#[test]
fn apache_says_503_where_its_two_error_lines_explain_it() {
    let access = |client: &str| {
        format!(
            r#"a.example:80 {client} - - [20/Nov/2026:12:00:20 +0000] "GET /x HTTP/1.1" 503 529 "-" "x""#
        )
    };
    let head = |level: &str, tid: u32| {
        format!("[Fri Nov 20 12:00:20.08{tid} 2026] [{level}] [pid 9:tid {tid}]")
    };
    let mut s = Scene::new();
    s.line(APACHE_ERROR, &format!("{} (2)No such file or directory: AH02454: FCGI: attempt to connect to Unix domain socket /run/php/www.sock (localhost:8000) failed", head("proxy:error", 5)));
    s.line(APACHE_ERROR, &format!("{} [client 198.51.100.7:48362] AH01079: failed to make connection to backend: localhost", head("proxy_fcgi:error", 5)));
    s.line(APACHE, &access("198.51.100.7"));
    let request = s.one();
    assert!(request.gateway_503);
    let exemplar = request.exemplar.unwrap();
    assert_eq!(exemplar.signal, Some(Signal::NoSuchSocket), "the reason is in the first line");
    assert_eq!(exemplar.upstream, "/run/php/www.sock");
    // The pool is down for its other sites and clients as well, but not for another pool's.
    s.line(APACHE, &access("198.51.100.8"));
    assert!(s.one().gateway_503);
    s.line(APACHE, &access("198.51.100.7").replace("a.example", "c.example"));
    assert!(!s.one().gateway_503, "another pool");
}

#[test]
fn a_pool_that_is_down_explains_its_503s_until_it_is_back() {
    let mut s = Scene::new();
    let state = |state, second: i64, now: UnixMillis| ServiceState {
        unit: "php8.2-fpm.service".to_owned(),
        state,
        pool: None,
        at: UnixMillis(now.0 - 30_000 + second * 1000),
        detail: crate::window::ServiceDetail::default(),
    };
    let now = s.now;
    s.judge.service(&state("active", 0, now));
    s.judge.service(&state("failed", 10, now));
    s.judge.service(&state("active", 20, now));
    for (host, second, want) in [
        ("a.example", 5, false),
        ("a.example", 9, true),
        ("a.example", 15, true),
        ("c.example", 15, false),
        ("a.example", 21, false),
    ] {
        s.ask(host, "198.51.100.7", second, "/x", 503, ("127.0.0.1:8080", "503"));
        assert_eq!(s.one().gateway_503, want, "{host} {second}");
    }
}

#[test]
fn a_retry_that_ended_well_is_no_failure() {
    let mut s = Scene::new();
    let two = "127.0.0.1:3001, 127.0.0.1:3002";
    for (status, us, retried) in [
        (200, "502, 200", true),
        (404, "-, 404", true),
        (200, "200 : 200", false),
        (200, "404 : 200", false),
        (500, "502, 500", false),
    ] {
        s.ask("a.example", "198.51.100.7", 5, "/x", status, (two, us));
        let request = s.one();
        assert_eq!((request.retried, request.exemplar), (retried, None), "{us}");
    }
    // All of them failed: one request, one failure, and the line of the last attempt.
    s.error("a.example", "198.51.100.7", 6, "/y", "connect() failed (113: No route to host)");
    s.error("a.example", "198.51.100.7", 6, "/y", REFUSED);
    s.ask("a.example", "198.51.100.7", 6, "/y", 502, (two, "502, 502"));
    s.ask("a.example", "198.51.100.7", 6, "/y", 502, (two, "502, 502"));
    let out = s.settle();
    assert_eq!(out[0].exemplar.as_ref().unwrap().signal, Some(Signal::ConnectRefused));
    assert_eq!(out[1].exemplar.as_ref().unwrap().message.as_deref(), Some(""));
}

#[test]
fn a_503_that_nginx_shows_for_its_own_502_is_a_failure() {
    let mut s = Scene::new();
    for (us, want) in [("502", true), ("504", true), ("503", false), ("-", false)] {
        s.ask("a.example", "198.51.100.7", 5, "/x", 503, ("unix:/run/php/www.sock", us));
        let request = s.one();
        assert_eq!(request.gateway_503, want, "{us}");
    }
}

#[test]
fn haproxy_tells_in_its_line_whose_503_it_is() {
    let mut s = Scene::new();
    let line = |state: &str| {
        format!(
            r#"Nov 20 12:00:20 h haproxy[1]: 198.51.100.7:5 [20/Nov/2026:12:00:20.100] in be/s1 0/0/-1/-1/1 503 217 - - {state} 1/1/0/0/1 0/0 {{a.example}} "GET /x HTTP/1.1""#
        )
    };
    s.line(HAPROXY, &line("SC--"));
    let request = s.one();
    assert!(request.gateway_503);
    assert_eq!(request.exemplar.as_ref().unwrap().signal, Some(Signal::ConnectRefused));
    assert_eq!(request.exemplar.unwrap().message, None, "there is no error log to read");
    s.line(HAPROXY, &line("----"));
    assert!(!s.one().gateway_503);
    let down = "Nov 20 12:00:21 h haproxy[1]: Server be/s1 is DOWN, reason: Layer4 timeout.";
    let evidence = s.line(HAPROXY, down).unwrap();
    assert_eq!(
        (evidence.signal, evidence.pool.as_deref()),
        (Some(Signal::ServerDown), Some("be/s1"))
    );
}

#[test]
fn hosts_nobody_knows_and_lines_from_the_future_are_counted_as_such() {
    let mut s = Scene::new();
    s.ask("evil.example", "198.51.100.7", 5, "/", 200, ("-", "-"));
    s.ask("a.example", "198.51.100.7", 36, "/", 200, ("-", "-"));
    s.ask("a.example", "198.51.100.7", 35, "/", 200, ("-", "-"));
    let out = s.settle();
    assert_eq!((s.name(&out[0]), out[0].other), (OTHER, true));
    assert_eq!((out[1].second, out[1].clamped), (s.now.second(), true));
    assert_eq!((out[2].second, out[2].clamped), (s.now.second() + 5, false));
}

#[test]
fn the_front_of_a_chain_counts_and_what_is_behind_explains() {
    let mut s = Scene::new();
    // nginx in front, Apache behind it on the same machine: Apache's client is this machine.
    s.ask("a.example", "198.51.100.7", 18, "/", 200, ("127.0.0.1:8080", "200"));
    s.line(
        APACHE,
        r#"a.example:80 127.0.0.1 - - [20/Nov/2026:12:00:18 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
    );
    assert_eq!(s.settle().len(), 1, "one request, one count");
    s.line(APACHE_ERROR, "[Fri Nov 20 12:00:20.08 2026] [proxy_fcgi:error] [pid 9:tid 5] [client 127.0.0.1:48362] AH01067: Failed to read FastCGI header");
    s.line(APACHE, r#"a.example:80 127.0.0.1 - - [20/Nov/2026:12:00:20 +0000] "GET /x HTTP/1.1" 503 5 "-" "x""#);
    s.ask("a.example", "198.51.100.7", 20, "/x", 503, ("127.0.0.1:8080", "503"));
    let request = s.one();
    assert!(request.gateway_503);
    assert_eq!(request.exemplar.unwrap().signal, Some(Signal::PrematureClose));
}

#[test]
fn apaches_time_is_the_start_and_a_logged_duration_is_added() {
    let mut s = Scene::new();
    let source =
        source("/log/timed.log", LogKind::Access, r#"%v:%p %h %l %u %t "%r" %>s %O %D"#, false);
    let ix = s.judge.add_source(&source);
    assert_eq!(s.judge.add_source(&source), ix, "a file has one index");
    let line = br#"a.example:80 198.51.100.7 - - [20/Nov/2026:12:00:10 +0000] "GET /x HTTP/1.1" 200 5 2600000"#;
    let mut parser = Parser::for_source(&source, &[]);
    let Line::Access(record) = parser.parse(line) else { panic!() };
    let mut out = Vec::new();
    s.judge.access(ix, &record, s.now, &mut |r| out.push(r));
    assert_eq!(out[0].second, UnixMillis::parse_rfc3339("2026-11-20T12:00:12Z").unwrap().second());
}

#[test]
fn the_client_behind_a_local_proxy_is_the_one_it_names() {
    let mut s =
        Scene::with(PrivacyConfig { client_ip: ClientIp::Prefix, query_string: QueryString::Drop });
    let format = r#"$remote_addr "$http_x_forwarded_for" [$time_local] "$request" $status"#;
    let source = source("/log/xff.log", LogKind::Access, format, false);
    let ix = s.judge.add_source(&source);
    for (peer, want) in [("10.0.0.3", "203.0.113.0/24"), ("198.51.100.7", "198.51.100.0/24")] {
        let line = format!(
            r#"{peer} "203.0.113.77, 10.0.0.9" [20/Nov/2026:12:00:10 +0000] "GET / HTTP/1.1" 502"#
        );
        let mut parser = Parser::for_source(&source, &[]);
        let Line::Access(record) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        s.judge.access(ix, &record, s.now, &mut |_| {});
        assert_eq!(s.one().exemplar.unwrap().client, want);
    }
}

#[test]
fn pools_speak_for_themselves_but_not_too_often() {
    let mut s = Scene::new();
    let line = "[20-Nov-2026 12:00:29] WARNING: [pool www] server reached pm.max_children setting (3), consider raising it";
    let evidence = s.line(FPM, line).unwrap();
    assert_eq!(
        (evidence.source, evidence.signal, evidence.pool.as_deref()),
        ("php_fpm", Some(Signal::MaxChildren), Some("www"))
    );
    let n = (0..100).filter(|_| s.line(FPM, line).is_some()).count();
    assert_eq!(n, 4, "five in a second are enough");
    assert!(s.line(FPM, "[20-Nov-2026 12:00:29] NOTICE: fpm is running, pid 1").is_none());
}

#[test]
fn texts_that_leave_the_machine_are_private() {
    let mut s =
        Scene::with(PrivacyConfig { client_ip: ClientIp::Drop, query_string: QueryString::Drop });
    s.line(APACHE_ERROR, "[Fri Nov 20 12:00:20.08 2026] [proxy_http:error] [pid 9:tid 5] (104)Connection reset by peer: [client 198.51.100.7:48362] AH01102: error reading status line from remote server 10.0.0.4:80");
    s.line(APACHE, r#"a.example:80 198.51.100.7 - - [20/Nov/2026:12:00:20 +0000] "GET /x?secret=1 HTTP/1.1" 502 5 "-" "x""#);
    let exemplar = s.one().exemplar.unwrap();
    let all = format!("{exemplar:?}");
    assert!(!all.contains("198.51.100.7") && !all.contains("secret"), "{all}");
    assert_eq!(exemplar.client_hash, 0, "dropped clients are unknown clients");
    assert!(exemplar.message.unwrap().contains("10.0.0.4:80"), "upstreams stay");
}

#[test]
fn gateway_errors_that_crawlers_saw_are_told_apart() {
    const GOOGLE: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    for (status, upstream, user_agent, want) in [
        (502, "unix:/run/php/www.sock", GOOGLE, true),
        (504, "unix:/run/php/www.sock", "bingbot/2.0", true),
        (502, "unix:/run/php/www.sock", "Mozilla/5.0 Firefox/140.0", false),
        (502, "unix:/run/php/www.sock", "-", false),
        // No gateway error: the server's own 503, the application's 500, a page that came.
        (503, "-", GOOGLE, false),
        (500, "unix:/run/php/www.sock", GOOGLE, false),
        (200, "unix:/run/php/www.sock", GOOGLE, false),
    ] {
        let mut s = Scene::new();
        s.line(ACCESS, &format!(
            r#"a.example 198.51.100.7 - - [20/Nov/2026:12:00:05 +0000] "GET / HTTP/1.1" {status} 157 "-" "{user_agent}" ua="{upstream}" us="-""#
        ));
        assert_eq!(s.one().crawler, want, "{status} {user_agent}");
    }
}

#[test]
fn a_log_that_makes_up_pools_costs_bounded_memory() {
    let mut scene = Scene::new();
    let mut parser = Parser::for_format("php_fpm", &[]);
    let mut n_told = 0;
    for n in 0..10_000 {
        let line = format!(
            "[20-Nov-2026 12:00:30] WARNING: [pool p{n}{}] server reached pm.max_children setting \
             (5), consider raising it",
            "x".repeat(500)
        );
        let Line::Error(record) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        if let Some(told) = scene.judge.error(FPM, &record, scene.now) {
            n_told += 1;
            assert!(told.pool.is_some_and(|pool| pool.len() <= POOL_BYTES_MAX));
        }
    }
    assert_eq!(n_told, EVIDENCE_KINDS_MAX);
    assert!(scene.judge.evidence.1.len() <= EVIDENCE_KINDS_MAX);
}

#[test]
fn a_503_of_a_pool_that_nobody_serves_is_a_gateway_error_without_any_log() {
    let mut s = Scene::new();
    let ask = |s: &mut Scene, host: &str, second: u32| {
        s.line(APACHE, &format!(
            r#"{host}:80 198.51.100.7 - - [20/Nov/2026:12:00:{second:02} +0000] "GET /x HTTP/1.1" 503 157 "-" "x""#
        ));
    };
    ask(&mut s, "c.example", 28);
    assert!(!s.one().gateway_503, "somebody listens: it is the application's own");
    s.absent.insert("127.0.0.1:9001", Signal::ConnectRefused);
    s.absent.insert("/run/php/www.sock", Signal::NoSuchSocket);
    for (host, want) in [("c.example", Signal::ConnectRefused), ("a.example", Signal::NoSuchSocket)]
    {
        ask(&mut s, host, 29);
        let request = s.one();
        assert!(request.gateway_503, "{host}");
        assert_eq!(request.exemplar.unwrap().signal, Some(want), "{host}");
    }
    ask(&mut s, "c.example", 5);
    assert!(!s.one().gateway_503, "who listens now says nothing of 25 s ago");
    // nginx says itself that it asked nobody: a planned page.
    s.ask("a.example", "198.51.100.7", 29, "/x", 503, ("-", "-"));
    assert!(!s.one().gateway_503);
}

/// A line of lighttpd's error log, as its parser hands it on.
fn lighttpd(
    second: u32,
    path: Option<&str>,
    upstream: Option<&str>,
    signal: Signal,
) -> ErrorRecord<'static> {
    let at = UnixMillis::parse_rfc3339(&format!("2026-11-20T12:00:{second:02}Z")).unwrap();
    ErrorRecord {
        time: Some(crate::logs::LineTime::Instant { at, offset_s: 0 }),
        message: "a line of lighttpd".into(),
        signal: Some(signal),
        gateway: true,
        path: path.map(|path| path.to_owned().into()),
        upstream: upstream.map(|upstream| upstream.to_owned().into()),
        ..ErrorRecord::default()
    }
}

#[test]
fn lines_of_lighttpd_find_their_requests_by_path_and_backend() {
    let mut s = Scene::new();
    let (now, socket) = (s.now, Some("unix:/run/php/www.sock"));
    // One failure in two lines, then one that only the backend tells.
    for line in [
        lighttpd(5, None, socket, Signal::NoSuchSocket),
        lighttpd(5, Some("/page?id=7"), None, Signal::NoLiveUpstreams),
        lighttpd(6, None, Some("127.0.0.1:9001"), Signal::TimeoutRead),
    ] {
        assert_eq!(s.judge.error(ERROR, &line, now), None);
    }
    s.ask("c.example", "198.51.100.8", 6, "/other", 504, ("", ""));
    s.ask("a.example", "198.51.100.7", 5, "/page?id=7", 503, ("", ""));
    s.ask("b.example", "198.51.100.9", 7, "/else", 502, ("", ""));
    let signals: Vec<_> = s.settle().into_iter().map(|r| r.exemplar.unwrap().signal).collect();
    assert_eq!(signals, [Some(Signal::TimeoutRead), Some(Signal::NoSuchSocket), None]);
}

#[test]
fn an_error_line_in_an_access_log_explains_its_request() {
    let mut s = Scene::new();
    let line = ErrorRecord {
        host: Some("a.example".into()),
        client: Some("198.51.100.7".into()),
        method: Some("GET".into()),
        ..lighttpd(5, Some("/x?id=7"), Some("127.0.0.1:3000"), Signal::ConnectRefused)
    };
    assert_eq!(s.judge.error(ACCESS, &line, s.now), None, "no evidence beside the exemplar");
    s.ask("a.example", "198.51.100.7", 5, "/x?id=7", 502, ("", ""));
    let exemplar = s.one().exemplar.unwrap();
    assert_eq!(exemplar.signal, Some(Signal::ConnectRefused));
    assert_eq!(exemplar.upstream, "127.0.0.1:3000");
}

#[test]
fn rejected_lines_are_kept_short_private_and_not_without_end() {
    let mut s =
        Scene::with(PrivacyConfig { client_ip: ClientIp::Prefix, query_string: QueryString::Drop });
    let line = format!("198.51.100.7 GET /x?token=secret \u{1b}[2J{}", "y".repeat(1000));
    let kept = s.judge.sample(line.as_bytes(), s.now).unwrap();
    assert!(kept.len() <= SAMPLE_BYTES_MAX && !kept.contains("secret"), "{kept}");
    assert!(kept.starts_with("198.51.100.0/24 GET /x"), "{kept}");
    assert!(s.judge.sample(b"\xff\0", s.now).is_some());
    let n = (0..SAMPLES_MAX).filter(|_| s.judge.sample(b"z", s.now).is_some()).count();
    assert_eq!(n, SAMPLES_MAX - 2);
}

#[test]
fn every_kind_of_system_log_gives_evidence_under_its_own_name() {
    let oom = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";
    let modsecurity = "[20/Nov/2026:12:00:20 +0000] Zq@x1 198.51.100.7 4242 192.0.2.1 443";
    for (kind, line, want) in [
        (
            LogKind::Mysql,
            "2026-11-20 12:00:20 7 [Warning] Too many connections".to_owned(),
            Some(("mysql", Signal::TooManyConnections)),
        ),
        (
            LogKind::Redis,
            "7:M 20 Nov 2026 12:00:20.123 # Write error saving DB on disk: No space left on device"
                .to_owned(),
            Some(("redis", Signal::DiskFull)),
        ),
        (LogKind::Kernel, format!("3,1,2,-;{oom}"), Some(("kernel", Signal::Oom))),
        (
            LogKind::Kernel,
            format!("Nov 20 12:00:20 web kernel: [12.3] {oom}"),
            Some(("kernel", Signal::Oom)),
        ),
        (
            LogKind::Syslog,
            format!("Nov 20 12:00:20 web kernel: {oom}"),
            Some(("syslog", Signal::Oom)),
        ),
        (LogKind::Syslog, format!("Nov 20 12:00:20 web app[7]: {oom}"), None),
        (LogKind::PhpSlow, "[20-Nov-2026 12:00:20]  [pool www] pid 7".to_owned(), None),
        (LogKind::Modsecurity, modsecurity.to_owned(), None),
        (LogKind::Change, "2026-11-20 12:00:20 install a:all <none> 1".to_owned(), None),
    ] {
        let mut s = Scene::new();
        let source = source("/log/other.log", kind, "auto", false);
        let ix = s.judge.add_source(&source);
        let Line::Error(record) = Parser::for_source(&source, &[]).parse(line.as_bytes()) else {
            panic!("{kind:?}: {line}")
        };
        let evidence = s.judge.error(ix, &record, s.now);
        let got = evidence.map(|line| (line.source, line.signal.unwrap()));
        assert_eq!(got, want, "{kind:?}: {line}");
    }
}

/// The lines told of what such lines say was refused.
fn refusals_of(s: &mut Scene, path: &str, kind: LogKind, lines: &[&str]) -> Vec<String> {
    let source = source(path, kind, "auto", false);
    let ix = s.judge.add_source(&source);
    for line in lines {
        if let Line::Error(record) = Parser::for_source(&source, &[]).parse(line.as_bytes()) {
            s.judge.error(ix, &record, s.now);
        }
    }
    s.judge.take_refusals(s.now, true).into_iter().map(|line| line.message).collect()
}

#[test]
fn refusals_that_a_user_of_the_machine_makes_up_are_not_told() {
    let said =
        r#"ModSecurity: Access denied with code 403 (phase 2). [id "1"] [hostname "a.example"]"#;
    let apache = |module: &str, said: &str| {
        format!("[Fri Nov 20 12:00:20.1 2026] {module}[pid 7:tid 8] [client 198.51.100.7:5] {said}")
    };
    let with_id = format!(r#"{said} [unique_id "Zq@x1"]"#);
    let nginx = format!("2026/11/20 12:00:20 [error] 7#7: *1 [client 198.51.100.7] {said}");
    let relayed = format!(
        r#"2026/11/20 12:00:20 [error] 7#7: *1 FastCGI sent in stderr: "PHP message: {said}" while reading response header from upstream, client: 198.51.100.7"#
    );
    let packet = "[12345.678901] [UFW BLOCK] IN= OUT=eth0 SRC=10.0.0.5 DST=10.0.0.7 LEN=60 \
                  PROTO=TCP SPT=40000 DPT=9000 SYN";
    let kernels = format!("Nov 20 12:00:20 web kernel: {packet}");
    for (kind, line, is_told) in [
        (LogKind::Error, apache("[security2:error] ", said), true),
        (LogKind::Error, apache("[error] ", &with_id), true),
        (LogKind::Error, nginx, true),
        // `error_log` of PHP as a module of Apache, a script, PHP behind nginx, `logger`.
        (LogKind::Error, apache("[php:notice] ", &with_id), false),
        (LogKind::Error, apache("[cgi:error] ", &with_id), false),
        (LogKind::Error, apache("[error] ", said), false),
        (LogKind::Error, relayed, false),
        (LogKind::Syslog, format!("Nov 20 12:00:20 web app: {said}"), false),
        (
            LogKind::Syslog,
            format!("Nov 20 12:00:20 web apache2: [security2:error] [pid 7] {with_id}"),
            false,
        ),
        (LogKind::Kernel, kernels.clone(), true),
        (LogKind::Syslog, kernels, false),
        (LogKind::Error, format!("[Fri Nov 20 12:00:20 2026] [error] [pid 7] {packet}"), false),
    ] {
        let mut s = Scene::new();
        s.judge.backends = Backends::of(&Discovery {
            sites: vec![Site { upstream: Some("10.0.0.7:9000".to_owned()), ..Site::default() }],
            ..Discovery::default()
        });
        let told = refusals_of(&mut s, "/log/some.log", kind, &[&line]);
        assert_eq!(told.len(), usize::from(is_told), "{kind:?} {line}: {told:?}");
    }
}

#[test]
fn an_audit_log_counts_for_the_sites_whose_error_log_is_silent() {
    let error = |host: &str| {
        format!(
            r#"[Fri Nov 20 12:00:20.1 2026] [security2:error] [pid 7:tid 8] [client 198.51.100.7:5] ModSecurity: Access denied with code 403 (phase 2). [id "1"] [hostname "{host}"]"#
        )
    };
    let audit = |host: &str| {
        format!(
            r#"{{"transaction":{{"time":"20/Nov/2026:12:00:20 +0000","transaction_id":"x","remote_address":"198.51.100.7"}},"request":{{"request_line":"GET /x HTTP/1.1","headers":{{"Host":"{host}"}}}},"audit_data":{{"messages":["Access denied with code 403 (phase 2). [id \"1\"]"]}}}}"#
        )
    };
    let mut s = Scene::new();
    let told = refusals_of(&mut s, "/log/error.log", LogKind::Error, &[&error("a.example")]);
    assert_eq!(told.len(), 1, "{told:?}");
    let both = [&*audit("a.example"), &*audit("b.example")];
    let told = refusals_of(&mut s, "/log/audit.log", LogKind::Modsecurity, &both);
    assert!(told.len() == 1 && told[0].contains("b.example"), "{told:?}");
    // A scanner that asks by the address is told by the error log, whatever site that files it under.
    let unknown = [&*audit("203.0.113.5")];
    let told = refusals_of(&mut s, "/log/audit.log", LogKind::Modsecurity, &unknown);
    assert!(told.is_empty(), "{told:?}");
    // The web server's log falls silent.
    s.now = s.now.plus(std::time::Duration::from_secs(4_000));
    let told = refusals_of(&mut s, "/log/audit.log", LogKind::Modsecurity, &both);
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn an_error_line_that_went_to_syslog_explains_its_request() {
    let mut s = Scene::new();
    let syslog = source("/log/syslog", LogKind::Syslog, "auto", false);
    let ix = s.judge.add_source(&syslog);
    let line = r#"<131>Nov 20 12:00:20 web nginx: 2026/11/20 12:00:20 [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: "GET /x HTTP/1.1", upstream: "http://127.0.0.1:9001/x", host: "a.example""#;
    let Line::Error(record) = Parser::for_source(&syslog, &[]).parse(line.as_bytes()) else {
        panic!("{line}")
    };
    assert_eq!(s.judge.error(ix, &record, s.now), None, "the request's exemplar carries it");
    s.ask("a.example", "198.51.100.7", 20, "/x", 502, ("127.0.0.1:9001", "502"));
    assert_eq!(s.one().exemplar.unwrap().signal, Some(Signal::ConnectRefused));
}

#[test]
fn a_bad_header_explains_its_own_request_and_makes_no_503() {
    let mut s = Scene::new();
    let now = s.now;
    let bad = |second| ErrorRecord {
        client: Some("198.51.100.7".into()),
        gateway: false,
        ..lighttpd(second, None, None, Signal::InvalidHeader)
    };
    assert_eq!(s.judge.error(APACHE_ERROR, &bad(5), now), None);
    s.ask("a.example", "198.51.100.7", 5, "/x", 502, ("", ""));
    assert_eq!(s.one().exemplar.unwrap().signal, Some(Signal::InvalidHeader));
    assert_eq!(s.judge.error(APACHE_ERROR, &bad(6), now), None);
    s.ask("a.example", "198.51.100.8", 6, "/x", 503, ("", ""));
    assert!(!s.one().gateway_503, "of another client, and the client got some answer");
}

#[test]
fn what_a_503_says_itself_comes_before_an_older_line_of_its_site() {
    let mut s = Scene::new();
    s.error("a.example", "198.51.100.9", 5, "/other", REFUSED);
    s.line(HAPROXY, r#"Nov 20 12:00:08 lb haproxy[1]: 198.51.100.7:4242 [20/Nov/2026:12:00:06.000] in be/<NOSRV> 0/-1/-1/-1/0 503 217 - - SC-- 1/1/0/0/0 0/0 {a.example} "GET /x HTTP/1.1""#);
    assert_eq!(s.one().exemplar.unwrap().signal, Some(Signal::NoLiveUpstreams));
}

#[test]
fn a_site_that_is_no_longer_configured_leaves_the_inventory_and_may_come_back() {
    let mut s = Scene::new();
    let all = s.judge.discovery.clone();
    let mut fewer = all.clone();
    fewer.sites.retain(|site| site.name != "b.example");
    let kept = |s: &Scene| -> Vec<String> {
        let sites = s.judge.sites().iter().filter(|site| !site.is_removed);
        sites.map(|site| site.name.clone()).collect()
    };
    s.judge.rediscovered(&fewer);
    assert_eq!(kept(&s), ["a.example", "c.example"]);
    s.ask("b.example", "198.51.100.7", 5, "/", 200, ("", ""));
    let request = s.one();
    assert_eq!(s.name(&request), "b.example", "what it still answers is counted");
    s.judge.rediscovered(&all);
    assert_eq!(kept(&s), ["a.example", "b.example", "c.example"]);
}

#[test]
fn a_log_counts_only_those_of_its_sites_that_no_other_log_counts() {
    let mut s = Scene::new();
    let mut shared = source("/log/apache.log", LogKind::Access, "vhost_combined", false);
    shared.inner_sites = vec!["b.example".to_owned()];
    assert_eq!(s.judge.add_source(&shared), APACHE);
    for (host, status) in [("a.example", 200), ("b.example", 200), ("b.example", 502)] {
        s.line(APACHE, &format!(
            r#"{host}:80 198.51.100.7 - - [20/Nov/2026:12:00:05 +0000] "GET /x HTTP/1.1" {status} 157 "-" "x""#
        ));
    }
    let request = s.one();
    assert_eq!((s.name(&request), request.status), ("a.example", 200));
    let plain = |host: &'static [u8]| crate::logs::scan::Plain {
        raw: b"",
        host,
        client: b"198.51.100.7",
        upstream: b"",
        second: Some(s.now.second()),
        status: 200,
    };
    let (a, b) = (plain(b"a.example:80"), plain(b"b.example:80"));
    assert!(matches!(s.judge.plain(APACHE, &a, s.now), Verdict::Counted { .. }));
    assert_eq!(s.judge.plain(APACHE, &b, s.now), Verdict::Inner);
}

#[test]
fn a_server_behind_explains_no_503_of_sites_that_it_does_not_serve_or_of_other_backends() {
    let behind = |s: &mut Scene, upstream: &str| {
        let line = ErrorRecord {
            client: Some("127.0.0.1".into()),
            ..lighttpd(5, None, Some(upstream).filter(|u| !u.is_empty()), Signal::ConnectRefused)
        };
        let now = s.now;
        s.judge.error(APACHE_ERROR, &line, now);
    };
    // Site, the backend that the line behind names, whether the line explains the 503.
    for (host, upstream, want) in [
        ("a.example", "", true),
        ("a.example", "unix:/run/php/www.sock", true),
        ("a.example", "127.0.0.1:9001", false),
        ("c.example", "127.0.0.1:9001", true),
        ("d.example", "", false),
        ("d.example", "198.51.100.4:80", true),
        ("e.example", "198.51.100.4:80", true),
        ("e.example", "198.51.100.5:80", false),
    ] {
        let mut s = Scene::new();
        let mut discovery = s.judge.discovery.clone();
        let elsewhere = |name: &str, log: &str| Site {
            name: name.to_owned(),
            error_logs: vec![log.into()],
            upstream: Some("198.51.100.4:80".to_owned()),
            ..Site::default()
        };
        discovery.sites.push(elsewhere("d.example", "/log/error.log"));
        discovery.sites.push(elsewhere("e.example", "/log/apache-error.log"));
        s.judge.rediscovered(&discovery);
        behind(&mut s, upstream);
        // Two requests: one may take the line as its own, the other is explained by it or not.
        for client in ["198.51.100.7", "198.51.100.8"] {
            s.ask(host, client, 6, "/x", 503, ("", ""));
        }
        let explained: Vec<bool> = s.settle().iter().map(|r| r.gateway_503).collect();
        assert_eq!(explained, [want; 2], "{host} {upstream}");
    }
}

#[test]
fn a_request_that_went_on_to_another_group_is_no_retry_unless_a_status_says_so() {
    for (upstreams, statuses, want) in [
        ("192.0.2.1:80, 192.0.2.2:80", "502, 200", true),
        ("192.0.2.1:80, 192.0.2.2:80", "", true),
        ("192.0.2.1:80 : 192.0.2.2:80", "", false),
        ("192.0.2.1:80 : 192.0.2.2:80", "200 : 200", false),
        ("192.0.2.1:80 : 192.0.2.2:80", "502 : 200", true),
        ("192.0.2.1:80, 192.0.2.2:80 : 192.0.2.3:80", "", true),
        ("192.0.2.1:80", "200", false),
    ] {
        let mut s = Scene::new();
        s.ask("a.example", "198.51.100.7", 5, "/x", 200, (upstreams, statuses));
        assert_eq!(s.one().retried, want, "{upstreams} {statuses}");
    }
}
