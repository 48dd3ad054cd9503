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
    /// A request that a web application firewall refused (ModSecurity), by the second of its log
    /// line; its status is counted where the access log has it.
    pub const BLOCKED: u32 = 1003;
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
/// `while reading upstream` has a signal, although its client already got 200. A text of unknown
/// source may quote anybody: parsers pass what the program itself says, without clients' words.
#[must_use]
pub fn classify(text: &str) -> Option<Signal> {
    if is_of_application(text) {
        return classify_application(text);
    }
    classify_kernel(text)
        .or_else(|| classify_disk(text))
        .or_else(|| classify_worker(text))
        .or_else(|| classify_answer(text))
        .or_else(|| classify_gateway(text))
        .or_else(|| classify_connection(text))
}

/// A line that hands on what an application wrote to its stderr or its error log.
fn is_of_application(text: &str) -> bool {
    const MARKS: [&str; 7] = [
        "FastCGI sent in stderr",
        "FastCGI-stderr: ",
        "AH01071",
        "AH01215",
        "said into std",
        "PHP message: ",
        "PHP Fatal error: ",
    ];
    MARKS.iter().any(|mark| text.contains(mark))
}

/// What an application says on stderr may quote anything: only PHP's own words for its own troubles
/// count.
#[must_use]
pub fn classify_application(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    let after_fatal = |what: &str| {
        text.match_indices("PHP Fatal error: ")
            .any(|(at, fatal)| text[at + fatal.len()..].trim_start().starts_with(what))
    };
    if after_fatal("Allowed memory size of ") || after_fatal("Out of memory (allocated ") {
        Some(Signal::MemoryLimit)
    } else if has("1040): Too many connections")
        || has("[1040] Too many connections")
        || has("mysqli_sql_exception: Too many connections")
    {
        Some(Signal::TooManyConnections)
    } else {
        None
    }
}

/// What the kernel says, or a watchman over memory.
#[must_use]
pub fn classify_kernel(text: &str) -> Option<Signal> {
    let text = without_kernel_head(text);
    // Names of devices and of audited programs stand further on, and may be any text.
    let begins = |start: &str| text.starts_with(start);
    let of_unit = text
        .split_once(": ")
        .filter(|(unit, _)| unit.contains('.') && !unit.contains(' '))
        .map(|(_, said)| said);
    let says = |start: &str| of_unit.is_some_and(|said| said.starts_with(start));
    if begins("Out of memory: Kill")
        || begins("oom-kill:")
        || begins("Memory cgroup out of memory")
        || begins("oom_reaper: reaped process ")
        || of_process(text, " invoked oom-killer: ")
        || says("A process of this unit has been killed by the OOM killer")
        || says("Failed with result 'oom-kill'")
    {
        Some(Signal::Oom)
    } else if of_process(text, "]: segfault at ")
        || of_process(text, "] general protection fault ip:")
        || of_process(text, "] general protection ip:")
        || says("Main process exited, ") && text.contains("status=11/SEGV")
    {
        Some(Signal::Segfault)
    } else if (begins("nf_conntrack: ") || begins("ip_conntrack: ")) && text.contains("table full")
    {
        Some(Signal::ConntrackFull)
    } else {
        None
    }
}

/// Cuts what stands before the words of the kernel: `kernel: `, `[ 12.3] `, `traps: `.
fn without_kernel_head(text: &str) -> &str {
    let text = text.strip_prefix("kernel: ").unwrap_or(text);
    let stamped = text.strip_prefix('[').and_then(|inside| inside.split_once("] "));
    let is_stamp =
        |stamp: &str| stamp.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b' '));
    let text = stamped.filter(|(stamp, _)| is_stamp(stamp)).map_or(text, |(_, rest)| rest);
    text.strip_prefix("traps: ").unwrap_or(text)
}

/// True when the words follow the name of a process, and its number in the brackets they end.
fn of_process(text: &str, words: &str) -> bool {
    const NAME_BYTES_MAX: usize = 15;
    let Some((head, _)) = text.split_once(words) else { return false };
    let name = if words.starts_with(']') {
        let Some((name, number)) = head.rsplit_once('[') else { return false };
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        if is_number { name } else { return false }
    } else {
        head
    };
    // Behind `input: ` and the like a device says its name.
    name.len() <= NAME_BYTES_MAX && !name.contains(": ")
}

