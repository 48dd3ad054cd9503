//! Services as systemd units, over the system D-Bus. Needs no privilege: every user may look.
//!
//! Changes come as signals; a listing every 5 s (each second while gateway errors flow, or where there
//! are no signals) finds new units and whatever a lost signal would have told.

mod kept;
mod telling;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedVariant};

use super::services::{Matcher, UNITS_MAX, Watcher, unit_name, unit_patterns};
use super::{Outlet, until_whole_second};
use crate::clock;
use crate::timer::Timer;
use kept::{Kept, is_of, sender_of};
use telling::{tell, tell_missing, tell_state};
use units::{Row, Unit, choose, parse_signal, state_of, unit_of_path};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Longest wait for an answer of the bus, and for a listing with all the questions it raises.
const ANSWER: Duration = Duration::from_secs(5);
const ANSWERS: Duration = Duration::from_secs(30);
/// Between two tries to reach the bus; the first comes sooner: systemd executes itself anew.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const LISTING: Duration = Duration::from_secs(5);
const LISTING_FAST: Duration = Duration::from_secs(1);
/// A listing may come this much earlier, with other work of the same second.
const EARLY: Duration = Duration::from_millis(500);
/// Between two looks at everything of every unit: what signals are for, should one be lost.
const REFRESH: Duration = Duration::from_secs(60);
/// The same where no signal tells of a restart between two listings.
const REFRESH_DEAF: Duration = Duration::from_secs(10);
/// Between two looks at who answers for the sites.
const UPSTREAMS: Duration = Duration::from_secs(20);

/// Units asked for more than their state in one listing; further ones wait for the next.
const ASKS_MAX: usize = 64;

/// Signals waiting for us. A full queue stops the whole connection, answers too, so signals are taken
/// while a listing waits for its answers; those of systemd are kept until it is done.
const SIGNALS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// True where systemd runs the machine below `root` (the test of `sd_booted`).
pub(crate) fn is_running(root: &Path) -> bool {
    root.join("run/systemd/system").is_dir()
}

/// The system bus of this machine, or that of the machine below another root.
async fn connect(root: &Path) -> zbus::Result<Connection> {
    let named = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some();
    if named || root == Path::new("/") {
        return Connection::system().await;
    }
    let socket = root.join("run/dbus/system_bus_socket");
    let address = format!("unix:path={}", escape(&socket.to_string_lossy()));
    zbus::connection::Builder::address(address.as_str()).build().await
}

/// A value in the address of a bus.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_/.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(
                [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[digit as usize])),
            );
        }
    }
    out
}

/// Watches until `stop`; a bus that cannot be reached is told once and tried again for ever.
pub(crate) async fn watch(watcher: &mut Watcher, outlet: &Outlet, stop: &CancellationToken) {
    let mut told = false;
    loop {
        let mut is_good = false;
        let error = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Ends only with an error; cancelling it just drops the connection.
            Err(error) = watch_bus(watcher, outlet, &mut is_good) => error,
        };
        if is_good {
            told = false;
        }
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
            () = tokio::time::sleep(if is_good { RETRY_FIRST } else { RETRY }) => {}
        }
    }
}

/// Follows one connection. `is_good` is set once the bus has answered.
async fn watch_bus(
    watcher: &mut Watcher,
    outlet: &Outlet,
    is_good: &mut bool,
) -> zbus::Result<std::convert::Infallible> {
    let connection = within(connect(&watcher.root)).await?;
    // Without the interface: a unit's signals come in order, first what its type says, then the unit.
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(SYSTEMD)
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .path_namespace("/org/freedesktop/systemd1/unit")
        .build()?;
    let stream = MessageStream::for_match_rule(rule, &connection, Some(SIGNALS_MAX));
    let mut signals = within(stream).await?;
    let mut bus = Bus::new(connection);
    bus.list(&mut signals, watcher, outlet).await?;
    *is_good = true;
    let mut timer = Timer::new();
    loop {
        let is_fast = watcher.is_fast() || bus.is_stale || !bus.has_signals;
        let every = if is_fast { LISTING_FAST } else { LISTING };
        // Counted from the last listing: a unit that restarts for ever must not put it off.
        if bus.listed.elapsed() + EARLY >= every {
            bus.list(&mut signals, watcher, outlet).await?;
        }
        // Looked at again each second, because gateway errors may have begun meanwhile.
        // Cancel-safe on both sides: a signal is taken whole or not at all, and a timer.
        let signal = tokio::select! {
            biased;
            signal = signals.next() => signal,
            () = timer.wait(until_whole_second()) => continue,
        };
        bus.signal(&received(signal)?, watcher, outlet);
    }
}

