//! Services as systemd units, over the system D-Bus. Needs no privilege: every user may look.
//!
//! Changes come as signals; a listing every 5 s (each second while gateway errors flow) finds new
//! units and whatever a lost signal would have told.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use super::Outlet;
use super::services::{Watcher, pool_of_unit, unit_patterns};
use crate::clock;
use crate::window::ServiceState;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Longest wait for an answer of the bus.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries to reach the bus.
const RETRY: Duration = Duration::from_secs(5);
const LISTING: Duration = Duration::from_secs(5);
const LISTING_FAST: Duration = Duration::from_secs(1);

/// Signals waiting for us; a full queue only makes the bus connection wait.
const SIGNALS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// One row of `ListUnitsByPatterns`: name, description, load state, active state, sub state, unit it
/// follows, object path, job.
type UnitRow =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// True where systemd runs the machine (the test of `sd_booted`).
pub(crate) fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Watches until `stop`; a bus that cannot be reached is told once and tried again for ever.
pub(crate) async fn watch(watcher: &mut Watcher, outlet: &Outlet, stop: &CancellationToken) {
    let mut told = false;
    loop {
        let error = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Ends only with an error; cancelling it just drops the connection.
            Err(error) = watch_bus(Connection::system(), watcher, outlet, &mut told) => error,
        };
        if !told {
            told = true;
            tracing::warn!(
                error = %error,
                fix = "systemctl status dbus",
                "cannot ask systemd for service states: they are missing until the bus answers"
            );
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a timer.
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Follows one connection. `told` is cleared once the bus has answered.
async fn watch_bus(
    connection: impl Future<Output = zbus::Result<Connection>>,
    watcher: &mut Watcher,
    outlet: &Outlet,
    told: &mut bool,
) -> zbus::Result<std::convert::Infallible> {
    let connection = within(connection).await?;
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .path_namespace("/org/freedesktop/systemd1/unit")
        .arg(0, UNIT)
        .build()?;
    let stream = MessageStream::for_match_rule(rule, &connection, Some(SIGNALS_MAX));
    let mut signals = within(stream).await?;
    // Without it systemd sends no signals; refused on some hardened buses, where listings remain.
    if let Err(error) = call(&connection, MANAGER_PATH, MANAGER, "Subscribe", &()).await {
        tracing::info!(%error, "systemd sends no signals: services are listed every few seconds");
    }
    let mut units = list(&connection, watcher, outlet).await?;
    *told = false;
    let mut listed = clock::instant();
    loop {
        let every = if watcher.is_fast() { LISTING_FAST } else { LISTING };
        // Counted from the last listing: a unit that restarts for ever must not put it off.
        if listed.elapsed() >= every {
            units = list(&connection, watcher, outlet).await?;
            listed = clock::instant();
        }
        // Looked at again each second, because gateway errors may have begun meanwhile.
        let wait = every.saturating_sub(listed.elapsed()).min(LISTING_FAST);
        // Cancel-safe on both sides: a signal is taken whole or not at all.
        match tokio::time::timeout(wait, signals.next()).await {
            Err(_) => {}
            Ok(Some(signal)) => {
                let signal = signal?;
                let path = signal.header().path().map(|path| path.as_str().to_owned());
                let unit = path.and_then(|path| units.get(&path));
                if let (Some(unit), Some((state, at))) = (unit, parse_signal(&signal)) {
                    tell(watcher, outlet, unit, state, at.unwrap_or_else(clock::now));
                }
            }
            Ok(None) => return Err(failed(ErrorKind::ConnectionAborted)),
        }
    }
}

fn failed(kind: ErrorKind) -> zbus::Error {
    zbus::Error::InputOutput(Arc::new(kind.into()))
}

async fn within<T>(answer: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(failed(ErrorKind::TimedOut)))
}

async fn call<B>(
    connection: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> zbus::Result<Message>
where
    B: serde::ser::Serialize + zbus::zvariant::DynamicType,
{
    within(connection.call_method(Some(SYSTEMD), path, Some(interface), method, body)).await
}

/// Lists the units that matter, tells their states, and returns their names by object path.
async fn list(
    connection: &Connection,
    watcher: &mut Watcher,
    outlet: &Outlet,
) -> zbus::Result<BTreeMap<String, String>> {
    let patterns = unit_patterns(&watcher.discovery.borrow().services);
    let body = (Vec::<String>::new(), patterns);
    let answer = call(connection, MANAGER_PATH, MANAGER, "ListUnitsByPatterns", &body).await?;
    let rows: Vec<UnitRow> = answer.body().deserialize()?;
    let mut units = BTreeMap::new();
    for (name, _, load, active, sub, _, path, ..) in rows {
        if load != "loaded" {
            continue;
        }
        let state = state_of(&active, &sub);
        units.insert(path.to_string(), name.clone());
        if let Some(state) = state
            && !watcher.was_told(&name, state, pool_of(watcher, &name).as_deref())
        {
            let at = changed_at(connection, &path).await;
            tell(watcher, outlet, &name, state, at.unwrap_or_else(clock::now));
        }
    }
    // systemd forgets a stopped unit that nothing else wants.
    for unit in watcher.told_running() {
        if !units.values().any(|known| *known == unit) {
            tell(watcher, outlet, &unit, "inactive", clock::now());
        }
    }
    Ok(units)
}

fn tell(watcher: &mut Watcher, outlet: &Outlet, unit: &str, state: &'static str, at: UnixMillis) {
    let pool = pool_of(watcher, unit);
    watcher.tell(outlet, ServiceState { unit: unit.to_owned(), state, pool, at });
}

fn pool_of(watcher: &Watcher, unit: &str) -> Option<String> {
    pool_of_unit(unit, &watcher.discovery.borrow().pools)
}

/// When the unit took on its state; `None` when systemd does not know (never started).
async fn changed_at(connection: &Connection, path: &OwnedObjectPath) -> Option<UnixMillis> {
    let body = (UNIT, "StateChangeTimestamp");
    let answer = call(connection, path.as_str(), PROPERTIES, "Get", &body).await.ok()?;
    micros(&answer.body().deserialize::<OwnedVariant>().ok()?)
}

fn micros(value: &OwnedVariant) -> Option<UnixMillis> {
    let us = u64::try_from(value).ok().filter(|us| *us > 0)?;
    i64::try_from(us / 1000).ok().map(UnixMillis)
}

/// State and time in a `PropertiesChanged` of a unit; `None` when it is about something else.
fn parse_signal(signal: &Message) -> Option<(&'static str, Option<UnixMillis>)> {
    let body = signal.body();
    let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        body.deserialize().ok()?;
    let text = |name: &str| changed.get(name).and_then(|value| <&str>::try_from(value).ok());
    let state = state_of(text("ActiveState")?, text("SubState").unwrap_or_default())?;
    Some((state, changed.get("StateChangeTimestamp").and_then(micros)))
}

/// The state of the contract. A unit that waits for its automatic restart is down because it died:
/// systemd calls that `activating`, we say `failed`.
fn state_of(active: &str, sub: &str) -> Option<&'static str> {
    Some(match (active, sub) {
        ("activating", "auto-restart" | "auto-restart-queued") | ("failed", _) => "failed",
        ("active", _) => "active",
        ("reloading" | "refreshing", _) => "reloading",
        ("activating", _) => "activating",
        ("deactivating", _) => "deactivating",
        ("inactive" | "maintenance", _) => "inactive",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Variant;

    #[test]
    fn states_are_those_of_the_contract() {
        let check = |active, sub, want| assert_eq!(state_of(active, sub), want, "{active} {sub}");
        check("active", "running", Some("active"));
        check("active", "exited", Some("active"));
        check("reloading", "reload", Some("reloading"));
        check("activating", "start-pre", Some("activating"));
        check("activating", "auto-restart", Some("failed"));
        check("deactivating", "stop-sigterm", Some("deactivating"));
        check("failed", "failed", Some("failed"));
        check("inactive", "dead", Some("inactive"));
        check("of-the-future", "", None);
    }

    #[test]
    fn a_signal_tells_state_and_time_and_others_tell_nothing() {
        let check = |changed: &[(&str, Variant<'static>)], want: Option<(&str, Option<i64>)>| {
            let changed: HashMap<&str, Variant<'_>> =
                changed.iter().map(|(name, value)| (*name, value.try_clone().unwrap())).collect();
            let path = "/org/freedesktop/systemd1/unit/nginx_2eservice";
            let signal = Message::signal(path, PROPERTIES, "PropertiesChanged")
                .build(&(UNIT, &changed, Vec::<String>::new()))
                .unwrap();
            let got = parse_signal(&signal).map(|(state, at)| (state, at.map(|at| at.0)));
            assert_eq!(got, want, "{changed:?}");
        };
        let text = |text: &'static str| Variant::from(text);
        check(
            &[
                ("ActiveState", text("failed")),
                ("SubState", text("failed")),
                ("StateChangeTimestamp", Variant::from(1_795_188_232_845_123_u64)),
                ("ConditionResult", Variant::from(true)),
            ],
            Some(("failed", Some(1_795_188_232_845))),
        );
        check(
            &[("ActiveState", text("activating")), ("SubState", text("auto-restart"))],
            Some(("failed", None)),
        );
        check(
            &[("ActiveState", text("active")), ("StateChangeTimestamp", Variant::from(0_u64))],
            Some(("active", None)),
        );
        check(&[("SubState", text("running"))], None);
        check(&[("ActiveState", Variant::from(7_u32))], None);
        check(&[], None);
        let other = Message::signal("/", PROPERTIES, "PropertiesChanged").build(&"text").unwrap();
        assert_eq!(parse_signal(&other), None);
    }
}
