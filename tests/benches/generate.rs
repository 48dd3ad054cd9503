//! Access logs as servers write them, from a seed: the same bytes on every machine.
//!
//! Times rise, several requests in a second; clients come from IPv4 and IPv6 and return; agents,
//! referers and queries have the lengths real ones have, some 220 bytes a line in `combined`. One
//! request in 200 is a 502.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::{self, TimeZone};

/// 2026-11-16T00:00:00Z; a file goes on from there.
const START: i64 = 1_794_787_200;
/// Seconds east of UTC of the servers.
const OFFSET_H: i8 = 1;
/// Written at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// nginx `combined`: one file is one site.
    Combined,
    /// The host first, then `combined`.
    HostFirst,
    /// An nginx `log_format` of somebody's own, with what the upstream did.
    Upstream,
    /// `option httplog` over syslog.
    Haproxy,
    /// nginx `escape=json`.
    Json,
    /// nginx `combined` with `name=value` pairs behind it, of which nobody told the agent.
    Pairs,
    /// Traefik's own, which begins like `combined`.
    Traefik,
    /// Envoy's default.
    Envoy,
    /// W3C, as IIS writes it with its default fields and the host.
    Iis,
    /// An application load balancer of AWS.
    Alb,
    /// JSON of Caddy.
    Caddy,
}

impl Style {
    /// What `scan --format` needs to be told.
    pub(crate) fn format(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::HostFirst => "vhost_combined",
            Self::Upstream => {
                r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $host $request_time $upstream_addr $upstream_status $upstream_response_time"#
            }
            Self::Haproxy => "haproxy",
            Self::Json => "json",
            Self::Pairs | Self::Traefik | Self::Envoy | Self::Iis | Self::Alb | Self::Caddy => {
                "auto"
            }
        }
    }
}

/// User agents and how many of a hundred requests have them.
const AGENTS: [(&str, u32); 14] = [
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        24,
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
        17,
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
        17,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
        8,
    ),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0", 6),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", 3),
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", 5),
    ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", 4),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", 4),
    ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", 3),
    ("Mozilla/5.0 (compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", 3),
    ("curl/8.14.1", 2),
    ("WordPress/6.8.3; https://www.example.org", 2),
    ("-", 2),
];

/// Paths; `#` becomes a number.
const PATHS: [&str; 16] = [
    "/",
    "/wp-login.php",
    "/wp-admin/admin-ajax.php",
    "/wp-content/themes/storefront/assets/css/main.css?ver=4.6.#",
    "/wp-content/uploads/2026/11/IMG_#-1024x683.jpg",
    "/product/oak-table-#/",
    "/category/garden/page/#/",
    "/cart/?add-to-cart=#",
    "/api/v1/orders/#?expand=items,customer&limit=50",
    "/static/js/chunk-#.a81bc04d.js",
    "/favicon.ico",
    "/robots.txt",
    "/sitemap.xml",
    "/search?q=wooden+chair+with+arms&sort=price&page=#",
    "/feed/",
    "/index.php?route=product/product&product_id=#&utm_source=newsletter&utm_medium=email",
];

/// Statuses and how many of a thousand requests have them.
const STATUSES: [(u16, u32); 11] = [
    (200, 838),
    (304, 52),
    (301, 30),
    (404, 46),
    (302, 12),
    (403, 6),
    (499, 5),
    (502, 5),
    (500, 3),
    (206, 2),
    (504, 1),
];

/// Pseudo-random numbers: splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }

    fn pick<T: Copy>(&mut self, shares: &[(T, u32)]) -> T {
        let mut at = self.below(shares.iter().map(|(_, share)| share).sum());
        for (value, share) in shares {
            if at < *share {
                return *value;
            }
            at -= share;
        }
        shares[0].0
    }
}

/// One request, whatever writes it down.
struct Request {
    client: String,
    host: String,
    path: String,
    method: &'static str,
    version: &'static str,
    status: u16,
    bytes: u32,
    referer: String,
    agent: &'static str,
    upstream: &'static str,
    ms: u32,
}

/// Makes lines of one file, in order.
pub(crate) struct Lines {
    style: Style,
    dice: Dice,
    second: i64,
    /// The second as the style writes it.
    time: String,
    n_sites: u32,
    /// One line in so many moves on to the next second.
    per_second: u32,
}

impl Lines {
    pub(crate) fn new(style: Style, n_sites: u32, seed: u64) -> Self {
        let mut lines = Self {
            style,
            dice: Dice::new(seed),
            second: START,
            time: String::new(),
            n_sites,
            per_second: 6,
        };
        lines.set_second(START);
        lines
    }

    /// Dates all further lines.
    pub(crate) fn set_second(&mut self, second: i64) {
        self.second = second;
        let zone = TimeZone::fixed(tz::offset(OFFSET_H));
        let at = Timestamp::from_second(second).expect("in range").to_zoned(zone);
        let style = match self.style {
            Style::Json => "%Y-%m-%dT%H:%M:%S%:z",
            Style::Haproxy => "%d/%b/%Y:%H:%M:%S",
            Style::Envoy | Style::Alb => "%Y-%m-%dT%H:%M:%S",
            Style::Caddy => "%s",
            Style::Iis => "%Y-%m-%d %H:%M:%S",
            _ => "%d/%b/%Y:%H:%M:%S %z",
        };
        self.time = at.strftime(style).to_string();
    }

