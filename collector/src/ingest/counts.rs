//! Exact request counts by site and status, summed from stored batches. Pure.

use std::collections::BTreeMap;

use wire::signal::counter;
use wire::v1::BatchBody;

/// Requests by status as text: `"200"`, and the derived `"gateway_503"`, `"retried"` and `"crawler"`
/// (gateway errors that a search engine's crawler saw, by its own word), which repeat requests that
/// are counted under their status too.
pub type ByStatus = BTreeMap<String, u64>;

/// Adds the requests of one body whose second lies in `from_s..to_s`.
pub fn add(body: &BatchBody, from_s: i64, to_s: i64, sites: &mut BTreeMap<String, ByStatus>) {
    for second in body.seconds.iter().filter(|second| (from_s..to_s).contains(&second.second)) {
        let Some(site) = body.sites.get(second.site as usize) else { continue };
        for (status, count) in second.status.iter().zip(&second.count) {
            add_one(sites, &site.name, *status, u64::from(*count));
        }
    }
}

/// Adds requests of one site with one status, or of one derived counter.
pub fn add_one(sites: &mut BTreeMap<String, ByStatus>, site: &str, status: u32, n: u64) {
    let status = match status {
        counter::GATEWAY_503 => "gateway_503".to_owned(),
        counter::RETRIED => "retried".to_owned(),
        counter::CRAWLER => "crawler".to_owned(),
        status => status.to_string(),
    };
    if !sites.contains_key(site) {
        sites.insert(site.to_owned(), ByStatus::new());
    }
    let by_status = sites.get_mut(site).expect("it was put in where it was missing");
    *by_status.entry(status).or_default() += n;
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::{Site, SiteSecond};

    #[test]
    fn counts_add_up_over_bodies_and_keep_to_their_seconds() {
        let second = |site, second, status: &[u32], count: &[u32]| SiteSecond {
            site,
            second,
            status: status.to_vec(),
            count: count.to_vec(),
        };
        let site = |name: &str| Site { name: name.into(), ..Site::default() };
        let body = BatchBody {
            sites: vec![site("a.example"), site("b.example")],
            seconds: vec![
                second(0, 99, &[200], &[1000]),
                second(0, 100, &[200, 503, counter::GATEWAY_503, counter::CRAWLER], &[5, 2, 2, 1]),
                second(1, 109, &[200, counter::RETRIED], &[1, 1]),
                second(1, 110, &[200], &[1000]),
                second(7, 105, &[200], &[1000]),
            ],
            ..BatchBody::default()
        };
        let mut sites = BTreeMap::new();
        add(&body, 100, 110, &mut sites);
        add(&body, 100, 110, &mut sites);
        let text = serde_json::to_string(&sites).unwrap();
        assert_eq!(
            text,
            r#"{"a.example":{"200":10,"503":4,"crawler":2,"gateway_503":4},"b.example":{"200":2,"retried":2}}"#
        );
    }
}
