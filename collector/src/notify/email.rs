//! Tells by e-mail, over SMTP. TLS is required unless the operator says otherwise, and never given up
//! for plain text.
//!
//! A server that does not take a mail for all its receivers gets it for each by itself. Who has it does
//! not get it again when the others are tried again, but after a restart: then as the same mail, by its
//! Message-ID. The password is read for each try, so it can be changed without a restart, and is never
//! told.

mod account;
mod round;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, Tls, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use wire::UnixMillis;

use super::address;
use super::fault::{Fault, Wrong};
use super::letter::{self, Templates};
use super::message::Message;
use super::page::Page;
use super::secret::{self, Secret};
use super::sender::SendError;
use super::words::clean;
use crate::config::NotifyConfig;
use crate::errors;
use account::{Account, Security};
use round::{LAG_MAX, Round, Rounds};

/// Time a server has to accept the connection, and for all of a mail.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of a server that is told, in characters.
const ANSWER_MAX: usize = 300;
/// Answers about us and not about the mail: they pass once somebody put the account right.
const SIGN_IN_CODES: [&str; 4] = ["530", "534", "535", "538"];

type SmtpError = lettre::transport::smtp::Error;
type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// A way to receivers of mail.
#[derive(Clone, Debug)]
pub struct EmailSender {
    inner: Arc<Inner>,
    /// Mails for which the built-in template stood in.
    n_fallbacks: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Inner {
    account: Account,
    ca_file: Option<PathBuf>,
    templates: Templates,
    rounds: Rounds,
    whole_timeout: Duration,
}

/// What is wrong with a table besides its files.
pub(super) fn faults(config: &NotifyConfig) -> Vec<Fault> {
    Account::new(config).err().unwrap_or_default()
}

/// Whether this is somebody to write to; `Err` says how to write it.
pub fn check_receiver(text: &str) -> Result<(), Wrong> {
    account::mailbox(text).map(|_| ())
}

impl EmailSender {
    /// `Err` lists what is wrong with the configuration, besides what [`super::kinds::check`] tells.
    pub fn new(config: &NotifyConfig) -> Result<Self, Vec<Fault>> {
        let account = Account::new(config)?;
        let templates =
            Templates::new(config.template_file.as_deref(), config.html_template_file.as_deref())?;
        let inner = Inner {
            account,
            ca_file: config.ca_file.clone(),
            templates,
            rounds: Rounds::default(),
            whole_timeout: WHOLE_TIMEOUT,
        };
        if inner.ca_file.is_some() {
            let fix = "name a file of certificates in PEM";
            inner.tls().map_err(|why| vec![Wrong::new(why, fix).at("ca_file")])?;
        }
        Ok(Self { inner: Arc::new(inner), n_fallbacks: Arc::default() })
    }

    /// Where it goes, for logs.
    #[must_use]
    pub fn place(&self) -> String {
        format!("smtp://{}:{}", self.inner.account.host, self.inner.account.port)
    }

    /// Counts mails for which the built-in template stood in, because the operator's failed.
    pub fn count_fallbacks_in(&mut self, n_fallbacks: &Arc<AtomicU64>) {
        self.n_fallbacks = Arc::clone(n_fallbacks);
    }

    /// Sends once. `png` is the chart of the page.
    ///
    /// Of several receivers those that the server refuses for good are left out and told in the log, as
    /// long as it takes one: a colleague who left must not keep the page from the others. Those whom it
    /// puts off are an error that may pass, and the next try is for them alone.
    pub async fn send(
        &self,
        message: &Message,
        page: &Page,
        png: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        let inner = &self.inner;
        let secret = inner.secret().map_err(SendError::passing)?;
        let user = inner.account.user.as_ref().map(|(user, _)| user.as_str());
        // A server may send back what it was sent.
        let hidden = secret.as_ref().map(|secret| secret::forms(user, secret)).unwrap_or_default();
        let told = |why: String| clean(&secret::without(&why, &hidden), ANSWER_MAX);
        let (mail, is_fallback) = inner.mail(message, page, png).map_err(SendError::passing)?;
        self.n_fallbacks.fetch_add(u64::from(is_fallback), Ordering::Relaxed);
        let transport = inner.transport(secret.as_ref()).map_err(SendError::passing)?;
        let to = inner.receivers(message);
        let trying = inner.deliver(&transport, &mail, (&message.delivery, &to), now);
        match tokio::time::timeout(inner.whole_timeout, trying).await {
            Err(_) => {
                let s = inner.whole_timeout.as_secs();
                Err(SendError::passing(format!("the mail server took more than {s} s")))
            }
            Ok(Ok(left_out)) => {
                for why in left_out {
                    tracing::warn!(to = self.place(), why = told(why), "a receiver was left out");
                }
                Ok(())
            }
            Ok(Err((why, is_final))) => {
                Err(SendError { why: told(why), retry_after: None, is_final })
            }
        }
    }
}

impl Inner {
    fn secret(&self) -> Result<Option<Secret>, String> {
        let user = self.account.user.as_ref();
        Ok(user.map(|(_, file)| secret::read(file)).transpose()?)
    }

    /// Who gets it: those of the route, or whom a report names.
    fn receivers(&self, message: &Message) -> Vec<Mailbox> {
        let named = message.report.iter().flat_map(|report| &report.to);
        let named: Vec<Mailbox> = named.filter_map(|to| account::mailbox(to).ok()).collect();
        if named.is_empty() { self.account.to.clone() } else { named }
    }

