//! The log lines one simulated nginx writes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::layout::{SOCKET, site};

const PATHS: [&str; 8] =
    ["/", "/contact", "/shop/", "/cart", "/blog/2026/11", "/product/17", "/wp-login.php", "/news"];
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "curl/8.5.0",
];

/// One server: its logs, and whether its only PHP-FPM pool is gone.
pub(crate) struct Server {
    sites: Vec<String>,
    access: File,
    errors: File,
    random: Random,
    due: f64,
    n_requests: u64,
    pub(crate) pool_is_down: bool,
}

impl Server {
    pub(crate) fn open(root: &Path, n: u32, sites: u32) -> Result<Self> {
        let open = |name: &str| {
            let path = root.join("var/log/nginx").join(name);
            File::options().append(true).open(&path).with_context(|| {
                format!("cannot open {}: run `gatewatch-demo layout` first", path.display())
            })
        };
        Ok(Self {
            sites: (1..=sites).map(|i| site(n, i)).collect(),
            access: open("access.log")?,
            errors: open("error.log")?,
            random: Random(u64::from(n)),
            due: 0.0,
            n_requests: 0,
            pool_is_down: false,
        })
    }

    /// Writes the requests of one slice of time, `per_site` for each site on average.
    pub(crate) fn write(&mut self, now: Timestamp, per_site: f64) -> Result<()> {
        let (mut access, mut errors) = (String::new(), String::new());
        // Between none and twice the mean: uneven, as traffic is.
        self.due += per_site * self.sites.len() as f64 * 2.0 * self.random.unit();
        while self.due >= 1.0 {
            self.due -= 1.0;
            self.request(now, &mut access, &mut errors)?;
        }
        // nginx writes the error line of a request before its access line.
        self.errors.write_all(errors.as_bytes()).context("cannot write an error log")?;
        self.access.write_all(access.as_bytes()).context("cannot write an access log")
    }

    fn request(&mut self, now: Timestamp, access: &mut String, errors: &mut String) -> Result<()> {
        self.n_requests += 1;
        let site = &self.sites[self.random.below(self.sites.len())];
        let path = PATHS[self.random.below(PATHS.len())];
        let agent = AGENTS[self.random.below(AGENTS.len())];
        let client = format!("203.0.113.{}", self.random.below(250) + 1);
        let chance = self.random.unit();
        let zoned = now.to_zoned(TimeZone::system());
        let status = match chance {
            // Files that need no PHP go on being served.
            c if self.pool_is_down && c < 0.94 => 502,
            c if c < 0.93 => 200,
            c if c < 0.96 => 304,
            c if c < 0.995 => 404,
            _ => 499,
        };
        if status == 502 {
            writeln!(
                errors,
                "{} [crit] 812#812: *{} connect() to unix:{SOCKET} failed (2: No such file or \
                 directory) while connecting to upstream, client: {client}, server: {site}, \
                 request: \"GET {path} HTTP/1.1\", upstream: \"fastcgi://unix:{SOCKET}:\", host: \
                 \"{site}\"",
                zoned.strftime("%Y/%m/%d %H:%M:%S"),
                self.n_requests,
            )?;
        }
        writeln!(
            access,
            "{site} {client} - - [{}] \"GET {path} HTTP/1.1\" {status} {} \"-\" \"{agent}\"",
            zoned.strftime("%d/%b/%Y:%H:%M:%S %z"),
            if status == 200 { 5120 } else { 157 },
        )?;
        Ok(())
    }
}

/// SplitMix64: the same demo every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform over 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
