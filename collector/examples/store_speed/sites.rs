//! Requests of the sites of a server: a few busy ones, many quiet ones, nearly all answered well.

use std::ops::Range;

use wire::v1::{BatchBody, SiteSecond};

use crate::agents::sites;
use crate::values::Dice;

/// Requests a second of the busiest site; the n-th has an n-th of it.
const BUSIEST: f64 = 2.0;

/// Adds what the sites of a server counted in these seconds.
pub(crate) fn add(body: &mut BatchBody, server: u64, n_sites: u32, seconds: Range<i64>) {
    body.sites = sites(n_sites);
    for second in seconds {
        let mut dice = Dice::new(server.wrapping_mul(1_000_003) ^ second.cast_unsigned());
        for site in 0..n_sites {
            let n = dice.count(BUSIEST / f64::from(site + 1));
            if n == 0 {
                continue;
            }
            let mut counts = std::collections::BTreeMap::<u32, u32>::new();
            for _ in 0..n {
                let status = match dice.share() {
                    share if share < 0.86 => 200,
                    share if share < 0.92 => 304,
                    share if share < 0.96 => 301,
                    share if share < 0.995 => 404,
                    share if share < 0.9995 => 403,
                    _ => 500,
                };
                *counts.entry(status).or_default() += 1;
            }
            let (status, count) = counts.into_iter().unzip();
            body.seconds.push(SiteSecond { site, second, status, count });
        }
    }
}

/// Adds a 502 of the first site.
pub(crate) fn add_gateway_error(body: &mut BatchBody, second: i64) {
    if body.sites.is_empty() {
        body.sites = sites(1);
    }
    body.seconds.push(SiteSecond { site: 0, second, status: vec![502], count: vec![1] });
}
