//! nginx `log_format` and Apache `LogFormat` strings -> a field program and how to read its fields.

use crate::logs::parse::access::Escapes;
use crate::logs::scan::program::{Part, Program, Slot, Writer};

/// How the time field is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TimeStyle {
    /// `$time_local`, `%t`.
    Clf,
    /// `$time_iso8601`.
    Iso8601,
    /// `$msec`, `%{sec}t`: seconds since the epoch.
    EpochSeconds,
    /// Units per second since the epoch: 1,000 or 1,000,000.
    EpochUnits(i64),
    /// `2026-11-20 12:00:05` in UTC.
    W3c,
    /// `%{format}t`.
    Custom(String),
}

/// A compiled format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogFormat {
    pub(crate) program: Program,
    pub(crate) time: TimeStyle,
    /// Apache and HAProxy write the start of a request, nginx its end.
    pub(crate) time_is_start: bool,
    /// Units of the request time per second.
    pub(crate) request_time_per_s: f64,
    /// The request line holds the whole URL, put together by Varnish.
    pub(crate) is_varnish: bool,
    pub(crate) escapes: Escapes,
}

/// What `combined` means to nginx and Apache alike.
pub(crate) const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// The Common Log Format.
pub(crate) const COMMON: &str =
    r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent"#;
/// `combined` after the vhost, with or without its port.
pub(crate) const VHOST_COMBINED: &str = r#"$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// The default of ingress-nginx.
pub(crate) const INGRESS: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id"#;
/// The proxied-host log of nginx-proxy-manager.
pub(crate) const NPM_PROXY: &str = r#"[$time_local] $upstream_cache_status $upstream_status $status - $request_method $scheme $host "$request_uri" [Client $remote_addr] [Length $body_bytes_sent] [Gzip $gzip_ratio] [Sent-to $upstream_addr] "$http_user_agent" "$http_referer""#;
/// Its log of hosts without an upstream.
pub(crate) const NPM_PLAIN: &str = r#"[$time_local] $status - $request_method $scheme $host "$request_uri" [Client $remote_addr] [Length $body_bytes_sent] [Gzip $gzip_ratio] "$http_user_agent" "$http_referer""#;

/// lighttpd's default: the host in the place of the ident, and the time of the end.
pub(crate) const LIGHTTPD: &str = r#"$remote_addr $host $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// In front of a format of varnishncsa in which nothing else tells that it is one.
const VARNISH_PREFIX: &str = "varnish:";

/// Compiles a format string of either server, or of varnishncsa, which is Apache's with more fields;
/// `None` when it holds no status (`bytes` logs).
#[must_use]
pub(crate) fn compile(format: &str) -> Option<LogFormat> {
    if let Some(format) = format.strip_prefix(VARNISH_PREFIX) {
        apache(format).map(|format| LogFormat { is_varnish: true, ..format })
    } else if format.contains('$') {
        nginx(format)
    } else if format.contains('%') {
        apache(format)
    } else {
        None
    }
}

fn nginx(format: &str) -> Option<LogFormat> {
    let mut parts = Vec::new();
    let mut time = TimeStyle::Clf;
    let mut has_time = false;
    let bytes = format.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'$' {
            let end = memchr::memchr(b'$', &bytes[at..]).map_or(bytes.len(), |n| at + n);
            parts.push(Part::Text(bytes[at..end].to_vec()));
            at = end;
            continue;
        }
        let braces = bytes.get(at + 1) == Some(&b'{');
        let start = at + 1 + usize::from(braces);
        let len =
            bytes[start..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let name = &format[start..start + len];
        at = start + len + usize::from(braces && bytes.get(start + len) == Some(&b'}'));
        let (mut slot, style) = nginx_variable(name);
        if let Some(style) = style {
            // A second time in the line (`$msec` after `$time_local`) adds nothing.
            if std::mem::replace(&mut has_time, true) {
                slot = Slot::Skip;
            } else {
                time = style;
            }
        }
        parts.push(Part::Field { slot, writer: nginx_writer(name), words: 1 });
    }
    let program = Program::compile(&parts)?;
    Some(LogFormat {
        program,
        time,
        time_is_start: false,
        request_time_per_s: 1.0,
        is_varnish: false,
        // `escape=json` is no part of the text, but nobody writes an object without it.
        escapes: if format.starts_with('{') { Escapes::Json } else { Escapes::Hex },
    })
}

