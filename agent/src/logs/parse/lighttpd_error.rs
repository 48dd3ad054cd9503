//! lighttpd error log: `2026-11-20 12:51:34: (gw_backend.c.274) establishing connection failed: socket:
//! tcp:127.0.0.1:4999: Connection refused`, also as syslog has it.
//!
//! One failed request gives two or three lines: the one that says why, and the one that says which
//! request was given up. Which site it was is in none of them. A path is written as the client sent it,
//! decoded, so only the fixed words before it count.

use memchr::memmem;
use wire::signal::{classify, classify_application};
use wire::v1::Signal;

use crate::logs::parse::{access, syslog, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if let Some((time, rest)) = time::dated_prefix(line) {
        return match rest.strip_prefix(b": ").and_then(message) {
            Some(record) => Line::Error(ErrorRecord { time: Some(time), ..record }),
            None => Line::Rejected(Rejected::Malformed),
        };
    }
    let relayed =
        syslog::inside(line, |program| program == b"lighttpd").and_then(|(time, level, text)| {
            Some(ErrorRecord { time, level: level.map(Into::into), ..message(text)? })
        });
    relayed.map_or(Line::Rejected(Rejected::Continuation), Line::Error)
}

/// What follows the time: `(gw_backend.c.274) text`.
pub(super) fn message(text: &[u8]) -> Option<ErrorRecord<'_>> {
    let said = after_place(text)?;
    let mut record = ErrorRecord { message: access::text(text), ..ErrorRecord::default() };
    judge(said, &mut record);
    Some(record)
}

/// Skips `(gw_backend.c.274) `.
fn after_place(text: &[u8]) -> Option<&[u8]> {
    let inside = text.strip_prefix(b"(")?;
    let end = memmem::find(&inside[..inside.len().min(80)], b") ")?;
    let (file, number) = inside[..end].split_at(memmem::rfind(&inside[..end], b".c.")? + 3);
    let is_file =
        file.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    (is_file && is_number).then_some(&inside[end + 2..])
}

fn judge<'l>(said: &'l [u8], record: &mut ErrorRecord<'l>) {
    let starts = |words: &[u8]| said.starts_with(words);
    let signal = |text: &[u8]| classify(&access::text(text));
    if starts(b"FastCGI-stderr: ") {
        record.signal = classify_application(&access::text(said));
    } else if starts(b"establishing connection failed: ") {
        // Old versions say why before they name the socket.
        record.upstream = socket_before(said, &[b": ", b" "]).map(access::text);
        record.signal = signal(said);
        record.gateway = true;
    } else if starts(b"all handlers for ") && said.ends_with(b" are down.") {
        record.signal = Some(Signal::NoLiveUpstreams);
        record.gateway = true;
        record.path = path(&said[b"all handlers for ".len()..], b" on ");
    } else if starts(b"read timeout on socket: ") || starts(b"write timeout on socket: ") {
        record.upstream = socket_before(said, &[b" (fd: "]).map(access::text);
        record.signal = Some(Signal::TimeoutRead);
        record.gateway = true;
    } else if starts(b"response not received, request") {
        record.signal = Some(Signal::PrematureClose);
        record.gateway = true;
        given_up(said, record);
    } else if starts(b"response already sent out, but backend returned error on socket: ") {
        // The client had its answer, or a part of it.
        record.signal = Some(Signal::PrematureClose);
        given_up(said, record);
    } else if starts(b"unexpected end-of-file (perhaps the ")
        || starts(b"connection was dropped after accept() (perhaps the ")
    {
        // The next line tells what became of the request.
        record.signal = Some(Signal::PrematureClose);
        record.upstream = socket_before(said, &[]).map(access::text);
    } else if is_call(said) {
        record.signal = signal(said).filter(|signal| *signal == Signal::DiskFull);
    }
}

/// `… on socket: unix:/run/a.sock for /page?x=1, closing connection`
fn given_up<'l>(said: &'l [u8], record: &mut ErrorRecord<'l>) {
    record.upstream = socket_before(said, &[b" for "]).map(access::text);
    record.path = memmem::find(said, b" for ").and_then(|at| path(&said[at + 5..], b", "));
}

/// The target of a request, up to the last of these words; `?` follows it also without a query.
fn path<'l>(text: &'l [u8], before: &[u8]) -> Option<std::borrow::Cow<'l, str>> {
    let target = &text[..memmem::rfind(text, before)?];
    let target = target.strip_suffix(b"?").unwrap_or(target);
    target.starts_with(b"/").then(|| access::text(target))
}

/// The socket behind the first `socket: `: `tcp:127.0.0.1:4999` as `127.0.0.1:4999`, a unix socket with
/// its scheme. It ends before one of these words, or at the end.
fn socket_before<'l>(said: &'l [u8], ends: &[&[u8]]) -> Option<&'l [u8]> {
    let at = memmem::find(said, b"socket: ")? + b"socket: ".len();
    let rest = &said[at..];
    let end = ends.iter().find_map(|end| memmem::find(rest, end)).unwrap_or(rest.len());
    let socket = &rest[..end];
    let address = socket.strip_prefix(b"tcp:").unwrap_or(socket);
    (!address.is_empty()).then_some(address)
}

