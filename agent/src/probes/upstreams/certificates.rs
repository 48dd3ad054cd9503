//! Certificates of TLS backends, and those that the sites themselves show: when they end, and when
//! they change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wire::UnixMillis;
use wire::v1::Signal;

use super::certificate::day;
use super::connect::{Line, Subject};
use super::dial::Target;
use super::tls::Shown;
use super::{Budget, Prober, Round, STEP_LATE};
use crate::clock;
use crate::discover::Discovery;

/// Handshakes of one round; with 1,400 certificates each is looked at once an hour.
const ROUND_MAX: usize = 4;
/// Time between two looks at one certificate, and after a failed one.
const GAP: Duration = Duration::from_secs(3600);
const FAILED_GAP: Duration = Duration::from_secs(60);
/// From here on a certificate is told of, once a day.
const SOON_MS: i64 = 14 * DAY_MS;
const DAY_MS: i64 = 86_400_000;
const WARNED_GAP: Duration = Duration::from_secs(86_400);

/// What is known of certificates, by the series they belong to.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    due: Instant,
    fingerprint: Option<[u8; 32]>,
    warned_at: Option<Instant>,
}

/// Whose certificate.
#[derive(Clone, Debug)]
struct Holder {
    /// `upstream=10.0.0.7:443`, `site=shop.example`.
    attribute: String,
    /// `10.0.0.7:443`, `shop.example`.
    title: String,
    site: Option<String>,
    /// The file of its certificate is watched, and what changes there is told.
    is_watched: bool,
    /// Who is told of when the handshake fails; a site's own server has a state of its own.
    subject: Option<Subject>,
    name: String,
    target: Target,
}

impl Certificates {
    fn is_due(&self, attribute: &str, now: Instant) -> bool {
        self.known.get(attribute).is_none_or(|known| now >= known.due)
    }

    /// Takes in a certificate: what to warn of, and what changed.
    fn fold(
        &mut self,
        attribute: &str,
        title: &str,
        shown: &Shown,
        at: UnixMillis,
        now: Instant,
    ) -> (Option<String>, Option<String>) {
        let fresh = Known { due: now, fingerprint: None, warned_at: None };
        let known = self.known.entry(attribute.to_owned()).or_insert(fresh);
        known.due = now + GAP;
        let before = known.fingerprint.replace(shown.fingerprint);
        let is_new = before.is_some_and(|before| before != shown.fingerprint);
        let ends = day(shown.not_after);
        let change = is_new.then(|| format!("certificate of {title} is another one, until {ends}"));
        let left_ms = shown.not_after.0.saturating_sub(at.0);
        let was_warned = known.warned_at.filter(|_| !is_new);
        let is_early = was_warned.is_some_and(|w| now.saturating_duration_since(w) < WARNED_GAP);
        if left_ms > SOON_MS || is_early {
            return (None, change);
        }
        known.warned_at = Some(now);
        let warning = if left_ms <= 0 {
            format!("certificate of {title} has expired on {ends}")
        } else {
            format!("certificate of {title} expires in {} days, on {ends}", left_ms / DAY_MS)
        };
        (Some(warning), change)
    }
}

impl Prober {
    /// Shakes hands with the next few whose certificates are due.
    pub(super) async fn ask_certificates(&mut self, discovery: &Discovery, round: &mut Round) {
        let due: Vec<Holder> = self
            .holders(discovery)
            .filter(|holder| self.certificates.is_due(&holder.attribute, round.now))
            .take(ROUND_MAX)
            .collect();
        let budget = Budget::of(STEP_LATE);
        for holder in due {
            if budget.is_spent() {
                break;
            }
            self.ask_certificate(&holder, round).await;
        }
        let now = round.now;
        // Who is gone is forgotten once it would be due twice over.
        self.certificates.known.retain(|_, known| known.due + 2 * GAP > now);
    }

    fn holders(&self, discovery: &Discovery) -> impl Iterator<Item = Holder> {
        let backends = discovery.backends.iter().filter(|b| b.is_tls).filter_map(|backend| {
            let subject = Subject::of(backend);
            let host = backend.address.rsplit_once(':').map(|(host, _)| host);
            Some(Holder {
                attribute: format!("upstream={}", backend.address),
                title: backend.address.clone(),
                site: None,
                is_watched: false,
                name: host.unwrap_or("localhost").to_owned(),
                target: Target::of(&self.root, &backend.address)
                    .or_else(|| self.names.target(backend))?,
                subject: Some(Subject {
                    address: format!("tls {}", backend.address),
                    title: format!("{} over TLS", backend.address),
                    ..subject
                }),
            })
        });
        let watched = discovery.certificates.iter().filter_map(|file| file.site.as_deref());
        let watched: BTreeSet<&str> = watched.collect();
        let sites = discovery.sites.iter().filter_map(move |site| {
            let listen = site.listen.iter().find(|listen| listen.is_tls)?;
            let address: SocketAddr = listen.address;
            Some(Holder {
                attribute: format!("site={}", site.name),
                title: site.name.clone(),
                site: Some(site.name.clone()),
                is_watched: watched.contains(&*site.name),
                subject: None,
                name: site.name.clone(),
                target: Target::Tcp(vec![address]),
            })
        });
        backends.chain(sites)
    }

