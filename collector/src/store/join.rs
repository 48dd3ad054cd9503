//! A server joins the fleet: token used, server filed, labels set, certificate kept, all or none.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::Transaction;
use ulid::Ulid;
use wire::UnixMillis;

use super::fleet::{self, Joining, LabelSource, Member};
use super::tokens::{self, TokenState};
use crate::ca::{CaError, SignedCert};

/// What a server asks for when it joins. Name and labels are checked already.
#[derive(Clone, Debug)]
pub struct JoinWish {
    /// Token as pasted.
    pub token: String,
    /// Name it wants; a token made with `--replace` decides otherwise.
    pub name: String,
    /// Labels of its config.
    pub config: BTreeMap<String, String>,
    /// Labels it found out by itself.
    pub detected: BTreeMap<String, String>,
    /// Id it gets if it is new.
    pub new_uuid: Ulid,
}

/// A server that has just joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Name it was filed under.
    pub name: String,
    /// Its certificate.
    pub cert: SignedCert,
    /// Id of the token.
    pub token: String,
    /// An earlier machine of this name lost its certificates.
    pub replaced: bool,
}

/// Why a server may not join.
#[derive(Debug)]
pub enum JoinRefusal {
    /// No such token, or not its secret.
    TokenUnknown,
    /// The token is in a state in which it opens nothing.
    Token(TokenState),
    /// Another server has this name.
    NameInUse(String),
    /// No certificate could be made.
    Sign(CaError),
}

impl fmt::Display for JoinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::TokenUnknown => "is not known here",
            Self::Token(TokenState::Expired) => "has expired",
            Self::Token(TokenState::Revoked) => "was revoked",
            Self::Token(TokenState::UsedUp | TokenState::Valid) => "is used up",
            Self::NameInUse(name) => {
                return write!(
                    f,
                    "a server named {name:?} is in the fleet: if this machine replaces it, use a \
                     token of `gatewatch-collector token create --replace {name}`, else set \
                     another `name` in [host] of agent.toml"
                );
            }
            Self::Sign(_) => return f.write_str("no certificate could be made"),
        };
        write!(f, "the token {why}: make a new one with `gatewatch-collector token create`")
    }
}

/// Files a server and hands out its certificate, which `sign` makes for an id and a name.
///
/// The same token, name and key again is the same enrolment whose answer got lost: it uses nothing
/// up. A revoked server cannot come back that way.
pub fn join(
    tx: &Transaction<'_>,
    wish: &JoinWish,
    now: UnixMillis,
    sign: impl FnOnce(Ulid, &str) -> Result<SignedCert, CaError>,
) -> rusqlite::Result<Result<Joined, JoinRefusal>> {
    let Some(token) = tokens::find(tx, &wish.token, now)? else {
        return Ok(Err(JoinRefusal::TokenUnknown));
    };
    let name = token.replace.as_ref().unwrap_or(&wish.name);
    let known = fleet::member(tx, name)?;
    let uuid = known.as_ref().map_or(wish.new_uuid, |member| member.uuid);
    let cert = match sign(uuid, name) {
        Ok(cert) => cert,
        Err(error) => return Ok(Err(JoinRefusal::Sign(error))),
    };
    let again = known.as_ref().is_some_and(|member| is_same(member, &token.id, &cert));
    match token.state {
        TokenState::Valid => {}
        TokenState::UsedUp if again => {}
        state => return Ok(Err(JoinRefusal::Token(state))),
    }
    let joining = Joining { uuid, name, token: &token.id, key_sha256: cert.key_sha256 };
    let replaced = known.is_some() && !again;
    let server = match known {
        Some(member) if again => member.server,
        Some(member) if token.replace.is_some() => {
            fleet::take_over(tx, member.server, &joining, now)?;
            member.server
        }
        Some(_) => return Ok(Err(JoinRefusal::NameInUse(name.clone()))),
        None => fleet::create(tx, &joining, now)?,
    };
    if !again {
        tokens::use_once(tx, &token.id)?;
    }
    fleet::set_labels(tx, server, LabelSource::Token, &token.labels)?;
    fleet::set_labels(tx, server, LabelSource::Config, &wish.config)?;
    fleet::set_labels(tx, server, LabelSource::Detected, &wish.detected)?;
    fleet::add_certificate(tx, server, &cert.serial, cert.not_after, now)?;
    Ok(Ok(Joined { name: name.clone(), cert, token: token.id, replaced }))
}

fn is_same(member: &Member, token: &str, cert: &SignedCert) -> bool {
    !member.revoked
        && member.token.as_deref() == Some(token)
        && member.key_sha256.as_deref() == Some(&cert.key_sha256)
}
