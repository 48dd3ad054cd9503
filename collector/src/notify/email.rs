//! Tells by e-mail, over SMTP. TLS is required unless the operator says otherwise, and never given up
//! for plain text.
//!
//! The password is read for each try, so it can be changed without a restart, and is never told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
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
use reqwest::Url;
use wire::UnixMillis;

use super::letter::{self, Templates};
use super::message::{Event, Message};
use super::page::Page;
use super::secret::{self, Secret};
use super::sender::SendError;
use super::words::clean;
use crate::config::NotifyConfig;
use crate::errors;

/// Time a server has to accept the connection, and for all of a mail.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of a server that is told, in characters.
const ANSWER_MAX: usize = 300;
/// Answers about us and not about the mail: they pass once somebody put the account right.
const SIGN_IN_CODES: [&str; 4] = ["530", "534", "535", "538"];

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// How the connection is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    StartTls,
    Implicit,
    None,
}

/// A way to receivers of mail.
#[derive(Clone, Debug)]
pub struct EmailSender {
    inner: Arc<Inner>,
    /// Mails for which the built-in template stood in.
    n_fallbacks: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    security: Security,
    ca_file: Option<PathBuf>,
    user: Option<(String, PathBuf)>,
    from: Mailbox,
    to: Vec<Mailbox>,
    templates: Templates,
}