fn nginx_variable(name: &str) -> (Slot, Option<TimeStyle>) {
    let slot = match name {
        "time_local" => return (Slot::Time, Some(TimeStyle::Clf)),
        "time_iso8601" => return (Slot::Time, Some(TimeStyle::Iso8601)),
        "msec" => return (Slot::Time, Some(TimeStyle::EpochSeconds)),
        "remote_addr" | "realip_remote_addr" => Slot::Client,
        "http_x_forwarded_for"
        | "proxy_add_x_forwarded_for"
        | "http_x_real_ip"
        | "http_cf_connecting_ip" => Slot::ForwardedFor,
        "host" | "http_host" | "server_name" | "proxy_host" => Slot::Host,
        "request" => Slot::Request,
        "request_method" => Slot::Method,
        "request_uri" => Slot::Path,
        "uri" | "document_uri" => Slot::PathOnly,
        "args" | "query_string" => Slot::Query,
        "status" => Slot::Status,
        "upstream_addr" => Slot::UpstreamAddr,
        "upstream_status" => Slot::UpstreamStatus,
        "upstream_response_time" => Slot::UpstreamTime,
        "request_time" => Slot::RequestTime,
        "http_user_agent" => Slot::UserAgent,
        name if name.starts_with("upstream_") => Slot::SkipList,
        _ => Slot::Skip,
    };
    (slot, None)
}

/// Who chooses the text of a variable: of one that is not known, set by a map or a module, the client.
fn nginx_writer(name: &str) -> Writer {
    let is_header = ["http_", "cookie_", "arg_", "sent_http_", "upstream_http_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    match name {
        "http_host" => Writer::Word,
        "http2" | "http3" => Writer::Server,
        "request" | "uri" | "document_uri" | "remote_user" | "request_body" => Writer::Client,
        _ if is_header => Writer::Client,
        "time_local" | "time_iso8601" | "msec" => Writer::Time,
        "status"
        | "body_bytes_sent"
        | "bytes_sent"
        | "request_length"
        | "request_time"
        | "connection"
        | "connection_requests"
        | "connection_time"
        | "pid"
        | "server_port"
        | "remote_port"
        | "gzip_ratio" => Writer::Count,
        "https"
        | "scheme"
        | "pipe"
        | "hostname"
        | "nginx_version"
        | "remote_addr"
        | "realip_remote_addr"
        | "realip_remote_port"
        | "proxy_protocol_addr"
        | "server_addr"
        | "server_name"
        | "server_protocol"
        | "request_id"
        | "req_id"
        | "request_method"
        | "request_completion"
        | "ssl_protocol"
        | "ssl_cipher"
        | "ssl_session_id"
        | "ssl_session_reused"
        | "ssl_curve"
        | "geoip_country_code"
        | "geoip2_data_country_code"
        | "proxy_port"
        | "proxy_upstream_name"
        | "proxy_alternative_upstream_name"
        | "limit_req_status" => Writer::Server,
        _ if ["upstream_cookie_", "upstream_trailer_"].iter().any(|p| name.starts_with(p)) => {
            Writer::Word
        }
        _ if name.starts_with("upstream_") || name.starts_with("tcpinfo_") => Writer::Server,
        _ => Writer::Word,
    }
}

fn apache(format: &str) -> Option<LogFormat> {
    let mut parts = Vec::new();
    let mut time = None;
    let mut per_s = 1.0;
    let mut is_varnish = false;
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            parts.push(Part::Text(unescape(&rest[..at])));
        }
        let (directive, after) = apache_directive(&rest[at + 1..])?;
        rest = after;
        match directive.letter {
            '%' => parts.push(Part::Text(b"%".to_vec())),
            't' => apache_time(directive.argument, &mut parts, &mut time),
            letter => {
                let slot = apache_slot(letter, directive.argument);
                if slot == Slot::RequestTime {
                    per_s = match (letter, directive.argument) {
                        ('D', _) | ('T', Some("us")) => 1e6,
                        ('T', Some("ms")) => 1e3,
                        _ => 1.0,
                    };
                }
                let writer = apache_writer(letter, slot, directive.argument);
                is_varnish |= letter == 'x' && directive.argument.is_some_and(is_of_varnish);
                parts.push(Part::Field { slot, writer, words: 1 });
            }
        }
    }
    if !rest.is_empty() {
        parts.push(Part::Text(unescape(rest)));
    }
    let program = Program::compile(&parts)?;
    Some(LogFormat {
        program,
        time: time.unwrap_or(TimeStyle::Clf),
        time_is_start: true,
        request_time_per_s: per_s,
        is_varnish,
        escapes: Escapes::Hex,
    })
}