    async fn ask_certificate(&mut self, holder: &Holder, round: &mut Round) {
        let result = self.handshaker.connect(&holder.target, &holder.name).await;
        let result = result.map(|(_, shown)| shown);
        if let Some(subject) = &holder.subject {
            let reached = result.as_ref().map(drop).map_err(Clone::clone);
            // That nobody listens there is told by the connection itself.
            let is_tls = reached.as_ref().err().is_none_or(|f| f.signal == Some(Signal::Tls));
            let verdict = self.ledger.fold(subject, &reached, round.now);
            if let Some(line) = verdict.line.filter(|_| is_tls) {
                self.tell(line);
            }
        }
        let Ok(shown) = result else {
            let fresh = Known { due: round.now, fingerprint: None, warned_at: None };
            let known = self.certificates.known.entry(holder.attribute.clone()).or_insert(fresh);
            known.due = round.now + FAILED_GAP;
            return;
        };
        let at = clock::now();
        let left_s = (shown.not_after.0.saturating_sub(at.0)) as f64 / 1000.0;
        round.push("tls.server.expires_in", holder.attribute.clone(), left_s);
        let Holder { attribute, title, site, .. } = holder;
        let (warning, change) = self.certificates.fold(attribute, title, &shown, at, round.now);
        if let Some(message) = warning {
            let signal = signal_of(holder, &shown, at);
            self.tell(Line { message, signal, pool: None });
        }
        if let Some(what) = change.filter(|_| !holder.is_watched) {
            self.tell_change("certificate", &what, site.clone());
        }
    }
}

/// What a warning means to those who look for the cause of gateway errors: only a server that a
/// gateway asks over TLS makes them, and only once its certificate has ended.
fn signal_of(holder: &Holder, shown: &Shown, at: UnixMillis) -> Option<Signal> {
    (holder.subject.is_some() && shown.not_after.0 <= at.0).then_some(Signal::Tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::backends::Backend;

    #[test]
    fn only_an_ended_certificate_of_an_upstream_is_a_cause_of_gateway_errors() {
        let holder = |is_upstream: bool| Holder {
            attribute: String::new(),
            title: String::new(),
            site: None,
            is_watched: false,
            subject: is_upstream.then(|| Subject::of(&Backend::default())),
            name: String::new(),
            target: Target::Tcp(Vec::new()),
        };
        for (is_upstream, left_days, want) in
            [(true, -1, Some(Signal::Tls)), (true, 13, None), (false, -1, None), (false, 13, None)]
        {
            let shown = Shown { not_after: UnixMillis(left_days * DAY_MS), fingerprint: [0; 32] };
            let got = signal_of(&holder(is_upstream), &shown, UnixMillis(0));
            assert_eq!(got, want, "{is_upstream} {left_days}");
        }
    }

    #[test]
    fn an_end_is_told_once_a_day_and_another_certificate_at_once() {
        let (mut certificates, start) = (Certificates::default(), clock::instant());
        let mut look = |at_h: u64, left_days: i64, print: u8| {
            let now = start + Duration::from_secs(at_h * 3600);
            let not_after = UnixMillis(left_days * DAY_MS);
            let shown = Shown { not_after, fingerprint: [print; 32] };
            certificates.fold("site=a.example", "a.example", &shown, UnixMillis(0), now)
        };
        let soon = "certificate of a.example expires in 3 days, on 1970-01-04";
        assert_eq!(look(0, 90, 1), (None, None));
        assert_eq!(look(1, 3, 1), (Some(soon.to_owned()), None));
        assert_eq!(look(2, 3, 1), (None, None));
        assert_eq!(look(26, 3, 1).0.as_deref(), Some(soon));
        let other = "certificate of a.example is another one, until 1970-04-01";
        assert_eq!(look(27, 90, 2), (None, Some(other.to_owned())));
        let (warning, change) = look(28, -2, 3);
        assert_eq!(warning.unwrap(), "certificate of a.example has expired on 1969-12-30");
        assert!(change.is_some());
        assert!(!certificates.is_due("site=a.example", start + Duration::from_secs(28 * 3600)));
        assert!(certificates.is_due("site=b.example", start));
    }
}