    /// A template of the operator that fails on this page gives way to ours: the page must arrive. Also
    /// whether it did.
    fn mail(
        &self,
        message: &Message,
        page: &Page,
        png: Option<&[u8]>,
    ) -> Result<(lettre::Message, bool), String> {
        let build = |templates: &Templates| {
            let from = &self.account.from;
            letter::build(from, &self.receivers(message), message, page, templates, png)
        };
        build(&self.templates).map(|mail| (mail, false)).or_else(|why| {
            tracing::warn!(reason = why, "a template of an e-mail fails, the built-in one is used");
            let ours = Templates::new(None, None).map_err(|_| why)?;
            build(&ours).map(|mail| (mail, true))
        })
    }

    fn transport(&self, secret: Option<&Secret>) -> Result<Transport, String> {
        let tls = match self.account.security {
            Security::None => Tls::None,
            Security::StartTls => Tls::Required(self.tls()?),
            Security::Implicit => Tls::Wrapper(self.tls()?),
        };
        let mut builder = Transport::builder_dangerous(self.account.host.clone())
            .port(self.account.port)
            .tls(tls)
            .timeout(Some(CONNECT_TIMEOUT));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !name.is_empty() && name.chars().all(plain) {
            builder = builder.hello_name(ClientId::Domain(name));
        }
        if let (Some((user, _)), Some(secret)) = (&self.account.user, secret) {
            let password = secret.expose().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    fn tls(&self) -> Result<TlsParameters, String> {
        let name = self.account.host.trim_matches(['[', ']']).to_owned();
        let mut builder: TlsParametersBuilder = TlsParameters::builder(name);
        if let Some(file) = &self.ca_file {
            let pem = address::certificates(file)?;
            let authorities = Certificate::from_pem(&pem)
                .map_err(|error| format!("{}: {}", file.display(), errors::chain(&error)))?;
            builder = builder.certificate_store(CertificateStore::None);
            builder = builder.add_root_certificate(authorities);
        }
        builder.build().map_err(|error| format!("TLS cannot begin: {}", errors::chain(&error)))
    }

    /// Those who were left out, if others have it; `Err`: why it did not arrive, and whether it never
    /// will.
    async fn deliver(
        &self,
        transport: &Transport,
        mail: &lettre::Message,
        (delivery, to): (&str, &[Mailbox]),
        now: UnixMillis,
    ) -> Result<Vec<String>, (String, bool)> {
        let bytes = mail.formatted();
        // Begun before the server is asked: one that hangs on all of them is asked for each next time.
        if self.rounds.begin(delivery, to) {
            let Err(error) = transport.send_raw(mail.envelope(), &bytes).await else {
                self.rounds.forget(delivery);
                return Ok(Vec::new());
            };
            let is_about_mail = self.is_about_mail(transport, &error).await;
            if !is_about_mail || to.len() < 2 {
                self.rounds.forget(delivery);
                return Err((answer(&error), is_about_mail && error.is_permanent()));
            }
        }
        let put_off = self.to_each(transport, &bytes, delivery, now).await;
        let Round { left, taken_at, refused } = self.rounds.get(delivery);
        let is_over = taken_at.is_some_and(|at| now.since(at) > LAG_MAX);
        match (left.is_empty(), taken_at) {
            (false, _) if !is_over => Err((put_off.join("; "), false)),
            (_, Some(_)) => {
                self.rounds.forget(delivery);
                Ok(refused.into_iter().chain(put_off).collect())
            }
            (_, None) => {
                self.rounds.forget(delivery);
                Err((refused.join("; "), true))
            }
        }
    }

    /// Sends to each who has not got it, and remembers at once who has; why others were put off.
    async fn to_each(
        &self,
        transport: &Transport,
        bytes: &[u8],
        delivery: &str,
        now: UnixMillis,
    ) -> Vec<String> {
        let mut put_off = Vec::new();
        for _ in 0..self.rounds.get(delivery).left.len() {
            let Some(mailbox) = self.rounds.next(delivery) else { break };
            let (from, to) = (self.account.from.email.clone(), mailbox.email.clone());
            let told = |why: String| format!("{}: {why}", mailbox.email);
            let envelope = match Envelope::new(Some(from), vec![to]) {
                Ok(envelope) => envelope,
                Err(error) => {
                    self.rounds.refused(delivery, &mailbox, told(error.to_string()));
                    continue;
                }
            };
            let Err(error) = transport.send_raw(&envelope, bytes).await else {
                self.rounds.taken(delivery, &mailbox, now);
                continue;
            };
            let why = told(answer(&error));
            if error.is_permanent() && !is_about_sign_in(&error) {
                self.rounds.refused(delivery, &mailbox, why);
                continue;
            }
            put_off.push(why);
            if error.status().is_none() {
                break; // the server is gone; the others are tried first the next time
            }
        }
        put_off
    }

    /// Whether a refusal is about this mail: the server takes others, and us.
    async fn is_about_mail(&self, transport: &Transport, error: &SmtpError) -> bool {
        error.status().is_some()
            && !is_about_sign_in(error)
            && transport.test_connection().await.is_ok_and(|works| works)
    }
}

fn is_about_sign_in(error: &SmtpError) -> bool {
    let code = error.status().map(|code| code.to_string()).unwrap_or_default();
    SIGN_IN_CODES.contains(&code.as_str())
}

/// What the server said, or why it could not be asked.
fn answer(error: &SmtpError) -> String {
    // Not the whole chain: the library's text holds that of its source.
    if error.status().is_some() {
        return format!("the mail server answered: {error}");
    }
    let text = format!("the mail server cannot be reached: {error}");
    let hint = ": `ca_file` names whose certificates to trust";
    if text.ends_with("UnknownIssuer") { text + hint } else { text }
}

#[cfg(test)]
mod tests;
