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
/// The longest registered method has 17.
const METHOD_BYTES_MAX: usize = 32;
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

    /// What of a client's address may leave the machine.
    pub(crate) fn client_ip(&self) -> ClientIp {
        self.config.client_ip
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

    /// A path: its query only where that is kept, no address in it where those are hidden.
    pub(crate) fn path(&mut self, path: &str, now: UnixMillis) -> String {
        let path = match self.config.query_string {
            QueryString::Keep => path,
            QueryString::Drop => without_query(path),
        };
        let path = whole_words(path);
        match self.config.client_ip {
            ClientIp::Full => cut(path, TEXT_BYTES_MAX).to_owned(),
            _ => cut(&self.hide_addresses(path, "", now), TEXT_BYTES_MAX).to_owned(),
        }
    }

    /// A text of a log: queries, referrers and addresses as far as allowed, at most 512 bytes.
    ///
    /// Addresses of upstreams stay: `keep` is the one the line names, and loopback tells nobody.
    pub(crate) fn text(&mut self, text: &str, keep: &str, now: UnixMillis) -> String {
        let text = whole_words(text);
        let text = match self.config.query_string {
            QueryString::Keep => Cow::Borrowed(text),
            QueryString::Drop => drop_queries(without_referrer(text)),
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
        while let Some(start) = rest.find(is_of_address) {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let end = from.find(|c| !is_of_address(c)).unwrap_or(from.len());
            let (mut word, after) = from.split_at(end);
            let named = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            while let Some((at, address, len)) = address_in(word, named) {
                out.push_str(&word[..at]);
                if is_kept(address, keep) {
                    out.push_str(&word[at..at + len]);
                } else {
                    out.push_str(&self.hidden(address, now));
                }
                word = &word[at + len..];
            }
            out.push_str(word);
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

/// Bytes of a text that are looked at: of what is longer the first part is enough for 512.
const LOOKED_AT_MAX: usize = 1024;
/// Lengths of addresses in text, IPv4 and IPv6 (which may hold an IPv4 address).
const V4_BYTES: (usize, usize) = (7, 15);
const V6_BYTES: (usize, usize) = (2, 45);

/// The beginning of a long text, without the word that the cut went through: half an address is
/// none that could be known.
fn whole_words(text: &str) -> &str {
    let cut = cut(text, LOOKED_AT_MAX);
    if cut.len() == text.len() {
        return text;
    }
    cut.trim_end_matches(is_of_address)
}

fn is_of_address(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, '.' | ':')
}

/// The first address in a word of hex digits, dots and colons: where it is, and its length.
///
/// `named`: the word goes on from a name (`Foo::bad`), so it does not begin with an IPv6 address. Four
/// numbers with dots are an address, whatever they are part of: better a version hidden than a client
/// shown.
fn address_in(word: &str, named: bool) -> Option<(usize, IpAddr, usize)> {
    let bytes = word.as_bytes();
    // `192.0.2.1:80`, `2001:db8::1.` at the end of a sentence: the longest that is one.
    let ends = |at: usize, (least, most): (usize, usize)| {
        (at + least..=bytes.len().min(at + most)).rev().map(move |end| (at, end))
    };
    (0..bytes.len()).find_map(|at| {
        let follows = |is: fn(&u8) -> bool| at > 0 && is(&bytes[at - 1]);
        let may_begin_v6 = if at == 0 { !named } else { !follows(u8::is_ascii_hexdigit) };
        if may_begin_v6 {
            let v6 = ends(at, V6_BYTES).find_map(|(at, end)| {
                let stops = bytes.get(end).is_none_or(|b| matches!(b, b'.' | b':'));
                let address = stops.then(|| word[at..end].parse().ok()).flatten()?;
                Some((at, IpAddr::V6(address), end - at))
            });
            if v6.is_some() {
                return v6;
            }
        }
        if !bytes[at].is_ascii_digit() || follows(u8::is_ascii_digit) {
            return None;
        }
        ends(at, V4_BYTES).find_map(|(at, end)| {
            let stops = !bytes.get(end).is_some_and(u8::is_ascii_digit);
            let address = stops.then(|| word[at..end].parse().ok()).flatten()?;
            Some((at, IpAddr::V4(address), end - at))
        })
    })
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

/// Apache ends a line with what the client says it comes from.
fn without_referrer(text: &str) -> &str {
    let at = [", referer: ", ", referrer: "].iter().filter_map(|label| text.find(label)).min();
    at.map_or(text, |at| &text[..at])
}

/// Cuts everything from a question mark to the end of its word; inside quotes, where a client may
/// have put spaces, to the protocol that ends a request line or to the closing quote.
fn drop_queries(text: &str) -> Cow<'_, str> {
    if !text.contains('?') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut is_quoted) = (text, false);
    while let Some(at) = rest.find('?') {
        out.push_str(&rest[..at]);
        is_quoted ^= rest[..at].matches('"').count() % 2 == 1;
        let query = &rest[at..];
        let n_bytes = if is_quoted {
            let quoted = &query[..query.find('"').unwrap_or(query.len())];
            quoted.rfind(" HTTP/").unwrap_or(quoted.len())
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '>' | ')');
            query.find(ends).unwrap_or(query.len())
        };
        rest = &query[n_bytes..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// A request method, empty when it is none: a broken request may have anything in its place.
pub(crate) fn method(text: &str) -> &str {
    let is_letter = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
    if text.len() <= METHOD_BYTES_MAX && text.bytes().all(is_letter) { text } else { "" }
}

/// At most `max` bytes, at a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod leaks;

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
            // Nothing in front of an address hides it, nor behind it.
            (
                "ip:198.51.100.77 X-Forwarded-For:198.51.100.77,198.51.100.78:443",
                "",
                "ip:198.51.100.0/24 X-Forwarded-For:198.51.100.0/24,198.51.100.0/24:443",
            ),
            (
                "added:198.51.100.77 dead198.51.100.77 host-198.51.100.77 v198.51.100.77.",
                "",
                "added:198.51.100.0/24 dead198.51.100.0/24 host-198.51.100.0/24 v198.51.100.0/24.",
            ),
            (
                "198.51.100.77-198.51.100.78/198.51.100.79=198.51.100.80",
                "",
                "198.51.100.0/24-198.51.100.0/24/198.51.100.0/24=198.51.100.0/24",
            ),
            (
                "client:2001:db8:1:2::3 ::ffff:198.51.100.77 [2001:db8:1::9]:443 fe80::1%eth0",
                "",
                "client:2001:db8:1::/48 198.51.100.0/24 [2001:db8:1::/48]:443 fe80::/48%eth0",
            ),
            (
                "App::bad Foo::cafe 1:2 12:43:07.123 256.1.1.1 1.2.3",
                "",
                "App::bad Foo::cafe 1:2 12:43:07.123 256.1.1.1 1.2.3",
            ),
            (
                "request: \"GET /a?b=1 secret words HTTP/1.1\", x \"y?z u\" k?l m",
                "",
                "request: \"GET /a HTTP/1.1\", x \"y\" k m",
            ),
            (
                "AH01071: failed, referer: https://a.example/?token=s and words",
                "",
                "AH01071: failed",
            ),
        ] {
            assert_eq!(p.text(text, keep, UnixMillis(0)), want);
        }
    }

    #[test]
    fn a_text_of_a_mebibyte_is_cut_before_it_is_read_and_not_inside_an_address() {
        let mut p = privacy(ClientIp::Drop, QueryString::Drop);
        for unit in ["1.1.1.1", "1:", ":", "a", "198.51.100.77 ", "?", "?\"", "\u{e4}:1"] {
            let text = p.text(&unit.repeat((1 << 20) / unit.len()), "", UnixMillis(0));
            assert!(text.len() <= TEXT_BYTES_MAX && !text.contains("198.51.100"), "{text}");
        }
        // Queries that are dropped bring the end of what is looked at near.
        for n in 0..20 {
            let text = format!("{}198.51.100.77", "?".repeat(LOOKED_AT_MAX - 10 + n));
            assert!(!p.text(&text, "", UnixMillis(0)).contains("198.51"), "{n}");
        }
        let mut kept = privacy(ClientIp::Full, QueryString::Keep);
        assert_eq!(kept.path("/a?b 198.51.100.77", UnixMillis(0)), "/a?b 198.51.100.77");
        assert_eq!(p.path("/a/198.51.100.77/b?c", UnixMillis(0)), "/a/-/b");
        assert_eq!(
            ["GET", "M-SEARCH", "get", "GET?a=b", "\u{e4}"].map(method),
            ["GET", "M-SEARCH", "", "", ""]
        );
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