/// ENOSPC, as any program may report it.
fn classify_disk(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    // Apache calls a header that is too long for its buffer so.
    let is_full = has("No space left on device") && !has("header size is over the limit")
        || has("Disk is full writing ")
        || has("Disk full (")
        || has("rrcode: 28 ")
        || has("(errno: 28 ")
        || has("rror number 28 ")
        || has("failed with error 28");
    is_full.then_some(Signal::DiskFull)
}

/// Workers and databases behind the web server.
fn classify_worker(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("server reached pm.max_children")
        || has("server reached max_children")
        || has("Reached max children process limit: ")
    {
        Some(Signal::MaxChildren)
    } else if has("exited on signal 11")
        || has("exit signal Segmentation fault")
        || has("was killed by signal: 11")
        || has("crashed by signal: 11")
    {
        Some(Signal::Segfault)
    } else if has("exited on signal ") && !has("exited on signal 3 ")
        || has("child pid ") && has(" exit signal ")
        || has("was killed by signal: ")
        || has("crashed by signal: ")
        || has("execution timed out (") && has("terminating")
        || (has("mysqld") || has("mariadbd")) && has(" got signal ")
    {
        Some(Signal::WorkerSignal)
    } else if has("Allowed memory size of ") {
        Some(Signal::MemoryLimit)
    } else if has("Too many connections") {
        Some(Signal::TooManyConnections)
    } else if has("worker_connections are not enough")
        || has("AH00484")
        || has("AH00161")
        || has("server reached MaxClients setting")
    {
        // Apache: "server reached MaxRequestWorkers setting".
        Some(Signal::WorkerConnections)
    } else {
        None
    }
}