fn received(signal: Option<zbus::Result<Message>>) -> zbus::Result<Message> {
    signal.unwrap_or_else(|| Err(failed(ErrorKind::ConnectionAborted)))
}

fn failed(kind: ErrorKind) -> zbus::Error {
    zbus::Error::InputOutput(Arc::new(kind.into()))
}

/// True for an answer that says no, which a systemd of another age or a hardened bus may; false where
/// there was no answer.
fn is_refusal(error: &zbus::Error) -> bool {
    use zbus::fdo::Error as Known;
    match error {
        zbus::Error::MethodError(..) => true,
        zbus::Error::FDO(known) => matches!(
            **known,
            Known::AccessDenied(_)
                | Known::AuthFailed(_)
                | Known::Failed(_)
                | Known::InvalidArgs(_)
                | Known::NotSupported(_)
                | Known::UnknownInterface(_)
                | Known::UnknownMethod(_)
                | Known::UnknownObject(_)
                | Known::UnknownProperty(_)
        ),
        _ => false,
    }
}

async fn within<T>(answer: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    crate::timer::within(ANSWER, answer).await.unwrap_or_else(|| Err(failed(ErrorKind::TimedOut)))
}

/// One connection and what was learnt over it.
struct Bus {
    connection: Connection,
    /// Who answered the last listing: any user may send signals, only systemd's count.
    owner: String,
    /// Watched units by object path.
    units: BTreeMap<String, Unit>,
    patterns: Vec<String>,
    matcher: Matcher,
    /// The unit that a listing begins with: the first one that had to wait in the last one.
    first: String,
    /// Primary names of units that were named by an alias.
    aliases: Vec<String>,
    /// systemd before 230, or a bus that forbids the question: all units are listed.
    lists_all: bool,
    has_signals: bool,
    /// A listing is wanted soon.
    is_stale: bool,
    listed: Instant,
    refreshed: Option<Instant>,
    upstreams_at: Option<Instant>,
}