fn apache_writer(letter: char, slot: Slot, argument: Option<&str>) -> Writer {
    match letter {
        // With `UseCanonicalName Off` the host that was asked for.
        'V' => Writer::Word,
        'i' if slot == Slot::Host => Writer::Word,
        'i' | 'o' | 'C' | 'r' | 'u' | 'U' | 'q' | 'f' | 'e' | 'n' => Writer::Client,
        'x' if is_free_record(argument) => Writer::Client,
        // A name in the client's certificate.
        'x' if argument.is_some_and(|name| name.contains("CLIENT")) => Writer::Client,
        's' | 'b' | 'B' | 'I' | 'O' | 'S' | 'D' | 'T' | 'p' | 'P' | 'k' => Writer::Count,
        _ => Writer::Server,
    }
}

fn is_of_varnish(argument: &str) -> bool {
    ["Varnish:", "VSL:", "VCL_Log:"].iter().any(|kind| argument.starts_with(kind))
}

/// A record of Varnish's log, or what its program logs, may be any text.
fn is_free_record(argument: Option<&str>) -> bool {
    argument.is_some_and(|name| is_of_varnish(name) && !name.starts_with("Varnish:"))
}

struct Directive<'a> {
    letter: char,
    argument: Option<&'a str>,
}

/// What follows a `%`: `>s`, `{User-Agent}i`, `!200,304{X}o`, `^FB`.
fn apache_directive(text: &str) -> Option<(Directive<'_>, &str)> {
    let condition =
        text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '!' | ',' | '<' | '>'));
    let (argument, after) = match condition.strip_prefix('{') {
        Some(inner) => {
            let (argument, after) = inner.split_once('}')?;
            (Some(argument), after.trim_start_matches(['<', '>']))
        }
        None => (None, condition),
    };
    if let Some(trailer) = after.strip_prefix('^') {
        // `^FB`, `^ti`, `^to`: two letters.
        return Some((Directive { letter: '^', argument }, trailer.get(2..)?));
    }
    let letter = after.chars().next()?;
    Some((Directive { letter, argument }, &after[letter.len_utf8()..]))
}

/// Adds a time; only the first one of a format is read.
fn apache_time(argument: Option<&str>, parts: &mut Vec<Part>, time: &mut Option<TimeStyle>) {
    let first = time.is_none();
    let slot = if first { Slot::Time } else { Slot::Skip };
    let field = |words| Part::Field { slot, writer: Writer::Time, words };
    let Some(argument) = argument else {
        parts.extend([Part::Text(b"[".to_vec()), field(1), Part::Text(b"]".to_vec())]);
        time.get_or_insert(TimeStyle::Clf);
        return;
    };
    let format = argument.trim_start_matches("begin:").trim_start_matches("end:");
    let style = match format {
        "sec" | "%s" => TimeStyle::EpochSeconds,
        "msec" => TimeStyle::EpochUnits(1_000),
        "usec" => TimeStyle::EpochUnits(1_000_000),
        "msec_frac" | "usec_frac" => {
            parts.push(Part::Field { slot: Slot::Skip, writer: Writer::Count, words: 1 });
            return;
        }
        format => TimeStyle::Custom(format.to_owned()),
    };
    parts.push(field(format.split(' ').count()));
    time.get_or_insert(style);
}

fn apache_slot(letter: char, argument: Option<&str>) -> Slot {
    match (letter, argument) {
        ('a' | 'h', _) => Slot::Client,
        ('v' | 'V', _) => Slot::Host,
        ('r', _) => Slot::Request,
        ('m', _) => Slot::Method,
        ('U', _) => Slot::PathOnly,
        ('q', _) => Slot::Query,
        ('s', _) => Slot::Status,
        ('D' | 'T', _) => Slot::RequestTime,
        ('x', Some("VSL:RespReason")) => Slot::Reason,
        ('e', Some("BALANCER_WORKER_NAME")) => Slot::UpstreamAddr,
        ('i', Some(name)) => match name.to_ascii_lowercase().as_str() {
            "user-agent" => Slot::UserAgent,
            "host" => Slot::Host,
            "x-forwarded-for" | "x-real-ip" | "cf-connecting-ip" => Slot::ForwardedFor,
            _ => Slot::Skip,
        },
        _ => Slot::Skip,
    }
}

/// `\"`, `\t` and `\n` of a `LogFormat` that was not unquoted yet.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, byte == b'\\') {
            (_, false) => out.push(byte),
            (_, true) => match bytes.next() {
                Some(b't') => out.push(b'\t'),
                Some(b'n') => out.push(b'\n'),
                Some(other) => out.push(other),
                None => out.push(b'\\'),
            },
        }
    }
    out
}
