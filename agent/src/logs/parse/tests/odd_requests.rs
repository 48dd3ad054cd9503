//! Which requests tell a log of Varnish from one of any other server.

use super::every_format::access_source;
use super::*;

#[test]
fn a_url_in_one_request_makes_no_varnish_of_a_log() {
    let url = br#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET http://b.example/ HTTP/1.1" 200 5 "-" "x""#;
    let path = br#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#;
    let mut parser = Parser::for_source(&access_source("auto"), &[&url[..], path, path, path]);
    for line in [&url[..], path, url, path] {
        let Line::Access(record) = parser.parse(line) else { panic!("a request") };
        assert_eq!((record.host, parser.format()), (None, "clf"));
    }
    let mut parser = Parser::for_source(&access_source("auto"), &[url]);
    assert_eq!(parser.format(), "varnish");
    for format in ["varnish", "varnish", "clf"] {
        let Line::Access(record) = parser.parse(path) else { panic!("not one line is lost") };
        assert_eq!((record.host, parser.format()), (None, format));
    }
}

#[test]
fn odd_requests_do_not_take_the_hosts_from_a_log_of_varnish() {
    let line = |request: &str, status: u16| {
        format!(r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "{request}" {status} 5 "-" "x""#)
    };
    let odd = [
        line("-", 400),
        line(r"\x16\x03\x01", 400),
        line("OPTIONS * HTTP/1.1", 200),
        line("GET http://a.example", 400),
        line("CONNECT a.example:443 HTTP/1.1", 405),
    ];
    let url = line("GET http://b.example/p HTTP/1.1", 502);
    for is_first in [true, false] {
        let mut parser = Parser::for_source(&access_source("auto"), &[]);
        if !is_first {
            parser.parse(url.as_bytes());
        }
        for _ in 0..REJECTED_IN_A_ROW_MAX {
            for odd in &odd {
                let Line::Access(record) = parser.parse(odd.as_bytes()) else { panic!("{odd}") };
                assert_eq!(record.host, None, "{odd}");
            }
        }
        let chunk = format!("{}\n{url}\n", odd[0]);
        let mut hosts = Hosts::default();
        parser.clone().scan(chunk.as_bytes(), &mut hosts);
        assert_eq!(hosts.0, [None, Some("b.example".to_owned())]);
        let Line::Access(record) = parser.parse(url.as_bytes()) else { panic!("{url}") };
        assert_eq!((record.host.as_deref(), parser.format()), (Some("b.example"), "varnish"));
    }
}

/// The hosts of all lines, however they come.
#[derive(Default)]
struct Hosts(Vec<Option<String>>);

impl crate::logs::scan::Sink for Hosts {
    fn plain(&mut self, plain: &crate::logs::scan::Plain<'_>) -> bool {
        let host = String::from_utf8_lossy(plain.host).into_owned();
        self.0.push(Some(host).filter(|host| !host.is_empty()));
        true
    }

    fn line(&mut self, _raw: &[u8], line: Line<'_>) {
        let Line::Access(record) = line else { return };
        self.0.push(record.host.map(std::borrow::Cow::into_owned));
    }
}
