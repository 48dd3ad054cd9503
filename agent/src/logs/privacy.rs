//! What of clients and queries may leave the machine: addresses, keyed hashes, scrubbed texts.
//!
//! Every text of a log that is sent passes [`Privacy::text`]; paths pass [`Privacy::path`].

use std::borrow::Cow;
use std::net::IpAddr;

use ring::hmac;
use ring::rand::SystemRandom;
use wire::UnixMillis;

use crate::config::{ClientIp, PrivacyConfig, QueryString};

/// Longest text that is sent, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 512;
const DAY_MS: i64 = 86_400_000;

/// The operator's wish, and the key of the day.
pub(crate) struct Privacy {
    config: PrivacyConfig,
    random: SystemRandom,
    /// Day since the epoch, and its key. Never stored, never sent: tomorrow's hashes match nothing.
    key: Option<(i64, hmac::Key)>,
}

impl Privacy {
    pub(crate) fn new(config: PrivacyConfig) -> Self {
        Self { config, random: SystemRandom::new(), key: None }
    }

    /// Other rules from here on, under the same key.
    pub(crate) fn set_rules(&mut self, config: PrivacyConfig) {
        self.config = config;
    }

    /// Hash under the key of the day; never 0, which means unknown.
    pub(crate) fn hash(&mut self, text: &str, now: UnixMillis) -> u64 {
        let day = now.0.div_euclid(DAY_MS);
        if self.key.as_ref().is_none_or(|(of, _)| *of != day) {
            self.key = hmac::Key::generate(hmac::HMAC_SHA256, &self.random).ok().map(|k| (day, k));
        }
        // Without randomness there is no safe key, so there is no hash.
        let Some((_, key)) = &self.key else { return 0 };
        let tag = hmac::sign(key, text.as_bytes());
        let head = tag.as_ref().first_chunk().expect("a SHA-256 tag has 32 bytes");
        u64::from_le_bytes(*head).max(1)
    }

    /// Hash of a client that may leave the machine; 0 when it is unknown or to be dropped.
    pub(crate) fn client_hash(&mut self, client: &str, now: UnixMillis) -> u64 {
        match self.config.client_ip {
            _ if client.is_empty() => 0,
            ClientIp::Drop => 0,
            ClientIp::Full | ClientIp::Prefix | ClientIp::Hash => self.hash(client, now),
        }
    }

    /// The client as text, as far as allowed.
    pub(crate) fn client(&mut self, client: &str, now: UnixMillis) -> String {
        match (self.config.client_ip, client.parse::<IpAddr>()) {
            (ClientIp::Full, _) => client.to_owned(),
            (ClientIp::Prefix, Ok(address)) => prefix(address),
            (ClientIp::Hash, _) => format!("{:016x}", self.hash(client, now)),
            // Not an address: a host name could tell as much as the address.
            (ClientIp::Prefix, Err(_)) | (ClientIp::Drop, _) => String::new(),
        }
    }

    /// A path, with its query only where that is kept.
    pub(crate) fn path<'a>(&self, path: &'a str) -> &'a str {
        match self.config.query_string {
            QueryString::Keep => path,
            QueryString::Drop => without_query(path),
        }
    }

    /// A text of a log: queries and addresses as far as allowed, at most 512 bytes.
    ///
    /// Addresses of upstreams stay: `keep` is the one the line names, and loopback tells nobody.
    pub(crate) fn text(&mut self, text: &str, keep: &str, now: UnixMillis) -> String {
        let text = match self.config.query_string {
            QueryString::Keep => Cow::Borrowed(text),
            QueryString::Drop => drop_queries(text),
        };
        let text = match self.config.client_ip {
            ClientIp::Full => text,
            _ => self.hide_addresses(&text, keep, now).into(),
        };
        cut(&text, TEXT_BYTES_MAX).to_owned()
    }

    fn hide_addresses(&mut self, text: &str, keep: &str, now: UnixMillis) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit() || c == ':') {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let end = from
                .find(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':')))
                .unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            let named = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
            match address_in(word).filter(|_| !named) {
                Some((address, tail)) => {
                    if is_kept(address, keep) {
                        out.push_str(word);
                    } else {
                        out.push_str(&self.hidden(address, now));
                        out.push_str(tail);
                    }
                }
                None => out.push_str(word),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn hidden(&mut self, address: IpAddr, now: UnixMillis) -> String {
        let text = self.client(&address.to_string(), now);
        if text.is_empty() { "-".to_owned() } else { text }
    }
}

/// An address at the start of a word of hex digits, dots and colons, and the port or the like after
/// it.
fn address_in(word: &str) -> Option<(IpAddr, &str)> {
    if let Ok(address) = word.parse() {
        return Some((address, ""));
    }
    // `192.0.2.1:80`, `2001:db8::1.` at the end of a sentence, `192.0.2.1:`
    let mut end = word.len();
    while let Some(at) = word[..end].rfind([':', '.']) {
        if let Ok(address) = word[..at].parse() {
            return Some((address, &word[at..]));
        }
        end = at;
    }
    None
}