impl Bus {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            owner: String::new(),
            units: BTreeMap::new(),
            patterns: Vec::new(),
            matcher: Matcher::default(),
            first: String::new(),
            aliases: Vec::new(),
            lists_all: false,
            has_signals: true,
            is_stale: false,
            listed: clock::instant(),
            refreshed: None,
            upstreams_at: None,
        }
    }

    async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> zbus::Result<Message>
    where
        B: serde::ser::Serialize + zbus::zvariant::DynamicType,
    {
        let call = self.connection.call_method(Some(SYSTEMD), path, Some(interface), method, body);
        within(call).await
    }

    /// Without it systemd sends no signals; refused on some hardened buses, where listings remain.
    async fn subscribe(&mut self) -> zbus::Result<()> {
        match self.call(MANAGER_PATH, MANAGER, "Subscribe", &()).await {
            Ok(answer) => {
                self.owner = sender_of(&answer);
                self.has_signals = true;
            }
            Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".AlreadySubscribed") => {}
            Err(error) if is_refusal(&error) => {
                if std::mem::take(&mut self.has_signals) {
                    tracing::info!(%error, "systemd sends no signals: services are listed every second");
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Lists the units that matter and tells their states, with a limit for all it takes, then what
    /// signals told meanwhile.
    async fn list(
        &mut self,
        signals: &mut MessageStream,
        watcher: &mut Watcher,
        outlet: &Outlet,
    ) -> zbus::Result<()> {
        let owner = self.owner.clone();
        let mut kept = Kept::default();
        {
            let listing = tokio::time::timeout(ANSWERS, self.list_now(watcher, outlet));
            tokio::pin!(listing);
            loop {
                // Cancel-safe: the listing goes on in the next round, and a signal is taken whole or not.
                let signal = tokio::select! {
                    biased;
                    done = &mut listing => {
                        done.unwrap_or_else(|_| Err(failed(ErrorKind::TimedOut)))?;
                        break;
                    }
                    signal = signals.next() => received(signal)?,
                };
                if is_of(&signal, &owner) {
                    kept.take(signal);
                }
            }
        }
        if kept.has_lost {
            // Of a torn sequence the last state is missing: the next listing has it.
            self.is_stale = true;
            self.units.values_mut().for_each(|unit| unit.is_asked = false);
        } else {
            kept.signals.iter().for_each(|signal| self.signal(signal, watcher, outlet));
        }
        self.listed = clock::instant();
        watcher.save().await;
        Ok(())
    }

    async fn list_now(&mut self, watcher: &mut Watcher, outlet: &Outlet) -> zbus::Result<()> {
        let refresh = if self.has_signals { REFRESH } else { REFRESH_DEAF };
        let is_refresh = self.refreshed.is_none_or(|last| last.elapsed() >= refresh);
        let is_new = watcher.discovery.has_changed().unwrap_or(false);
        if is_new || self.upstreams_at.is_none_or(|last| last.elapsed() >= UPSTREAMS) {
            self.upstreams_at = Some(clock::instant());
            let discovery = watcher.discovery.borrow_and_update().clone();
            watcher.upstreams.look(&discovery).await;
        }
        let names = watcher.names();
        let patterns = unit_patterns(names.iter().chain(&self.aliases).cloned());
        if patterns != self.patterns {
            self.matcher = Matcher::new(&patterns);
            self.patterns = patterns;
        }
        if is_refresh {
            self.subscribe().await?;
        }
        let mut rows = self.rows().await?;
        rows.retain(Row::is_there);
        let all: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        tell_missing(&all, watcher, outlet);
        choose(&mut rows, |row| self.units.contains_key(&row.path));
        let paths: BTreeSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
        self.units.retain(|path, _| paths.contains(path.as_str()));
        let begin = rows.iter().position(|row| row.name == self.first).unwrap_or(0);
        rows.rotate_left(begin);
        let mut n_asked = 0;
        let mut waiting = None;
        for row in &rows {
            if !self.row(row, is_refresh, &mut n_asked, watcher, outlet).await? {
                waiting = waiting.or_else(|| Some(row.name.clone()));
            }
        }
        self.is_stale = waiting.is_some();
        self.first = waiting.unwrap_or_default();
        if is_refresh {
            self.refreshed = Some(clock::instant());
            self.is_stale |= self.find_aliases(&names).await;
        }
        Ok(())
    }

    async fn rows(&mut self) -> zbus::Result<Vec<Row>> {
        if !self.lists_all {
            let body = (Vec::<String>::new(), &self.patterns);
            match self.call(MANAGER_PATH, MANAGER, "ListUnitsByPatterns", &body).await {
                Ok(answer) => return self.parse_rows(&answer),
                Err(error) if is_refusal(&error) => {
                    tracing::info!(%error, "systemd lists no units by pattern: all are listed");
                    self.lists_all = true;
                }
                Err(error) => return Err(error),
            }
        }
        let answer = self.call(MANAGER_PATH, MANAGER, "ListUnits", &()).await?;
        let mut rows = self.parse_rows(&answer)?;
        rows.retain(|row| self.matcher.matches(&row.name));
        Ok(rows)
    }

    fn parse_rows(&mut self, answer: &Message) -> zbus::Result<Vec<Row>> {
        self.owner = sender_of(answer);
        Row::parse_all(answer)
    }

    /// Tells what a listing says of one unit; asks for more where that is new or due. False when so much
    /// was asked for others that this one has to wait for the next listing: then its state is told alone.
    async fn row(
        &mut self,
        row: &Row,
        is_refresh: bool,
        n_asked: &mut usize,
        watcher: &mut Watcher,
        outlet: &Outlet,
    ) -> zbus::Result<bool> {
        let Some(state) = state_of(&row.active, &row.sub) else { return Ok(true) };
        let known = self.units.remove(&row.path);
        let is_known = known.is_some();
        let mut unit = known.unwrap_or_else(|| Unit::new(&row.name));
        let before = unit.mark();
        let is_same = unit.state == Some(state) && unit.is_in(&row.sub);
        unit.state = Some(state);
        unit.detail.sub_state = Some(row.sub.clone()).filter(|sub| !sub.is_empty());
        unit.is_asked &= is_same && !is_refresh;
        if !unit.is_asked && *n_asked < ASKS_MAX {
            *n_asked += 1;
            self.ask(&row.path, &mut unit).await?;
            unit.is_asked = true;
        }
        let is_done = unit.is_asked;
        if is_done {
            tell(watcher, outlet, &mut unit, &before);
            unit.look_at_workers(watcher, outlet);
        } else if !is_same && is_known {
            unit.forget_details();
            tell_state(watcher, outlet, &unit, state, clock::now());
        }
        self.units.insert(row.path.clone(), unit);
        Ok(is_done)
    }

    /// Reads what a listing does not say; what cannot be read is absent. All at once: the answers come
    /// together.
    async fn ask(&self, path: &str, unit: &mut Unit) -> zbus::Result<()> {
        let of_unit = |ix: usize| self.property(path, UNIT, units::UNIT_PROPERTIES[ix]);
        let values = tokio::try_join!(of_unit(0), of_unit(1), of_unit(2), of_unit(3), of_unit(4))?;
        for (name, value) in units::UNIT_PROPERTIES.iter().zip(<[_; 5]>::from(values)) {
            unit.take(name, value.as_ref());
        }
        let Some(interface) = unit.interface() else { return Ok(()) };
        let [result, ref more @ ..] = units::TYPE_PROPERTIES;
        let result_value = self.property(path, interface, result).await?;
        unit.take(result, result_value.as_ref());
        if interface == units::SERVICE {
            let of_type = |ix: usize| self.property(path, interface, more[ix]);
            let values = tokio::try_join!(of_type(0), of_type(1), of_type(2), of_type(3))?;
            for (name, value) in more.iter().zip(<[_; 4]>::from(values)) {
                unit.take(name, value.as_ref());
            }
        }
        Ok(())
    }

    /// `None` for one that this systemd does not have, or that is something else.
    async fn property(
        &self,
        path: &str,
        interface: &str,
        name: &str,
    ) -> zbus::Result<Option<OwnedVariant>> {
        match self.call(path, PROPERTIES, "Get", &(interface, name)).await {
            Ok(answer) => Ok(answer.body().deserialize().ok()),
            Err(error) if is_refusal(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes in what a unit says of itself. One that is not known and matters is listed soon.
    fn signal(&mut self, signal: &Message, watcher: &mut Watcher, outlet: &Outlet) {
        if self.owner.is_empty() || !is_of(signal, &self.owner) {
            return;
        }
        let header = signal.header();
        let Some(path) = header.path().map(zbus::ObjectPath::as_str) else { return };
        let Some(unit) = self.units.get_mut(path) else {
            self.is_stale |= unit_of_path(path).is_some_and(|name| self.matcher.matches(&name));
            return;
        };
        let Some((interface, changed)) = parse_signal(signal) else { return };
        let before = unit.mark();
        for (name, value) in &changed {
            unit.take(name, Some(value));
        }
        // systemd sends the properties of the unit after those of its type: only then all are known.
        if interface == UNIT && unit.take_state(&changed) {
            tell(watcher, outlet, unit, &before);
        }
    }

    /// Units that somebody named by an alias go by another name in listings. True when there are others
    /// than before.
    async fn find_aliases(&mut self, names: &BTreeSet<String>) -> bool {
        let mut aliases = Vec::new();
        for name in names.iter().filter_map(|name| unit_name(name)).take(UNITS_MAX) {
            if self.units.values().any(|unit| unit.name == name) {
                continue;
            }
            let Ok(answer) = self.call(MANAGER_PATH, MANAGER, "GetUnit", &(&name,)).await else {
                continue; // not loaded
            };
            let Ok(path) = answer.body().deserialize::<zbus::OwnedObjectPath>() else { continue };
            let id = self.property(path.as_str(), UNIT, "Id").await;
            let Ok(Some(id)) = id else { continue };
            if let Ok(id) = <&str>::try_from(&id)
                && id != name
                && id.len() <= 255
            {
                aliases.push(id.to_owned());
            }
        }
        let is_new = aliases != self.aliases;
        self.aliases = aliases;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_in_the_address_of_a_bus() {
        assert_eq!(escape("/run/dbus/system_bus_socket"), "/run/dbus/system_bus_socket");
        assert_eq!(escape("/a b,c;d=%"), "/a%20b%2cc%3bd%3d%25");
    }

    #[test]
    fn systemd_runs_the_machine_where_its_directory_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_running(dir.path()));
        std::fs::create_dir_all(dir.path().join("run/systemd/system")).unwrap();
        assert!(is_running(dir.path()));
    }
}
