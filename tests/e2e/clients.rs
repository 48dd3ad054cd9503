//! Who asks, through a real nginx: a flood from one network and a crawler show their shares, and what a
//! client says of itself does not.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use harness::{AgentSpec, Fleet, Nginx, Root, eventually, loopback};
use wire::catalog;

use crate::farm::LIMIT;

const NAME: &str = "web-1";
/// Requests to each site; three of four come from the network that floods.
const REQUESTS: usize = 400;
const FLOOD_SHARE: f64 = 0.75;
/// A crawler makes every fifth.
const CRAWLER: &str = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";
const CRAWLER_SHARE: f64 = 0.2;
/// Of 400 sampled requests three standard errors are 0.065.
const ERROR_MAX: f64 = 0.08;

/// A site that logs the list of the header, and one whose server has put the client in the place of
/// its proxy.
fn site_blocks(root: &Root, address: SocketAddr) -> Vec<(String, String)> {
    let logs = root.join("var/log/nginx").display().to_string();
    let listed = format!(
        "log_format listed '$remote_addr - $remote_user [$time_local] \"$request\" $status \
         $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \"$http_x_forwarded_for\"';\n\
         server {{\n  listen {address};\n  server_name listed.test;\n  \
         access_log {logs}/listed.access.log listed;\n  location / {{ return 200 \"ok\"; }}\n}}\n"
    );
    let real = format!(
        "server {{\n  listen {address};\n  server_name real.test;\n  \
         access_log {logs}/real.access.log combined;\n  location / {{ return 200 \"ok\"; }}\n}}\n"
    );
    vec![("listed.test".to_owned(), listed), ("real.test".to_owned(), real)]
}

/// Requests on one connection, each with a header that names its client.
fn ask(address: SocketAddr, site: &str, header: impl Fn(&str) -> String) {
    let mut stream = TcpStream::connect(address).expect("nginx listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has a timeout");
    let mut text = String::new();
    for n in 0..REQUESTS {
        let client = if n % 4 == 3 {
            format!("203.0.{}.9", n % 200)
        } else {
            format!("198.51.100.{}", n % 250)
        };
        let agent = if n % 5 == 0 { CRAWLER } else { "Mozilla/5.0" };
        let connection = if n + 1 == REQUESTS { "close" } else { "keep-alive" };
        write!(
            text,
            "GET /{n} HTTP/1.1\r\nHost: {site}\r\nUser-Agent: {agent}\r\n{}\r\n\
             Connection: {connection}\r\n\r\n",
            header(&client)
        )
        .expect("to a string");
        // In parts, so that neither side waits for the other with full buffers.
        if n % 20 == 19 {
            stream.write_all(text.as_bytes()).expect("nginx reads");
            text.clear();
            let mut answer = [0; 16 << 10];
            assert!(stream.read(&mut answer).expect("nginx answers") > 0);
        }
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("nginx answers to the end");
}

/// Every stored value of a metric by its attribute.
fn stored(fleet: &Fleet, metric: &str) -> Result<Vec<(String, f64)>, String> {
    let row = catalog::find(metric).expect("it is in the catalog");
    let mut found = Vec::new();
    for body in fleet.db().bodies(NAME)? {
        for tick in &body.ticks {
            for (ix, scaled) in tick.series.iter().zip(&tick.value) {
                let series = &body.series[*ix as usize];
                if series.metric == metric {
                    let value = row.from_wire(*scaled).ok_or("out of range")?;
                    found.push((series.attribute.clone(), value));
                }
            }
        }
    }
    Ok(found)
}

/// Waits for a share of this size, and that all of the same name are.
fn has_share(fleet: &Fleet, metric: &str, attribute: &str, want: f64) {
    eventually(&format!("{metric} {attribute}"), LIMIT, || {
        let all = stored(fleet, metric)?;
        let its: Vec<f64> =
            all.iter().filter(|(of, _)| of == attribute).map(|(_, share)| *share).collect();
        assert!(its.iter().all(|share| (share - want).abs() < ERROR_MAX), "{its:?}, not {want}");
        if its.is_empty() { Err(format!("{all:?}")) } else { Ok(()) }
    });
}

const TOP: &str = "http.server.request.top_client.share";

#[test]
fn a_flood_from_one_network_and_a_crawler_show_their_shares_behind_a_proxy() {
    let root = Root::new();
    let address = loopback(8080);
    let blocks = site_blocks(&root, address);
    let _nginx = Nginx::start_with(&root, address, &blocks);
    let agent = AgentSpec::new(NAME).root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("1s").start();
    // Each request says to come from elsewhere first; what the proxy saw stands behind it.
    ask(address, "listed.test", |client| format!("X-Forwarded-For: 8.8.8.8, {client}, 10.0.0.1"));
    ask(address, "real.test", |client| format!("X-Real-IP: {client}"));
    has_share(&fleet, TOP, "client.prefix=198.51.100.0/24", FLOOD_SHARE);
    has_share(&fleet, TOP, "server.address=listed.test", FLOOD_SHARE);
    has_share(&fleet, TOP, "server.address=real.test", FLOOD_SHARE);
    has_share(
        &fleet,
        "http.server.request.crawler.share",
        "gatewatch.crawler=openai",
        CRAWLER_SHARE,
    );
    let foreign: Vec<_> = stored(&fleet, TOP)
        .expect("the database can be read")
        .into_iter()
        .filter(|(of, _)| of.starts_with("client.prefix=") && of != "client.prefix=198.51.100.0/24")
        .collect();
    assert!(
        foreign.is_empty(),
        "neither the proxy nor what a client invents is named: {foreign:?}"
    );
}

#[test]
fn a_backlog_of_hours_ago_tells_no_shares_of_now() {
    let mut fleet = Fleet::builder().agents([NAME]).batch_interval("1s").start();
    fleet.log(NAME).shift_clock(-7_200);
    fleet.log(NAME).requests("old.test", 2_000, 200);
    eventually("the backlog is counted", LIMIT, || {
        let n = fleet.db().n_requests(NAME);
        if n == 2_000 { Ok(()) } else { Err(format!("{n}")) }
    });
    fleet.log(NAME).shift_clock(0);
    fleet.log(NAME).requests("new.test", 400, 200);
    eventually("shares of now are told", LIMIT, || {
        let all = stored(&fleet, TOP)?;
        let is_told =
            |site: &str| all.iter().any(|(of, _)| of == &format!("server.address={site}"));
        assert!(!is_told("old.test"), "{all:?}");
        if is_told("new.test") { Ok(()) } else { Err(format!("{all:?}")) }
    });
}
