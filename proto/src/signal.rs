//! The vocabulary both halves share: signals of error lines and derived counters of requests.

use crate::v1::Signal;

/// Derived counters that `SiteSecond.status` may carry beside HTTP statuses.
pub mod counter {
    /// A 503 that the agent judged a gateway error; it is also counted under 503.
    pub const GATEWAY_503: u32 = 1000;
    /// A request that met a failed upstream and was answered well by another one.
    pub const RETRIED: u32 = 1001;
    /// A gateway error that a search engine's crawler saw, by the `User-Agent` it gave, unverified.
    pub const CRAWLER: u32 = 1002;
}

const NAMES: [(Signal, &str); 25] = [
    (Signal::ConnectRefused, "connect_refused"),
    (Signal::ConnectTimeout, "connect_timeout"),
    (Signal::Unreachable, "unreachable"),
    (Signal::Reset, "reset"),
    (Signal::PrematureClose, "premature_close"),
    (Signal::TimeoutRead, "timeout_read"),
    (Signal::NoLiveUpstreams, "no_live_upstreams"),
    (Signal::TooBigHeader, "too_big_header"),
    (Signal::InvalidHeader, "invalid_header"),
    (Signal::Permission, "permission"),
    (Signal::NoSuchSocket, "no_such_socket"),
    (Signal::Dns, "dns"),
    (Signal::Tls, "tls"),
    (Signal::MaxChildren, "max_children"),
    (Signal::BacklogFull, "backlog_full"),
    (Signal::WorkerSignal, "worker_signal"),
    (Signal::Oom, "oom"),
    (Signal::Segfault, "segfault"),
    (Signal::MemoryLimit, "memory_limit"),
    (Signal::DiskFull, "disk_full"),
    (Signal::ConntrackFull, "conntrack_full"),
    (Signal::WorkerConnections, "worker_connections"),
    (Signal::ServerDown, "server_down"),
    (Signal::TooManyConnections, "too_many_connections"),
    (Signal::Other, "other"),
];

impl Signal {
    /// The name the contract uses in JSON; `None` for `SIGNAL_UNSPECIFIED`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(signal, _)| *signal == self).map(|(_, name)| *name)
    }

    /// The signal with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(signal, _)| *signal)
    }
}

/// What one line of an error or system log says happened; `None` when it says nothing of interest.
///
/// Pure, and the same for live lines and for recorded ones. Takes the message with or without the
/// prefix of its server. Whether the line is about a *failed* request is the parser's business:
/// `while reading upstream` has a signal, although its client already got 200.
#[must_use]
pub fn classify(text: &str) -> Option<Signal> {
    if let Some(signal) = classify_machine(text).or_else(|| classify_worker(text)) {
        return Some(signal);
    }
    // What an application says on stderr may quote anything: only its own troubles count.
    if text.contains("FastCGI sent in stderr") || text.contains("AH01071") {
        return None;
    }
    classify_answer(text).or_else(|| classify_connection(text))
}

/// Kernel messages, and errors any program may report.
fn classify_machine(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("Out of memory: Kill") || has("oom-kill:") || has("emory cgroup out of memory") {
        Some(Signal::Oom)
    } else if has("]: segfault at ") || has("general protection fault ip:") {
        Some(Signal::Segfault)
    } else if has("nf_conntrack") && has("table full") {
        Some(Signal::ConntrackFull)
    } else if has("No space left on device") && !has("header size is over the limit") {
        Some(Signal::DiskFull)
    } else {
        None
    }
}

/// Workers and databases behind the web server.
fn classify_worker(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("server reached pm.max_children") || has("server reached max_children") {
        Some(Signal::MaxChildren)
    } else if has("exited on signal 11") {
        Some(Signal::Segfault)
    } else if has("exited on signal ") && !has("exited on signal 3 ")
        || has("execution timed out (") && has("terminating")
        || has("mysqld got signal ")
    {
        Some(Signal::WorkerSignal)
    } else if has("Allowed memory size of ") {
        Some(Signal::MemoryLimit)
    } else if has("Too many connections") {
        Some(Signal::TooManyConnections)
    } else if has("worker_connections are not enough") || has("AH00484") || has("AH00161") {
        // Apache: "server reached MaxRequestWorkers setting".
        Some(Signal::WorkerConnections)
    } else {
        None
    }
}