impl EmailSender {
    /// `Err` lists what is wrong with the configuration, `KEY: WHAT` each.
    pub fn new(config: &NotifyConfig) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut good = |what: &str, found: Result<(), String>| {
            problems.extend(found.err().map(|why| format!("{what}: {why}")));
        };
        let security = security(config.tls.as_deref());
        let host = host(config.url.as_deref(), security.as_ref().ok().copied());
        let from = mailbox(config.from.as_deref());
        let to: Result<Vec<Mailbox>, String> =
            config.to.iter().map(|text| mailbox(Some(text))).collect();
        let to = to.and_then(|to| {
            let empty = "is missing: write it like [\"ops@example.com\"]".to_owned();
            if to.is_empty() { Err(empty) } else { Ok(to) }
        });
        good("tls", security.clone().map(drop));
        good("url", host.clone().map(drop));
        good("from", from.clone().map(drop));
        good("to", to.clone().map(drop));
        good("ca_file", config.ca_file.as_deref().map_or(Ok(()), |file| read_ca(file).map(drop)));
        let user = user(config);
        if let Err(what) = &user {
            problems.push(what.clone());
        }
        if let (Ok(Some(_)), Ok(Security::None), Ok((host, _))) = (&user, &security, &host)
            && !is_loopback(host)
        {
            problems.push(
                "tls: a password over a connection that anybody can read: use \"starttls\" or \
                 \"implicit\""
                    .to_owned(),
            );
        }
        let templates =
            Templates::new(config.template_file.as_deref(), config.html_template_file.as_deref())
                .and_then(|templates| {
                    let tried = templates.render(&sample(), None);
                    tried.map(|_| templates).map_err(|why| vec![format!("template_file: {why}")])
                });
        match (security, host, from, to, user, templates) {
            (Ok(security), Ok((host, port)), Ok(from), Ok(to), Ok(user), Ok(templates))
                if problems.is_empty() =>
            {
                let ca_file = config.ca_file.clone();
                let inner = Inner { host, port, security, ca_file, user, from, to, templates };
                Ok(Self { inner: Arc::new(inner), n_fallbacks: Arc::default() })
            }
            (.., templates) => {
                problems.extend(templates.err().into_iter().flatten());
                Err(problems)
            }
        }
    }

    /// Where it goes, for logs.
    #[must_use]
    pub fn place(&self) -> String {
        format!("smtp://{}:{}", self.inner.host, self.inner.port)
    }

    /// Counts mails for which the built-in template stood in, because the operator's failed.
    pub fn count_fallbacks_in(&mut self, n_fallbacks: &Arc<AtomicU64>) {
        self.n_fallbacks = Arc::clone(n_fallbacks);
    }

    /// Sends once. `png` is the chart of the page.
    ///
    /// Of several receivers those that the server refuses for good are left out and told in the log, as
    /// long as it takes one: a colleague who left must not keep the page from the others.
    pub async fn send(
        &self,
        message: &Message,
        page: &Page,
        png: Option<&[u8]>,
        _now: UnixMillis,
    ) -> Result<(), SendError> {
        let inner = &self.inner;
        let secret = inner.secret().map_err(SendError::passing)?;
        let user = inner.user.as_ref().map(|(user, _)| user.as_str());
        // A server may send back what it was sent.
        let hidden = secret.as_ref().map(|secret| secret::forms(user, secret)).unwrap_or_default();
        let told = |why: String| clean(&secret::without(&why, &hidden), ANSWER_MAX);
        let (mail, is_fallback) = inner.mail(message, page, png).map_err(SendError::passing)?;
        self.n_fallbacks.fetch_add(u64::from(is_fallback), Ordering::Relaxed);
        let transport = inner.transport(secret.as_ref()).map_err(SendError::passing)?;
        let tried = tokio::time::timeout(WHOLE_TIMEOUT, inner.deliver(&transport, &mail)).await;
        match tried {
            Err(_) => {
                let s = WHOLE_TIMEOUT.as_secs();
                Err(SendError::passing(format!("the mail server took more than {s} s")))
            }
            Ok(Ok(refused)) => {
                for why in refused {
                    tracing::warn!(to = self.place(), why = told(why), "a receiver was refused");
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
        self.user.as_ref().map(|(_, file)| secret::read(file)).transpose()
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
            letter::build(&self.from, &self.to, message, page, templates, png)
        };
        build(&self.templates).map(|mail| (mail, false)).or_else(|why| {
            tracing::warn!(why, "a template of an e-mail fails, the built-in one is used");
            let ours = Templates::new(None, None).map_err(|why| why.join(", "))?;
            build(&ours).map(|mail| (mail, true))
        })
    }

    fn transport(&self, secret: Option<&Secret>) -> Result<Transport, String> {
        let tls = match self.security {
            Security::None => Tls::None,
            Security::StartTls => Tls::Required(self.tls()?),
            Security::Implicit => Tls::Wrapper(self.tls()?),
        };
        let mut builder = Transport::builder_dangerous(self.host.clone())
            .port(self.port)
            .tls(tls)
            .timeout(Some(CONNECT_TIMEOUT));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !name.is_empty() && name.chars().all(plain) {
            builder = builder.hello_name(ClientId::Domain(name));
        }
        if let (Some((user, _)), Some(secret)) = (&self.user, secret) {
            let password = secret.expose().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    fn tls(&self) -> Result<TlsParameters, String> {
        let name = self.host.trim_matches(['[', ']']).to_owned();
        let mut builder: TlsParametersBuilder = TlsParameters::builder(name);
        if let Some(file) = &self.ca_file {
            builder = builder.certificate_store(CertificateStore::None);
            builder = builder.add_root_certificate(read_ca(file)?);
        }
        builder.build().map_err(|error| format!("TLS cannot begin: {}", errors::chain(&error)))
    }

    /// Those refused for good, of more than one; `Err`: why it did not arrive, and whether it never
    /// will.
    async fn deliver(
        &self,
        transport: &Transport,
        mail: &lettre::Message,
    ) -> Result<Vec<String>, (String, bool)> {
        let bytes = mail.formatted();
        let Err(error) = transport.send_raw(mail.envelope(), &bytes).await else {
            return Ok(Vec::new());
        };
        let why = answer(&error);
        if !error.is_permanent() || !self.is_about_mail(transport, &error).await {
            return Err((why, false));
        }
        if self.to.len() < 2 {
            return Err((why, true));
        }
        let (mut n_taken, mut refused, mut passing) = (0, Vec::new(), None);
        for mailbox in &self.to {
            let from = Some(self.from.email.clone());
            let envelope = Envelope::new(from, vec![mailbox.email.clone()])
                .map_err(|error| (error.to_string(), true))?;
            match transport.send_raw(&envelope, &bytes).await {
                Ok(_) => n_taken += 1,
                Err(error) => {
                    let is_final = error.is_permanent();
                    let why = format!("{}: {}", mailbox.email, answer(&error));
                    if !is_final {
                        passing = Some(why.clone());
                    }
                    refused.push(why);
                }
            }
        }
        match (n_taken, passing) {
            // Trying again would send it twice to those who have it.
            (1.., _) => Ok(refused),
            (_, Some(why)) => Err((why, false)),
            (_, None) => Err((refused.join("; "), true)),
        }
    }

    /// Whether a refusal is about this mail: the server takes others, and us.
    async fn is_about_mail(
        &self,
        transport: &Transport,
        error: &lettre::transport::smtp::Error,
    ) -> bool {
        let code = error.status().map(|code| code.to_string()).unwrap_or_default();
        !SIGN_IN_CODES.contains(&code.as_str())
            && transport.test_connection().await.is_ok_and(|works| works)
    }
}

/// What the server said, or why it could not be asked.
fn answer(error: &lettre::transport::smtp::Error) -> String {
    // Not the whole chain: the library's text holds that of its source.
    if error.status().is_some() {
        return format!("the mail server answered: {error}");
    }
    let text = format!("the mail server cannot be reached: {error}");
    let hint = ": `ca_file` names whose certificates to trust";
    if text.ends_with("UnknownIssuer") { text + hint } else { text }
}

fn security(text: Option<&str>) -> Result<Security, String> {
    match text {
        None | Some("starttls") => Ok(Security::StartTls),
        Some("implicit") => Ok(Security::Implicit),
        Some("none") => Ok(Security::None),
        Some(other) => Err(format!("{other:?} is not \"starttls\", \"implicit\" or \"none\"")),
    }
}

/// Host and port; the text is not shown: somebody may have put a password into it.
fn host(url: Option<&str>, security: Option<Security>) -> Result<(String, u16), String> {
    let form = "write it like \"smtp://mail.example.com:587\"";
    let url = url.ok_or(format!("is missing: {form}"))?;
    let url = Url::parse(url).map_err(|error| format!("{error}: {form}"))?;
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or(format!("has no host: {form}"))?.to_owned();
    if url.scheme() != "smtp" {
        return Err(format!("{:?} is not \"smtp\": {form}; `tls` says how", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a name: use `user` and `secret_file`".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has more than a host and a port: {form}"));
    }
    let usual = match security {
        Some(Security::Implicit) => 465,
        Some(Security::None) => 25,
        Some(Security::StartTls) | None => 587,
    };
    Ok((host, url.port().unwrap_or(usual)))
}

fn mailbox(text: Option<&str>) -> Result<Mailbox, String> {
    let form = "write it like \"gatewatch <gatewatch@example.com>\"";
    let text = text.ok_or(format!("is missing: {form}"))?;
    text.parse().map_err(|error| format!("{text:?} is no address: {error}: {form}"))
}

fn user(config: &NotifyConfig) -> Result<Option<(String, PathBuf)>, String> {
    match (&config.user, &config.secret_file) {
        (None, None) => Ok(None),
        (Some(_), None) => Err("secret_file: is missing: it holds the password of `user`".into()),
        (None, Some(_)) => Err("user: is missing: the password is in `secret_file`".into()),
        (Some(user), Some(file)) => {
            secret::read(file).map_err(|why| format!("secret_file: {why}"))?;
            Ok(Some((user.clone(), file.clone())))
        }
    }
}

fn read_ca(file: &Path) -> Result<Certificate, String> {
    let shown = file.display();
    let pem = std::fs::read(file).map_err(|error| format!("{shown}: {error}"))?;
    if !pem.windows(11).any(|part| part == b"-----BEGIN ") {
        return Err(format!("{shown}: holds no certificate in PEM"));
    }
    Certificate::from_pem(&pem).map_err(|_| format!("{shown}: holds no certificate in PEM"))
}

fn is_loopback(host: &str) -> bool {
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

/// A page to try templates with.
fn sample() -> Page {
    let message = Message {
        event: Event::Test,
        delivery: "01JD4Z8QK0A1B2C3D4E5F6G7H8".into(),
        at: UnixMillis(0),
        reason: "somebody tries".into(),
        incident: None,
        before: None,
        changed_back: None,
        digest: Vec::new(),
    };
    Page::new(&message, "https://gatewatch.example", None)
}

#[cfg(test)]
mod tests;