fn is_kept(address: IpAddr, keep: &str) -> bool {
    let upstream = keep.rsplit_once(':').map_or(keep, |(host, _)| host);
    let upstream = upstream.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_loopback() || address.is_unspecified() || upstream == Ok(address)
}

/// `/24` or `/48`.
fn prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

pub(crate) fn without_query(path: &str) -> &str {
    path.split_once(['?', '#']).map_or(path, |(path, _)| path)
}

/// Cuts everything from a question mark to the end of its word.
fn drop_queries(text: &str) -> Cow<'_, str> {
    if !text.contains('?') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('?') {
        out.push_str(&rest[..at]);
        let end =
            rest[at..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '>' | ')'));
        rest = &rest[end.map_or(rest.len(), |end| at + end)..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// At most `max` bytes, at a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privacy(client_ip: ClientIp, query_string: QueryString) -> Privacy {
        Privacy::new(PrivacyConfig { client_ip, query_string })
    }

    #[test]
    fn texts_lose_queries_and_clients_but_keep_their_upstream() {
        let mut p = privacy(ClientIp::Prefix, QueryString::Drop);
        for (text, keep, want) in [
            (
                "connect() failed (111: Connection refused) while connecting to upstream",
                "",
                "connect() failed (111: Connection refused) while connecting to upstream",
            ),
            (
                "client: 198.51.100.77, request: \"GET /a?token=s HTTP/1.1\"",
                "",
                "client: 198.51.100.0/24, request: \"GET /a HTTP/1.1\"",
            ),
            (
                "attempt to connect to 10.0.0.5:8081 (10.0.0.5:8081) failed",
                "10.0.0.5:8081",
                "attempt to connect to 10.0.0.5:8081 (10.0.0.5:8081) failed",
            ),
            (
                "attempt to connect to 10.0.0.5:8081 failed",
                "",
                "attempt to connect to 10.0.0.0/24:8081 failed",
            ),
            ("[client 2001:db8:1:2::3] x", "", "[client 2001:db8:1::/48] x"),
            ("from 127.0.0.1:80 and ::1", "", "from 127.0.0.1:80 and ::1"),
            ("nginx 1.22.1 abc:def 12:43:07", "", "nginx 1.22.1 abc:def 12:43:07"),
            ("php8.2-fpm deadbeef /page/1.2.3", "", "php8.2-fpm deadbeef /page/1.2.3"),
            ("why? because", "", "why because"),
        ] {
            assert_eq!(p.text(text, keep, UnixMillis(0)), want);
        }
    }

    #[test]
    fn each_wish_shows_as_much_of_a_client_as_it_allows() {
        let now = UnixMillis(0);
        let show = |wish, client: &str| privacy(wish, QueryString::Keep).client(client, now);
        assert_eq!(show(ClientIp::Full, "198.51.100.77"), "198.51.100.77");
        assert_eq!(show(ClientIp::Prefix, "198.51.100.77"), "198.51.100.0/24");
        assert_eq!(show(ClientIp::Prefix, "::ffff:198.51.100.77"), "198.51.100.0/24");
        assert_eq!(show(ClientIp::Prefix, "dsl-77.isp.example"), "");
        assert_eq!(show(ClientIp::Hash, "198.51.100.77").len(), 16);
        assert_eq!(show(ClientIp::Drop, "198.51.100.77"), "");
        let mut dropped = privacy(ClientIp::Drop, QueryString::Drop);
        assert_eq!(dropped.text("client 198.51.100.77 left", "", now), "client - left");
        let mut full = privacy(ClientIp::Full, QueryString::Keep);
        assert_eq!(full.text("GET /?a from 198.51.100.77", "", now), "GET /?a from 198.51.100.77");
    }

    #[test]
    fn a_dropped_client_leaves_not_even_its_hash() {
        let now = UnixMillis(0);
        for (wish, is_sent) in [
            (ClientIp::Full, true),
            (ClientIp::Prefix, true),
            (ClientIp::Hash, true),
            (ClientIp::Drop, false),
        ] {
            let mut p = privacy(wish, QueryString::Drop);
            assert_eq!(p.client_hash("198.51.100.77", now) != 0, is_sent, "{wish:?}");
            assert_eq!(p.client_hash("", now), 0, "{wish:?}");
        }
    }

    #[test]
    fn hashes_hold_for_one_day_and_one_agent() {
        let mut p = privacy(ClientIp::Hash, QueryString::Drop);
        let morning = p.hash("198.51.100.77", UnixMillis(1000));
        assert_eq!(p.hash("198.51.100.77", UnixMillis(DAY_MS - 1)), morning);
        assert_ne!(p.hash("198.51.100.78", UnixMillis(2000)), morning);
        assert_ne!(p.hash("198.51.100.77", UnixMillis(DAY_MS)), morning);
        assert_ne!(
            privacy(ClientIp::Hash, QueryString::Drop).hash("198.51.100.77", UnixMillis(0)),
            morning
        );
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut p = privacy(ClientIp::Full, QueryString::Keep);
        let cut = p.text(&"ä".repeat(400), "", UnixMillis(0));
        assert_eq!(cut.len(), 512);
        let cut = p.text(&format!("a{}", "ä".repeat(400)), "", UnixMillis(0));
        assert_eq!(cut.len(), 511);
    }
}
