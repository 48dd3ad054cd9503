//! varnishncsa: the Common Log Format with the whole URL in the request line, and formats of its own.
//!
//! Varnish puts the URL together from the `Host` header, so the line names the host though no field
//! does. It answers 503 for every failure of its own; only the reason phrase tells those from the
//! backend's.

use wire::v1::Signal;

use crate::logs::parse::{access, clf};
use crate::logs::{AccessRecord, Line, Rejected};

/// One line of the default format, or with more fields behind; any other request line is refused.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    match clf::parse(line) {
        Line::Access(mut record) => {
            if record.path.as_deref().is_none_or(|path| access::absolute(path).is_none()) {
                return Line::Rejected(Rejected::Malformed);
            }
            complete(&mut record, None);
            record.time_is_start = true;
            Line::Access(record)
        }
        line => line,
    }
}

/// Takes the URL apart, and says what the reason phrase does.
pub(crate) fn complete(record: &mut AccessRecord<'_>, reason: Option<&[u8]>) {
    if let Some((host, path)) =
        record.path.take_if(|p| access::absolute(p).is_some()).and_then(access::split_absolute)
    {
        record.path = Some(path);
        record.host.get_or_insert(host);
    }
    let reason = reason.map(access::text).unwrap_or_default();
    if record.status == Some(503) && is_own_failure(&reason) {
        record.upstream_failed = true;
        record.signal = Some(Signal::Other);
    }
}

/// The reason phrases of its own 503s after a fetch: the backend, or each that was tried, failed.
fn is_own_failure(reason: &str) -> bool {
    matches!(reason, "Backend fetch failed" | "Backend fetch failed (retried)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::parse::Parser;

    const LINE: &str = r#"203.0.113.8 - - [20/Nov/2026:13:11:26 +0000] "GET http://a.example:80/p?q HTTP/1.1" 503 282 "-" "curl""#;

    #[test]
    fn the_url_names_host_and_path() {
        for (line, host, path) in [
            (LINE.to_owned(), "a.example:80", "/p?q"),
            (format!("{LINE} pass"), "a.example:80", "/p?q"),
            (LINE.replace("/p?q", ""), "a.example:80", "/"),
            (LINE.replace("http://a.example:80", "https://user@b.example"), "b.example", "/p?q"),
        ] {
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.host.as_deref(), r.path.as_deref()), (Some(host), Some(path)), "{line}");
            assert!(!r.upstream_failed && r.time_is_start, "the line does not say who failed");
        }
        let relative = LINE.replace("http://a.example:80", "");
        assert_eq!(parse(relative.as_bytes()), Line::Rejected(Rejected::Malformed));
    }

    #[test]
    fn the_reason_phrase_tells_whose_503_it_is() {
        let format = r#"%h %l %u %t "%r" %s %b "%{Referer}i" "%{User-agent}i" "%{VSL:RespReason}x" %{Varnish:handling}x %{Varnish:time_firstbyte}x %{VCL_Log:backend}x"#;
        let mut parser = Parser::for_format(format, &[]);
        for (tail, failed) in [
            (r#" "Backend fetch failed" pass 0.001 a b"#, true),
            (r#" "Service Unavailable" miss 0.001 -"#, false),
            (r#" "-" miss 0.001 -"#, false),
        ] {
            let line = format!("{LINE}{tail}");
            let Line::Access(r) = parser.parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.status, r.upstream_failed), (Some(503), failed), "{tail}");
            assert_eq!(
                (r.host.as_deref(), r.path.as_deref()),
                (Some("a.example:80"), Some("/p?q"))
            );
        }
        let line =
            format!("{LINE} \"Backend fetch failed\" pass 0.001 -").replace(" 503 ", " 200 ");
        let Line::Access(r) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        assert!(!r.upstream_failed);
        // A format without any of these fields says by its prefix whose it is.
        let line = br#"a "GET http://b.example/c HTTP/1.1" 502"#;
        let Line::Access(r) = Parser::for_format(r#"varnish:%h "%r" %s"#, &[]).parse(line) else {
            panic!()
        };
        assert_eq!((r.host.as_deref(), r.path.as_deref()), (Some("b.example"), Some("/c")));
        let Line::Access(r) = Parser::for_format(r#"%h "%r" %s"#, &[]).parse(line) else {
            panic!()
        };
        assert_eq!(r.host, None, "another server's client chooses what it asks for");
    }
}