    /// Appends one line with its newline.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>) {
        if self.dice.below(self.per_second) == 0 {
            self.set_second(self.second + 1);
        }
        self.push_now(out);
    }

    /// What stands in a file before its lines.
    fn head(&self) -> &'static str {
        match self.style {
            Style::Iis => {
                "#Software: Microsoft Internet Information Services 10.0\n#Version: 1.0\n\
                 #Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip \
                 cs(User-Agent) cs(Referer) cs-host sc-status sc-substatus sc-win32-status time-taken\n"
            }
            _ => "",
        }
    }

    /// The same, in the second that was set.
    pub(crate) fn push_now(&mut self, out: &mut Vec<u8>) {
        let dice = &mut self.dice;
        let client = client(dice.below(20_000));
        let path = PATHS[dice.below(16) as usize].replace('#', &dice.below(90_000).to_string());
        let method = dice.pick(&[("GET", 91), ("POST", 7), ("HEAD", 2)]);
        let version = dice.pick(&[("HTTP/2.0", 7), ("HTTP/1.1", 3)]);
        let status = dice.pick(&STATUSES);
        let bytes = if status == 304 { 0 } else { 120 + dice.below(180) * dice.below(600) };
        let agent = dice.pick(&AGENTS);
        let host = format!("www.site-{}.example", dice.below(self.n_sites));
        let referer = match dice.below(10) {
            0..6 => "-".to_owned(),
            6..9 => format!("https://{host}/category/garden/"),
            _ => "https://www.google.com/".to_owned(),
        };
        let ms = 1 + dice.below(40) * dice.below(40);
        let upstream = dice.pick(&[("unix:/run/php/php8.4-fpm.sock", 3), ("10.0.3.17:8080", 1)]);
        let request = Request {
            client,
            host,
            path,
            method,
            version,
            status,
            bytes,
            referer,
            agent,
            upstream,
            ms,
        };
        self.write(&request, out).expect("to a vector");
    }

    /// Writes a request as the style has it.
    fn write(&self, fields: &Request, out: &mut Vec<u8>) -> io::Result<()> {
        let Request { client, host, path, status, bytes, referer, agent, upstream, ms, .. } =
            fields;
        let (method, version) = (fields.method, fields.version);
        let time = &self.time;
        let request = format!("{method} {path} {version}");
        let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
        let common = format!(
            "{client} - - [{time}] \"{request}\" {status} {bytes} \"{referer}\" \"{agent}\""
        );
        match self.style {
            Style::Combined => writeln!(out, "{common}"),
            Style::HostFirst => writeln!(out, "{host} {common}"),
            Style::Upstream => {
                writeln!(out, "{common} {host} {seconds} {upstream} {status} {seconds}")
            }
            Style::Haproxy => writeln!(
                out,
                "<134>Nov 20 12:01:07 lb-1 haproxy[812]: {client}:51742 [{time}.217] https~ app/srv1 \
                 0/0/1/{ms}/{ms} {status} {bytes} - - ---- 41/40/3/2/0 0/0 {{{host}}} \"{request}\"",
            ),
            Style::Json => writeln!(
                out,
                "{{\"time\":\"{time}\",\"remote_addr\":\"{client}\",\"host\":\"{host}\",\
                 \"request\":\"{request}\",\"status\":\"{status}\",\"bytes\":\"{bytes}\",\
                 \"referer\":\"{referer}\",\"user_agent\":\"{agent}\",\"request_time\":\"{seconds}\",\
                 \"upstream_addr\":\"{upstream}\",\"upstream_status\":\"{status}\"}}",
            ),
            Style::Pairs => writeln!(
                out,
                "{common} rt={seconds} uct=0.000 urt={seconds} us=\"{status}\" upstream={upstream} \
                 host={host}"
            ),
            _ => self.write_of_proxy(&common, &request, fields, out),
        }
    }

    /// The same for servers whose styles are their own.
    fn write_of_proxy(
        &self,
        common: &str,
        request: &str,
        fields: &Request,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Request { client, host, path, method, version, .. } = fields;
        let Request { status, bytes, referer, agent, ms, .. } = fields;
        let time = &self.time;
        let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
        match self.style {
            Style::Traefik => writeln!(
                out,
                "{common} {ms} \"shop@docker\" \"http://10.0.3.{}:8080\" {ms}ms",
                bytes % 4 + 1
            ),
            Style::Envoy => writeln!(
                out,
                "[{time}.217Z] \"{request}\" {status} - 0 {bytes} {ms} {ms} \"-\" \"{agent}\" \
                 \"5e0b4a7c-8f1d-4c1e-9d55-{bytes:012x}\" \"{host}\" \"10.0.3.17:8080\""
            ),
            Style::Iis => writeln!(
                out,
                "{time} 10.0.0.4 {method} {} {} 443 - {client} {} {referer} {host} {status} 0 0 {ms}",
                path.split('?').next().unwrap_or_default(),
                path.split_once('?').map_or("-", |(_, query)| query),
                agent.replace(' ', "+"),
            ),
            Style::Alb => writeln!(
                out,
                "h2 {time}.{ms:06}Z app/shop/50dc6c495c0c9188 {client}:51742 10.0.3.17:8080 0.001 \
                 {seconds} 0.000 {status} {status} 34 {bytes} \"{method} https://{host}:443{path} \
                 {version}\" \"{agent}\" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.3 \
                 arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/shop/73e2d6bc24d8a067 \
                 \"Root=1-58337364-23a8c76965a2ef7629b185e3\" \"{host}\" \"session-reused\" 0 \
                 {time}.{ms:06}Z \"forward\" \"-\" \"-\" \"10.0.3.17:8080\" \"{status}\" \"-\" \"-\""
            ),
            Style::Caddy => writeln!(
                out,
                "{{\"level\":\"info\",\"ts\":{time}.217{ms:04},\"logger\":\"http.log.access.log0\",\
                 \"msg\":\"handled request\",\"request\":{{\"remote_ip\":\"{client}\",\
                 \"remote_port\":\"51742\",\"client_ip\":\"{client}\",\"proto\":\"{version}\",\
                 \"method\":\"{method}\",\"host\":\"{host}\",\"uri\":\"{path}\",\
                 \"headers\":{{\"User-Agent\":[\"{agent}\"],\"Referer\":[\"{referer}\"]}},\
                 \"tls\":{{\"resumed\":false,\"version\":772,\"server_name\":\"{host}\"}}}},\
                 \"bytes_read\":0,\"user_id\":\"\",\"duration\":{seconds},\"size\":{bytes},\
                 \"status\":{status},\"resp_headers\":{{\"Server\":[\"Caddy\"]}}}}"
            ),
            _ => writeln!(out, "{common}"),
        }
    }
}

