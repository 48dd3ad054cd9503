//! A door for the fuzz targets of `tests/`: any bytes as the answer of each kind of server.

use super::{
    apache_status, certificate, haproxy_stats, http, memcached, mysql, nginx_status, postgres,
    redis,
};

/// Reads these bytes as every answer there is.
pub(crate) fn read(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let of_pages = [apache_status::parse(&text), haproxy_stats::parse_stat(&text)];
    let of_nginx = nginx_status::parse(&text).map_or(0, |values| values.len());
    let n_values = of_pages.iter().flatten().map(Vec::len).sum::<usize>() + of_nginx;
    assert!(n_values + haproxy_stats::parse_info(&text).len() <= 10 * (bytes.len() + 100));
    drop(memcached::is_whole(bytes).then(|| memcached::parse(bytes)));
    drop(mysql::is_whole(bytes).then(|| mysql::parse(bytes)));
    drop(postgres::is_whole(bytes).then(|| postgres::parse(bytes)));
    drop(redis::is_whole(bytes).then(|| redis::parse(bytes)));
    assert!(http::status(bytes).is_none_or(|status| (100..1000).contains(&status)));
    assert!(
        http::body(bytes).is_ok_and(|body| body.len() <= 3 * bytes.len())
            || http::body(bytes).is_err()
    );
    assert!(certificate::not_after(bytes).is_none_or(|at| at.0.abs() < 1 << 52));
}
