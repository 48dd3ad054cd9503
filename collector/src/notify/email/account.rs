//! The mail server, who signs in there, and who writes to whom: out of a `[[notify]]` table.

use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;

use crate::config::NotifyConfig;
use crate::notify::address;
use crate::notify::fault::{Fault, Wrong};

/// How the connection is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    StartTls,
    Implicit,
    None,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    /// Who signs in, and the file of the password.
    pub(super) user: Option<(String, PathBuf)>,
    pub(super) from: Mailbox,
    pub(super) to: Vec<Mailbox>,
}

impl Account {
    /// `Err` lists what is wrong; files are not looked at.
    pub(super) fn new(config: &NotifyConfig) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let security = security(config.tls.as_deref()).map_err(|wrong| wrong.at("tls"));
        let security = security.map_err(|fault| faults.push(fault)).ok();
        let host = host(config.url.as_deref(), security).map_err(|wrong| wrong.at("url"));
        let host = host.map_err(|fault| faults.push(fault)).ok();
        let mut mailbox = |key: &str, text: &str| {
            let read = mailbox(text).map_err(|wrong| wrong.at(key));
            read.map_err(|fault| faults.push(fault)).ok()
        };
        let from = config.from.as_deref().and_then(|text| mailbox("from", text));
        let to: Vec<Mailbox> = config.to.iter().filter_map(|text| mailbox("to", text)).collect();
        let example = "write it like \"ops@example.com\"";
        if config.from.is_none() {
            faults.push(Wrong::new("is missing", example).at("from"));
        }
        if config.to.is_empty() {
            faults.push(Wrong::new("is missing", "write it like [\"ops@example.com\"]").at("to"));
        }
        let user = user(config).map_err(|fault| faults.push(fault)).ok();
        if let (Some(Some(_)), Some(Security::None), Some((host, _))) = (&user, security, &host)
            && !is_loopback(host)
        {
            let what = "sends a password over a connection that anybody can read";
            let fix = "write \"starttls\" or \"implicit\"";
            faults.push(Wrong::new(what, fix).at("tls"));
        }
        match (security, host, from, user) {
            (Some(security), Some((host, port)), Some(from), Some(user)) if faults.is_empty() => {
                Ok(Self { host, port, security, user, from, to })
            }
            _ => Err(faults),
        }
    }
}

fn security(text: Option<&str>) -> Result<Security, Wrong> {
    match text {
        None | Some("starttls") => Ok(Security::StartTls),
        Some("implicit") => Ok(Security::Implicit),
        Some("none") => Ok(Security::None),
        Some(other) => {
            let fix = "write starttls, implicit or none";
            Err(Wrong::new(format!("{other:?} is not known"), fix))
        }
    }
}

/// Host and port; the text is not shown: somebody may have put a password into it.
fn host(url: Option<&str>, security: Option<Security>) -> Result<(String, u16), Wrong> {
    let example = "write it like \"smtp://mail.example.com:587\"; `tls` says how";
    let url = url.ok_or(Wrong::new("is missing", example))?;
    let url = address::parse(url, &["smtp"])?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(Wrong::new("has more than a host and a port", example));
    }
    let usual = match security {
        Some(Security::Implicit) => 465,
        Some(Security::None) => 25,
        Some(Security::StartTls) | None => 587,
    };
    let host = url.host_str().unwrap_or_default().to_owned();
    Ok((host, url.port().unwrap_or(usual)))
}

/// Reads a receiver or a sender.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, Wrong> {
    let fix = "write it like \"ops@example.com\" or \"Ops <ops@example.com>\"";
    text.parse().map_err(|_| Wrong::new(format!("{text:?} is no e-mail address"), fix))
}

fn user(config: &NotifyConfig) -> Result<Option<(String, PathBuf)>, Fault> {
    match (&config.user, &config.secret_file) {
        (None, None) => Ok(None),
        (Some(user), Some(file)) => Ok(Some((user.clone(), file.clone()))),
        (Some(_), None) => {
            let fix = "name the file that holds it as secret_file";
            Err(Wrong::new("has no password", fix).at("user"))
        }
        (None, Some(_)) => {
            let fix = "set user too, or remove it where no sign-in is needed";
            Err(Wrong::new("is a password of nobody", fix).at("secret_file"))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}