/// The upstream answered, but not well, or there was none to ask.
fn classify_answer(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("no live upstreams") || has("has no server available") {
        Some(Signal::NoLiveUpstreams)
    } else if has("too big header") || has("header size is over the limit") {
        Some(Signal::TooBigHeader)
    } else if has("could not be resolved (")
        || has("no resolver defined to resolve")
        || has("DNS lookup failure")
        || has("while resolving, resolver:")
    {
        Some(Signal::Dns)
    } else if has("SSL handshaking to upstream") && !has("timed out")
        || has("upstream SSL certificate")
        || has("AH00961")
    {
        Some(Signal::Tls)
    } else if has("upstream sent invalid")
        || has("upstream sent no valid")
        || has("upstream sent unsupported")
        || has("upstream sent unexpected")
        || has("AH01106")
        || has("AH01068")
        || has("AH01070")
        || has("malformed header from script")
        || has("Premature end of script headers")
    {
        Some(Signal::InvalidHeader)
    } else {
        None
    }
}

/// The connection to the upstream failed.
fn classify_connection(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    let connecting = has("while connecting to upstream") || has("attempt to connect to");
    let upstream = connecting
        || has("upstream")
        || ["AH01102", "AH01075", "AH01067", "AH01110", "AH10404", "AH00898"]
            .iter()
            .any(|c| has(c))
        || has("is DOWN, reason:");
    if !upstream && !has("AH01114") && !has("AH01079") {
        return None;
    }
    // nginx writes "(111: Connection refused)", Apache "(111)Connection refused".
    let errno = |number: u32| has(&format!("({number}: ")) || text.contains(&format!("({number})"));
    if errno(113) || errno(101) {
        Some(Signal::Unreachable)
    } else if errno(111) || has("info: \"Connection refused\"") {
        Some(Signal::ConnectRefused)
    } else if has("timed out") || errno(70007) || errno(110) {
        let before = connecting || has("while SSL handshaking to upstream");
        Some(if before { Signal::ConnectTimeout } else { Signal::TimeoutRead })
    } else if connecting && errno(11) {
        Some(Signal::BacklogFull)
    } else if connecting && errno(2) {
        Some(Signal::NoSuchSocket)
    } else if connecting && errno(13) {
        Some(Signal::Permission)
    } else if errno(104) || errno(32) {
        Some(Signal::Reset)
    } else if has("is DOWN, reason:") {
        Some(Signal::ServerDown)
    } else if has("prematurely closed")
        || ["AH01102", "AH01075", "AH01067", "AH01110", "AH10404"].iter().any(|c| has(c))
        || has("Error reading from remote server")
    {
        Some(Signal::PrematureClose)
    } else if has("AH01114") || has("AH01079") {
        Some(Signal::ConnectRefused)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of messages")]
    fn messages_say_what_happened() {
        use Signal as S;
        for (text, want) in [
            (
                "connect() failed (111: Connection refused) while connecting to upstream",
                Some(S::ConnectRefused),
            ),
            (
                "connect() failed (113: No route to host) while connecting to upstream",
                Some(S::Unreachable),
            ),
            (
                "connect() to unix:/run/php/a.sock failed (2: No such file or directory) while connecting to upstream",
                Some(S::NoSuchSocket),
            ),
            (
                "connect() to unix:/run/php/a.sock failed (13: Permission denied) while connecting to upstream",
                Some(S::Permission),
            ),
            (
                "connect() to unix:/run/php/a.sock failed (11: Resource temporarily unavailable) while connecting to upstream",
                Some(S::BacklogFull),
            ),
            (
                "recv() failed (104: Connection reset by peer) while reading response header from upstream",
                Some(S::Reset),
            ),
            (
                "upstream prematurely closed connection while reading response header from upstream",
                Some(S::PrematureClose),
            ),
            (
                "upstream timed out (110: Connection timed out) while connecting to upstream",
                Some(S::ConnectTimeout),
            ),
            (
                "upstream timed out (110: Connection timed out) while reading response header from upstream",
                Some(S::TimeoutRead),
            ),
            (
                "upstream sent too big header while reading response header from upstream",
                Some(S::TooBigHeader),
            ),
            (
                "upstream sent no valid HTTP/1.0 header while reading response header from upstream",
                Some(S::InvalidHeader),
            ),
            ("no live upstreams while connecting to upstream", Some(S::NoLiveUpstreams)),
            ("app.internal could not be resolved (3: Host not found)", Some(S::Dns)),
            ("no resolver defined to resolve app.internal", Some(S::Dns)),
            (
                "SSL_do_handshake() failed (SSL: error:0A00010B) while SSL handshaking to upstream",
                Some(S::Tls),
            ),
            ("SSL_do_handshake() failed (SSL: error:0A00006C) while SSL handshaking", None),
            (
                "1024 worker_connections are not enough while connecting to upstream",
                Some(S::WorkerConnections),
            ),
            (
                "FastCGI sent in stderr: \"Primary script unknown\" while reading response header from upstream",
                None,
            ),
            (
                "FastCGI sent in stderr: \"PHP message: connect() failed (111: Connection refused)\" while reading response header from upstream",
                None,
            ),
            (
                "FastCGI sent in stderr: \"PHP message: PHP Fatal error:  Allowed memory size of 16777216 bytes exhausted\" while reading response header from upstream",
                Some(S::MemoryLimit),
            ),
            ("open() \"/srv/a/favicon.ico\" failed (2: No such file or directory)", None),
            ("access forbidden by rule", None),
            (
                "an upstream response is buffered to a temporary file /var/lib/nginx/fastcgi/1 while reading upstream",
                None,
            ),
            ("upstream server temporarily disabled while connecting to upstream", None),
            (
                "(111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:4999 (127.0.0.1:4999) failed",
                Some(S::ConnectRefused),
            ),
            (
                "(2)No such file or directory: AH02454: FCGI: attempt to connect to Unix domain socket /run/a.sock (localhost:8000) failed",
                Some(S::NoSuchSocket),
            ),
            (
                "(70007)The timeout specified has expired: AH00957: FCGI: attempt to connect to 10.0.0.1:8081 failed",
                Some(S::ConnectTimeout),
            ),
            (
                "(70007)The timeout specified has expired: AH01102: error reading status line from remote server 127.0.0.1:4109",
                Some(S::TimeoutRead),
            ),
            (
                "(70007)The timeout specified has expired: AH01075: Error dispatching request to : (polling)",
                Some(S::TimeoutRead),
            ),
            (
                "(70014)End of file found: AH01075: Error dispatching request to : ",
                Some(S::PrematureClose),
            ),
            ("AH01067: Failed to read FastCGI header", Some(S::PrematureClose)),
            (
                "(28)No space left on device: AH10124: header size is over the limit allowed by ResponseFieldSize",
                Some(S::TooBigHeader),
            ),
            ("AH01071: Got error 'PHP message: Primary script unknown'", None),
            (
                "AH01114: HTTP: failed to make connection to backend: 127.0.0.1",
                Some(S::ConnectRefused),
            ),
            (
                "(EAI 2)Name or service not known: AH00898: DNS lookup failure for: nx.internal returned by /page",
                Some(S::Dns),
            ),
            (
                "[pool www] server reached pm.max_children setting (3), consider raising it",
                Some(S::MaxChildren),
            ),
            (
                "[pool www] child 40 exited on signal 9 (SIGKILL) after 0.7 seconds from start",
                Some(S::WorkerSignal),
            ),
            (
                "[pool www] child 42 exited on signal 11 (SIGSEGV) after 1.6 seconds from start",
                Some(S::Segfault),
            ),
            ("[pool www] child 42 exited with code 0 after 1.6 seconds from start", None),
            ("Out of memory: Killed process 4711 (php-fpm8.2) total-vm:1kB", Some(S::Oom)),
            ("php-fpm[7]: segfault at 0 ip 00 sp 00 error 4 in php", Some(S::Segfault)),
            ("nf_conntrack: nf_conntrack: table full, dropping packet", Some(S::ConntrackFull)),
            (
                "write() failed (28: No space left on device) while reading upstream",
                Some(S::DiskFull),
            ),
            (
                "Server be/s1 is DOWN, reason: Layer4 timeout, check duration: 2001ms",
                Some(S::ServerDown),
            ),
            ("backend be has no server available!", Some(S::NoLiveUpstreams)),
            ("", None),
        ] {
            assert_eq!(classify(text), want, "{text}");
        }
    }

    #[test]
    fn every_signal_of_the_wire_has_one_name() {
        for number in 1..=25 {
            let signal = Signal::try_from(number).expect("numbers 1 to 25 are taken");
            let name = signal.name().expect("every signal has a name");
            assert_eq!(Signal::from_name(name), Some(signal));
        }
        assert!(Signal::try_from(26).is_err(), "a new signal needs a name here");
        assert_eq!(Signal::Unspecified.name(), None);
    }
}