/// `write failed: 28: No space left on device`, `open() /x …` name no client's words first.
fn is_call(said: &[u8]) -> bool {
    [&b"write failed: "[..], b"write() ", b"writev failed: ", b"opening temp-file failed: "]
        .iter()
        .any(|words| said.starts_with(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn each_line_of_a_failure_says_what_it_knows() {
        use Signal as S;
        let sock = Some("unix:/run/php/a.sock");
        for (text, upstream, path, signal, gateway) in [
            (
                "(gw_backend.c.274) establishing connection failed: socket: tcp:127.0.0.1:4999: Connection refused",
                Some("127.0.0.1:4999"),
                None,
                Some(S::ConnectRefused),
                true,
            ),
            (
                "(gw_backend.c.274) establishing connection failed: socket: tcp:[2001:db8::1]:80: Connection timed out",
                Some("[2001:db8::1]:80"),
                None,
                Some(S::ConnectTimeout),
                true,
            ),
            (
                "(gw_backend.c.274) establishing connection failed: socket: unix:/run/php/a.sock: No such file or directory",
                sock,
                None,
                Some(S::NoSuchSocket),
                true,
            ),
            (
                "(mod_fastcgi.c.1734) establishing connection failed: Connection refused socket: unix:/run/php/a.sock",
                sock,
                None,
                Some(S::ConnectRefused),
                true,
            ),
            (
                "(gw_backend.c.960) all handlers for /page? on .php are down.",
                None,
                Some("/page"),
                Some(S::NoLiveUpstreams),
                true,
            ),
            (
                "(gw_backend.c.960) all handlers for /page?a=b on  are down.",
                None,
                Some("/page?a=b"),
                Some(S::NoLiveUpstreams),
                true,
            ),
            (
                "(gw_backend.c.2708) read timeout on socket: unix:/run/php/a.sock (fd: 11)",
                sock,
                None,
                Some(S::TimeoutRead),
                true,
            ),
            (
                "(gw_backend.c.2389) response not received, request sent: 231 on socket: tcp:127.0.0.1:4101 for /page?, closing connection",
                Some("127.0.0.1:4101"),
                Some("/page"),
                Some(S::PrematureClose),
                true,
            ),
            (
                "(gw_backend.c.2380) response not received, request not sent on socket: unix:/run/php/a.sock for /page?, reconnecting",
                sock,
                Some("/page"),
                Some(S::PrematureClose),
                true,
            ),
            (
                "(gw_backend.c.2396) response already sent out, but backend returned error on socket: unix:/run/php/a.sock for /page?, terminating connection",
                sock,
                Some("/page"),
                Some(S::PrematureClose),
                false,
            ),
            (
                "(mod_fastcgi.c.360) unexpected end-of-file (perhaps the fastcgi process died):pid: 0 socket: unix:/run/php/a.sock",
                sock,
                None,
                Some(S::PrematureClose),
                false,
            ),
            ("(gw_backend.c.2455) gw: got a FDEVENT_ERR. Don't know why.", None, None, None, false),
            (
                "(gw_backend.c.351) gw-server re-enabled: tcp:127.0.0.1:4999 127.0.0.1 4999 ",
                None,
                None,
                None,
                false,
            ),
            (
                "(network_write.c.109) write failed: 28: No space left on device",
                None,
                None,
                Some(S::DiskFull),
                false,
            ),
            (
                "(mod_fastcgi.c.421) FastCGI-stderr: PHP message: PHP Fatal error:  Allowed memory size of 9 bytes exhausted",
                None,
                None,
                Some(S::MemoryLimit),
                false,
            ),
        ] {
            for head in ["2026-11-20 12:51:34: ", "Nov 20 12:51:34 web lighttpd[7]: "] {
                let line = format!("{head}{text}");
                let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
                let got = (r.upstream.as_deref(), r.path.as_deref(), r.signal, r.gateway);
                assert_eq!(got, (upstream, path, signal, gateway), "{line}");
                assert!(r.time.is_some());
            }
        }
    }

    #[test]
    fn no_words_of_a_client_or_an_application_make_a_failure() {
        let fake = "establishing connection failed: socket: tcp:203.0.113.9:1: Connection refused";
        for text in [
            format!("(mod_fastcgi.c.421) FastCGI-stderr: {fake}"),
            format!("(response.c.9) URI-path : /(gw_backend.c.274) {fake}"),
            format!("(x) (gw_backend.c.274) {fake}"),
        ] {
            let line = format!("2026-11-20 12:51:34: {text}");
            if let Line::Error(r) = parse(line.as_bytes()) {
                assert_eq!((r.signal, r.gateway, r.upstream), (None, false, None), "{line}");
            }
        }
        // A path may hold the words that end it: it changes neither socket nor signal.
        let line = "2026-11-20 12:51:34: (gw_backend.c.2389) response not received, request sent: 1 on socket: tcp:127.0.0.1:1 for /x socket: tcp:203.0.113.9:1 for y, z?, closing connection";
        let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(r.upstream.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(r.signal, Some(Signal::PrematureClose));
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "2026-11-20 12:51:34",
            "2026-11-20 12:51:34: x",
            "2026-11-20 12:51:34: (x) y",
            "2026-11-20 12:51:34 install a <none> 1",
            "Nov 20 12:51:34 web app[7]: (gw_backend.c.274) x",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