/// The upstream answered, but not well, or there was none to ask.
fn classify_answer(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("no live upstreams")
        || has("has no server available")
        || has("All workers are in error state")
    {
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
        || ["AH02006", "AH02007", "AH02008", "AH02032"].iter().any(|code| has(code))
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

/// lighttpd and LiteSpeed about their backends.
fn classify_gateway(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    if has("establishing connection failed: ") || has("connection to [") && has("] on request #") {
        classify_errno_text(text)
    } else if has("all handlers for ") && has(" are down") {
        Some(Signal::NoLiveUpstreams)
    } else if has("ExtConn timed out while connecting") {
        Some(Signal::ConnectTimeout)
    } else if has("read timeout on socket: ")
        || has("write timeout on socket: ")
        || has("ExtConn timed out while processing")
    {
        Some(Signal::TimeoutRead)
    } else if has("response not received, request")
        || has("response already sent out, but backend returned error")
        || has("unexpected end-of-file (perhaps the ")
        || has("connection was dropped after accept()")
        || has("Premature end of response header")
    {
        Some(Signal::PrematureClose)
    } else {
        None
    }
}

/// A connection that failed, where only the words of the error number are given.
fn classify_errno_text(text: &str) -> Option<Signal> {
    [
        ("Connection refused", Signal::ConnectRefused),
        ("No such file or directory", Signal::NoSuchSocket),
        ("Permission denied", Signal::Permission),
        ("Connection timed out", Signal::ConnectTimeout),
        ("No route to host", Signal::Unreachable),
        ("Network is unreachable", Signal::Unreachable),
        ("Resource temporarily unavailable", Signal::BacklogFull),
        ("Connection reset by peer", Signal::Reset),
        ("Broken pipe", Signal::Reset),
    ]
    .into_iter()
    .find_map(|(words, signal)| text.contains(words).then_some(signal))
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
        || has("from remote server")
        || has("read response failed from ");
    if has("is DOWN, reason:") {
        let is_refused = has("info: \"Connection refused\"");
        return Some(if is_refused { Signal::ConnectRefused } else { Signal::ServerDown });
    }
    let unmade = has("failed to make connection to backend: ");
    if !upstream && !unmade {
        return None;
    }
    // nginx writes "(111: Connection refused)", Apache "(111)Connection refused".
    let errno = |number: u32| has(&format!("({number}: ")) || text.contains(&format!("({number})"));
    if errno(113) || errno(101) {
        Some(Signal::Unreachable)
    } else if errno(111) {
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
    } else if has("(22)Invalid argument") {
        // Apache of bytes that are not the protocol.
        Some(Signal::InvalidHeader)
    } else if has("prematurely closed")
        || ["AH01102", "AH01075", "AH01067", "AH01110", "AH10404"].iter().any(|c| has(c))
        || has("from remote server")
        || has("read response failed from ")
    {
        Some(Signal::PrematureClose)
    } else if unmade {
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
            (
                "(22)Invalid argument: AH01075: Error dispatching request to : ",
                Some(S::InvalidHeader),
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
            (
                "Server be/s1 is DOWN, reason: Layer4 connection problem, info: \"Connection refused\", check duration: 0ms",
                Some(S::ConnectRefused),
            ),
            ("backend be has no server available!", Some(S::NoLiveUpstreams)),
            ("", None),
        ] {
            assert_eq!(classify(text), want, "{text}");
        }
    }

    fn check(table: &[(&str, Option<Signal>)]) {
        for (text, want) in table {
            assert_eq!(classify(text), *want, "{text}");
        }
    }

    #[test]
    fn the_kernel_and_its_watchmen_are_understood() {
        use Signal as S;
        check(&[
            (
                "php-fpm8.2 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0",
                Some(S::Oom),
            ),
            (
                "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a.slice,task=php,pid=7",
                Some(S::Oom),
            ),
            (
                "Memory cgroup out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB",
                Some(S::Oom),
            ),
            ("Out of memory: Kill process 7 (mysqld) score 900 or sacrifice child", Some(S::Oom)),
            ("oom_reaper: reaped process 7 (mysqld), now anon-rss:0kB", Some(S::Oom)),
            (
                "php8.2-fpm.service: A process of this unit has been killed by the OOM killer.",
                Some(S::Oom),
            ),
            (
                "php-fpm[7]: segfault at 8 ip 55d0 sp 7ffc error 4 in php[55d0+1000]",
                Some(S::Segfault),
            ),
            (
                "traps: php-fpm[7] general protection fault ip:55d0 sp:7ffc error:0 in php",
                Some(S::Segfault),
            ),
            ("php-fpm[7] general protection ip:55d0 sp:7ffc error:0 in php", Some(S::Segfault)),
            ("nf_conntrack: table full, dropping packet", Some(S::ConntrackFull)),
            ("ip_conntrack: table full, dropping packet.", Some(S::ConntrackFull)),
            ("eth0: Link is Down", None),
        ]);
    }

    #[test]
    fn the_name_of_a_device_or_a_program_is_no_word_of_the_kernel() {
        const OOM: &str = "Out of memory: Killed process 7 (php)";
        for (text, want) in [
            (format!("kernel: [ 12.3] {OOM}"), Some(Signal::Oom)),
            (format!("usb 1-1: Product: {OOM}"), None),
            (format!("input: {OOM} as /devices/a"), None),
            (format!("audit: type=1400 apparmor=\"DENIED\" comm=\"{OOM}\""), None),
            ("usb 1-1: Product: a invoked oom-killer: gfp_mask=0".to_owned(), None),
            ("usb 1-1: Product: a[7]: segfault at 0 ip 0 sp 0".to_owned(), None),
            ("input: a[7]: segfault at 0 ip 0 sp 0".to_owned(), None),
            ("input: a[7] general protection fault ip:0".to_owned(), None),
            ("input: Failed with result 'oom-kill'".to_owned(), None),
            ("usb 1-1: Product: nf_conntrack: table full, dropping packet".to_owned(), None),
            ("a.service: Failed with result 'oom-kill'.".to_owned(), Some(Signal::Oom)),
            (
                "a.service: Main process exited, code=dumped, status=11/SEGV".to_owned(),
                Some(Signal::Segfault),
            ),
        ] {
            assert_eq!(classify_kernel(&text), want, "{text}");
        }
    }

    #[test]
    fn lighttpd_litespeed_and_balancers_say_why_they_failed() {
        use Signal as S;
        let refused = "(gw_backend.c.274) establishing connection failed: socket: tcp:127.0.0.1:9: Connection refused";
        check(&[
            (refused, Some(S::ConnectRefused)),
            (
                "establishing connection failed: socket: unix:/run/a.sock: No such file or directory",
                Some(S::NoSuchSocket),
            ),
            (
                "establishing connection failed: socket: tcp:192.0.2.1:80: Connection timed out",
                Some(S::ConnectTimeout),
            ),
            (
                "establishing connection failed: socket: tcp:192.0.2.1:80: No route to host",
                Some(S::Unreachable),
            ),
            ("all handlers for /a? on .php are down.", Some(S::NoLiveUpstreams)),
            ("read timeout on socket: unix:/run/a.sock (fd: 11)", Some(S::TimeoutRead)),
            (
                "response not received, request sent: 231 on socket: tcp:127.0.0.1:9 for /a?, closing connection",
                Some(S::PrematureClose),
            ),
            (
                "unexpected end-of-file (perhaps the fastcgi process died):pid: 0 socket: unix:/run/a.sock",
                Some(S::PrematureClose),
            ),
            ("gw: got a FDEVENT_ERR. Don't know why.", None),
            ("ExtConn timed out while connecting.", Some(S::ConnectTimeout)),
            ("ExtConn timed out while processing.", Some(S::TimeoutRead)),
            (
                "connection to [uds://tmp/lshttpd/lsphp.sock] on request #0, confirmed 0, error: Connection refused!",
                Some(S::ConnectRefused),
            ),
            (
                "Reached max children process limit: 10, extra: 3, current: 13, busy: 13, please increase LSAPI_CHILDREN.",
                Some(S::MaxChildren),
            ),
            (
                "AH01167: balancer://app: All workers are in error state for route (a)",
                Some(S::NoLiveUpstreams),
            ),
            (
                "(111)Connection refused: proxy: HTTP: attempt to connect to 127.0.0.1:9 (127.0.0.1) failed",
                Some(S::ConnectRefused),
            ),
            (
                "(104)Connection reset by peer: proxy: error reading status line from remote server 127.0.0.1",
                Some(S::Reset),
            ),
            (
                "AH02032: Hostname a.example provided via SNI and hostname b.example provided via HTTP are different",
                Some(S::Tls),
            ),
        ]);
    }

    #[test]
    fn databases_and_masters_tell_of_themselves() {
        use Signal as S;
        check(&[
            ("[Warning] Too many connections", Some(S::TooManyConnections)),
            ("mysqld got signal 6 ;", Some(S::WorkerSignal)),
            ("[ERROR] /usr/sbin/mariadbd got signal 11 ;", Some(S::WorkerSignal)),
            ("InnoDB: Error number 28 means 'No space left on device'", Some(S::DiskFull)),
            ("Disk is full writing './a/b.MYD' (Errcode: 28). Waiting", Some(S::DiskFull)),
            ("Redis 7.0.1 crashed by signal: 11, si_code: 1", Some(S::Segfault)),
            ("AH00052: child pid 7 exit signal Segmentation fault (11)", Some(S::Segfault)),
            ("AH00052: child pid 7 exit signal Killed (9)", Some(S::WorkerSignal)),
            ("worker process 7 exited on signal 9", Some(S::WorkerSignal)),
            ("server reached MaxClients setting, consider raising it", Some(S::WorkerConnections)),
        ]);
    }

    #[test]
    fn what_an_application_quotes_is_not_believed() {
        for around in [
            "FastCGI sent in stderr: \"PHP message: {}\" while reading response header from upstream",
            "AH01071: Got error 'PHP message: {}'",
            "[pool www] child 32 said into stderr: \"{}\"",
            "(mod_fastcgi.c.421) FastCGI-stderr: {}",
        ] {
            for quoted in [
                "Out of memory: Killed process 7 (php) total-vm:1kB",
                "child 7 exited on signal 9",
                "server reached pm.max_children setting (3)",
                "upstream timed out (110: Connection timed out) while connecting to upstream",
                "establishing connection failed: socket: tcp:127.0.0.1:9: Connection refused",
                "no user Too many connections",
                "Allowed memory size of",
                "no live upstreams",
                "AH01102: error reading status line from remote server 127.0.0.1",
            ] {
                let text = around.replace("{}", quoted);
                assert_eq!(classify(&text), None, "{text}");
            }
            let own =
                around.replace("{}", "PHP Fatal error:  Allowed memory size of 9 bytes exhausted");
            assert_eq!(classify(&own), Some(Signal::MemoryLimit), "{own}");
            let own = around.replace("{}", "SQLSTATE[HY000] [1040] Too many connections");
            assert_eq!(classify(&own), Some(Signal::TooManyConnections), "{own}");
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