/// Address number `n`; one in five is IPv6.
fn client(n: u32) -> String {
    let (a, b, c) = (n % 223 + 1, n / 7 % 256, n / 3 % 254 + 1);
    match n % 5 {
        0 => format!("2001:db8:{a:x}:{b:x}::{c:x}"),
        _ => format!("{a}.{b}.{}.{c}", n % 251),
    }
}

/// A file of about `n_bytes`, made once: its name says all that its bytes depend on.
pub(crate) fn file(
    dir: &Path,
    style: Style,
    n_sites: u32,
    seed: u64,
    n_bytes: u64,
) -> io::Result<PathBuf> {
    let name = format!("{style:?}-{n_sites}-{seed}-{}k.v3.log", n_bytes >> 10).to_lowercase();
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let temp = dir.join("unfinished");
    let mut file = File::create(&temp)?;
    let mut lines = Lines::new(style, n_sites, seed);
    file.write_all(lines.head().as_bytes())?;
    let mut block = Vec::with_capacity(BLOCK_BYTES + 1024);
    let mut left = n_bytes;
    while left > 0 {
        block.clear();
        while block.len() < BLOCK_BYTES.min(left as usize) {
            lines.push(&mut block);
        }
        file.write_all(&block)?;
        left = left.saturating_sub(block.len() as u64);
    }
    fs::rename(temp, &path)?;
    Ok(path)
}

/// A log that means harm: `n` hosts and upstreams, each seen once, each failing.
pub(crate) fn hostile(dir: &Path, n: u32) -> io::Result<PathBuf> {
    let path = dir.join(format!("hostile-{n}.v1.log"));
    let mut text = Vec::new();
    for n in 0..n {
        writeln!(
            text,
            "{} - - [20/Nov/2026:12:{:02}:{:02} +0100] \"GET /{n} HTTP/1.1\" 502 157 \"-\" \
             \"agent {n}\" host-{n}.example 0.100 10.{}.{}.{}:8080 502 0.100",
            client(n),
            n / 60 % 60,
            n % 60,
            n >> 16,
            n >> 8 & 255,
            n & 255,
        )?;
    }
    fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_like_real_ones_and_the_same_each_time() {
        let mut text = Vec::new();
        let mut lines = Lines::new(Style::Combined, 1, 7);
        (0..20_000).for_each(|_| lines.push(&mut text));
        let mean = text.len() / 20_000;
        assert!((190..230).contains(&mean), "{mean} bytes a line");
        let text = String::from_utf8(text).unwrap();
        let n_502 = text.lines().filter(|line| line.contains("\" 502 ")).count();
        assert!((60..140).contains(&n_502), "{n_502} of 20,000 are 502");
        let mut again = Vec::new();
        let mut lines = Lines::new(Style::Combined, 1, 7);
        (0..100).for_each(|_| lines.push(&mut again));
        assert!(text.as_bytes().starts_with(&again));
    }
}
