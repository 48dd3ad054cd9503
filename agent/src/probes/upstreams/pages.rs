//! Status pages of nginx, Apache and HAProxy: asked where a configuration has one.
//!
//! Each question for a page is a line of the server's log, so pages are only asked in full rounds;
//! the socket of HAProxy, which logs none, in each round while errors flow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::v1::Signal;

use super::dial::{Failure, Target, ask, exchange};
use super::tls::Handshaker;
use super::{Prober, Round, apache_status, haproxy_stats, http, nginx_status};
use crate::discover::Discovery;
use crate::discover::backends::{StatusKind, StatusPage};
use crate::probes::Values;
use crate::timer::{patience, within};

/// Longest wait for a page.
const TIMEOUT: Duration = patience(Duration::from_millis(500));
/// Longest page that is read: a table of some 1,000 servers.
const BYTES_MAX: usize = 512 << 10;
/// Pages of one server that are tried in one round until one answers.
const TRIED_MAX: usize = 3;
/// Backends and servers; any level may ask.
const HAPROXY_QUESTION: &[u8] = b"show info;show stat -1 6 -1\n";

/// What is remembered of pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// By server: the page that answered last.
    good: BTreeMap<&'static str, StatusPage>,
    /// Servers whose pages do not answer, as was told.
    told: BTreeSet<&'static str>,
}

/// Both doors of HAProxy lead to the same numbers.
fn server(kind: StatusKind) -> &'static str {
    match kind {
        StatusKind::Nginx => "nginx",
        StatusKind::Apache => "apache",
        StatusKind::HaproxySocket | StatusKind::HaproxyPage => "haproxy",
    }
}

impl Prober {
    /// Asks one page of each server that has one.
    pub(super) async fn ask_pages(&mut self, discovery: &Discovery, round: &mut Round) {
        for name in ["nginx", "apache", "haproxy"] {
            let of = discovery.status_pages.iter().filter(|page| server(page.kind) == name);
            let good = self.pages.good.get(name);
            let is_now =
                |page: &&StatusPage| round.is_full || page.kind == StatusKind::HaproxySocket;
            let mut pages: Vec<&StatusPage> = of.filter(is_now).collect();
            // One that did not answer is not waited for each second.
            let is_mute = self.pages.told.contains(name);
            if pages.is_empty() || is_mute && !round.is_full {
                continue;
            }
            pages.sort_by_key(|page| (good != Some(page), page.kind));
            let mut failed = None;
            for page in pages.into_iter().take(TRIED_MAX) {
                match ask_page(page, &self.root, &self.handshaker).await {
                    Ok(values) => {
                        round.values.extend(values);
                        self.pages.good.insert(name, page.clone());
                        failed = None;
                        break;
                    }
                    Err(failure) => failed = failed.or(Some((page, failure))),
                }
            }
            self.note_pages(name, failed);
        }
    }

    fn note_pages(&mut self, name: &'static str, failed: Option<(&StatusPage, Failure)>) {
        let Some((page, failure)) = failed else {
            self.pages.told.remove(name);
            return;
        };
        if self.pages.told.insert(name) {
            let fix = match page.kind {
                StatusKind::Nginx => "let 127.0.0.1 read it: `allow 127.0.0.1;` in its location",
                StatusKind::Apache => "let 127.0.0.1 read it: `Require local`, and load mod_status",
                StatusKind::HaproxySocket => {
                    "let the agent's user open it: `mode 660 group gatewatch-agent level user`"
                }
                StatusKind::HaproxyPage => "let 127.0.0.1 read it without a password",
            };
            tracing::info!(
                page = page.kind.name(),
                address = page.address,
                path = page.path,
                reason = failure.words,
                fix,
                "status page does not answer: its metrics are absent"
            );
        }
    }
}

async fn ask_page(
    page: &StatusPage,
    root: &std::path::Path,
    handshaker: &Handshaker,
) -> Result<Values, Failure> {
    let odd = || Failure::new(Signal::Other, "not the page that was expected");
    let target = Target::of(root, &page.address).ok_or_else(odd)?;
    if page.kind == StatusKind::HaproxySocket {
        let answer = ask(&target, HAPROXY_QUESTION, TIMEOUT, BYTES_MAX, |_| false).await?;
        let text = String::from_utf8_lossy(&answer);
        let mut values = haproxy_stats::parse_stat(&text).ok_or_else(odd)?;
        values.extend(haproxy_stats::parse_info(&text));
        return Ok(values);
    }
    let request = http::request("GET", &page.path, &page.host).ok_or_else(odd)?;
    let answer = if page.is_tls {
        let (mut stream, _) = handshaker.connect(&target, &page.host).await?;
        within(TIMEOUT, exchange(&mut stream, &request, BYTES_MAX, |_| false))
            .await
            .unwrap_or_else(|| Err(Failure::no_answer(TIMEOUT)))?
    } else {
        ask(&target, &request, TIMEOUT, BYTES_MAX, |_| false).await?
    };
    let body = http::body(&answer)?;
    let values = match page.kind {
        StatusKind::Nginx => nginx_status::parse(&body),
        StatusKind::Apache => apache_status::parse(&body),
        StatusKind::HaproxySocket | StatusKind::HaproxyPage => haproxy_stats::parse_stat(&body),
    };
    values.ok_or_else(odd)
}
