//! What systemd says of units, out of its messages: total over whatever a bus may answer.

use std::collections::HashMap;

use wire::UnixMillis;
use zbus::{Message, OwnedObjectPath, OwnedVariant};

use super::UNIT;
use crate::probes::processes::Workers;
use crate::probes::services::{Run, UNITS_MAX};
use crate::window::{Ended, ServiceDetail};

pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
const SOCKET: &str = "org.freedesktop.systemd1.Socket";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";

/// Longest name of a unit, and of a word about its state.
const NAME_BYTES_MAX: usize = 255;
const WORD_BYTES_MAX: usize = 32;
/// Rows of one listing; a machine has hundreds.
const ROWS_MAX: usize = 20_000;

/// Read beside a listing. `StateChangeTimestamp` came with systemd 230, `InvocationID` with 232.
pub(super) const UNIT_PROPERTIES: [&str; 5] = [
    "StateChangeTimestamp",
    "ActiveEnterTimestamp",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestamp",
    "InvocationID",
];

/// The same of a unit's type: of a service all, of others the first. `NRestarts` came with systemd 235.
pub(super) const TYPE_PROPERTIES: [&str; 5] =
    ["Result", "NRestarts", "ExecMainCode", "ExecMainStatus", "MainPID"];

/// One row of `ListUnitsByPatterns` or `ListUnits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) load: String,
    pub(super) active: String,
    pub(super) sub: String,
    pub(super) path: String,
}

/// Name, description, load state, active state, sub state, unit it follows, object path, job.
type WireRow =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl Row {
    pub(super) fn parse_all(answer: &Message) -> zbus::Result<Vec<Self>> {
        let rows: Vec<WireRow> = answer.body().deserialize()?;
        let fits = |row: &WireRow| row.0.len() <= NAME_BYTES_MAX;
        let row = |(name, _, load, active, sub, _, path, ..): WireRow| Self {
            name,
            load,
            active,
            sub: cut(&sub),
            path: path.to_string(),
        };
        Ok(rows.into_iter().take(ROWS_MAX).filter(fits).map(row).collect())
    }
}

impl Row {
    /// False for one that others only name, or that was stopped and masked. One that runs stays what it
    /// is while its file is broken, masked or gone.
    pub(super) fn is_there(&self) -> bool {
        self.load == "loaded" || self.active != "inactive"
    }
}

/// Cuts more units than are watched, of all but the known ones.
pub(super) fn choose(rows: &mut Vec<Row>, is_known: impl Fn(&Row) -> bool) {
    if rows.len() > UNITS_MAX {
        tracing::debug!(n_units = rows.len(), n_max = UNITS_MAX, "more units than are watched");
        rows.sort_by_key(|row| !is_known(row));
        rows.truncate(UNITS_MAX);
    }
}

fn cut(word: &str) -> String {
    word[..word.floor_char_boundary(WORD_BYTES_MAX)].to_owned()
}

/// What is known of one unit.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) state: Option<&'static str>,
    pub(super) detail: ServiceDetail,
    pub(super) main_pid: Option<u32>,
    /// When its state changed last.
    changed_at: Option<UnixMillis>,
    pub(super) is_reloading: bool,
    /// What a listing does not say was asked for, and came by signals since.
    pub(super) is_asked: bool,
    pub(super) workers: Option<Workers>,
    ended_code: Option<i32>,
    ended_status: Option<i32>,
    invocation: Option<String>,
    active_at: Option<UnixMillis>,
    inactive_at: Option<UnixMillis>,
    active_monotonic_us: Option<u64>,
}

/// What decides whether a unit was reloaded since.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    state: Option<&'static str>,
    sub_state: Option<String>,
    changed_at: Option<UnixMillis>,
    is_reloading: bool,
    run_id: String,
}

impl Unit {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: None,
            detail: ServiceDetail::default(),
            main_pid: None,
            changed_at: None,
            is_reloading: false,
            is_asked: false,
            workers: None,
            ended_code: None,
            ended_status: None,
            invocation: None,
            active_at: None,
            inactive_at: None,
            active_monotonic_us: None,
        }
    }

    /// The interface that its type has beside that of all units.
    pub(super) fn interface(&self) -> Option<&'static str> {
        let kind = self.name.rsplit('.').next()?;
        match kind {
            "service" => Some(SERVICE),
            "socket" => Some(SOCKET),
            "scope" => Some(SCOPE),
            _ => None,
        }
    }

    pub(super) fn is_in(&self, sub_state: &str) -> bool {
        self.detail.sub_state.as_deref().unwrap_or_default() == sub_state
    }

    /// It is in another state, of which nothing else is known yet.
    pub(super) fn forget_details(&mut self) {
        let sub_state = self.detail.sub_state.take();
        self.detail = ServiceDetail { sub_state, ..ServiceDetail::default() };
        (self.changed_at, self.ended_code, self.ended_status) = (None, None, None);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            state: self.state,
            sub_state: self.detail.sub_state.clone(),
            changed_at: self.changed_at,
            is_reloading: self.is_reloading,
            run_id: self.run().id,
        }
    }

    /// Takes in one property, or that it cannot be read; others are passed over.
    pub(super) fn take(&mut self, name: &str, value: Option<&OwnedVariant>) {
        let number = || value.and_then(|value| u64::try_from(value).ok()).filter(|n| *n > 0);
        let signed = || value.and_then(|value| i32::try_from(value).ok());
        let count = || value.and_then(|value| u32::try_from(value).ok());
        match name {
            "StateChangeTimestamp" => self.changed_at = value.and_then(micros),
            "ActiveEnterTimestamp" => self.active_at = value.and_then(micros),
            "InactiveEnterTimestamp" => self.inactive_at = value.and_then(micros),
            "ActiveEnterTimestampMonotonic" => self.active_monotonic_us = number(),
            "InvocationID" => self.invocation = value.and_then(hex),
            "Result" => {
                let text = value.and_then(|value| <&str>::try_from(value).ok());
                self.detail.result = text.filter(|text| !text.is_empty()).map(cut);
            }
            "NRestarts" => self.detail.n_restarts = count(),
            "MainPID" => self.main_pid = count().filter(|pid| *pid > 0),
            "ExecMainCode" => self.ended_code = signed(),
            "ExecMainStatus" => self.ended_status = signed(),
            _ => return,
        }
        self.detail.ended = ended(self.ended_code, self.ended_status);
    }

    /// Takes in a state; false when there is none.
    pub(super) fn take_state(&mut self, changed: &HashMap<String, OwnedVariant>) -> bool {
        let text = |name: &str| changed.get(name).and_then(|value| <&str>::try_from(value).ok());
        let sub = text("SubState").unwrap_or_default();
        let Some(state) = text("ActiveState").and_then(|active| state_of(active, sub)) else {
            return false;
        };
        self.state = Some(state);
        self.detail.sub_state = Some(cut(sub)).filter(|sub| !sub.is_empty());
        if !changed.contains_key("StateChangeTimestamp") {
            self.changed_at = None;
        }
        true
    }

    /// Since when it is in its state; `None` when systemd does not know (never started).
    pub(super) fn since(&self) -> Option<UnixMillis> {
        let entered = match self.state? {
            "active" => self.active_at,
            "inactive" | "failed" => self.inactive_at,
            _ => None,
        };
        self.changed_at.or(entered)
    }

    /// The life that runs.
    pub(super) fn run(&self) -> Run {
        let id = match (&self.invocation, self.active_monotonic_us) {
            (Some(invocation), _) => invocation.clone(),
            (None, Some(us)) => us.to_string(),
            (None, None) => String::new(),
        };
        Run { id, at: self.active_at.or(self.changed_at).unwrap_or_else(crate::clock::now) }
    }

    /// Whether a unit that runs took new settings since: it was seen to, or its state changed and is the
    /// same again in the same life.
    pub(super) fn was_reloaded(&self, before: &Mark, run: &Run) -> bool {
        let same_life = !run.id.is_empty() && before.run_id == run.id;
        let unseen = before.state == Some("active")
            && before.sub_state == self.detail.sub_state
            && before.changed_at.is_some()
            && self.changed_at.is_some()
            && before.changed_at != self.changed_at;
        same_life && (before.is_reloading || unseen)
    }
}

fn ended(code: Option<i32>, status: Option<i32>) -> Option<Ended> {
    let how = match code? {
        1 => "exited",
        2 => "killed",
        3 => "dumped",
        _ => return None,
    };
    Some(Ended { how, status: status? })
}

fn micros(value: &OwnedVariant) -> Option<UnixMillis> {
    let us = u64::try_from(value).ok().filter(|us| *us > 0)?;
    i64::try_from(us / 1000).ok().map(UnixMillis)
}

fn hex(value: &OwnedVariant) -> Option<String> {
    let bytes = Vec::<u8>::try_from(value.try_clone().ok()?).ok()?;
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let digit = |half: u8| char::from_digit(u32::from(half), 16);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Interface and properties of a `PropertiesChanged` of systemd.
pub(super) fn parse_signal(signal: &Message) -> Option<(String, HashMap<String, OwnedVariant>)> {
    let body = signal.body();
    let (interface, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        body.deserialize().ok()?;
    (interface == UNIT || [SERVICE, SOCKET, SCOPE].contains(&interface.as_str()))
        .then_some((interface, changed))
}

/// `/org/freedesktop/systemd1/unit/nginx_2eservice` is `nginx.service`.
pub(super) fn unit_of_path(path: &str) -> Option<String> {
    let label = path.strip_prefix("/org/freedesktop/systemd1/unit/")?.as_bytes();
    let mut name = Vec::with_capacity(label.len());
    let mut at = 0;
    while at < label.len() {
        let hex = label.get(at + 1..at + 3).filter(|_| label[at] == b'_');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        name.push(byte.unwrap_or(label[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(name).ok().filter(|name| name.len() <= NAME_BYTES_MAX)
}

/// The state of the contract. A unit that waits for its automatic restart is down because it died:
/// systemd calls that `activating`, we say `failed`.
pub(super) fn state_of(active: &str, sub: &str) -> Option<&'static str> {
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

    const PATH: &str = "/org/freedesktop/systemd1/unit/nginx_2eservice";

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

    fn signal(interface: &str, changed: &[(&str, Variant<'static>)]) -> Message {
        let changed: HashMap<&str, Variant<'_>> =
            changed.iter().map(|(name, value)| (*name, value.try_clone().unwrap())).collect();
        Message::signal(PATH, super::super::PROPERTIES, "PropertiesChanged")
            .build(&(interface, &changed, Vec::<String>::new()))
            .unwrap()
    }

    /// Takes in signals as the bus does; false when the last one told no state.
    fn play(unit: &mut Unit, signals: &[(&str, &[(&str, Variant<'static>)])]) -> bool {
        let mut has_state = false;
        for (interface, changed) in signals {
            let Some((_, changed)) = parse_signal(&signal(interface, changed)) else {
                return false;
            };
            for (name, value) in &changed {
                unit.take(name, Some(value));
            }
            has_state = *interface == UNIT && unit.take_state(&changed);
        }
        has_state
    }

    fn text(text: &'static str) -> Variant<'static> {
        Variant::from(text)
    }

    #[test]
    fn a_killed_service_tells_state_time_and_how_it_ended() {
        let mut unit = Unit::new("nginx.service");
        let of_type: &[(&str, Variant<'static>)] = &[
            ("Result", text("oom-kill")),
            ("NRestarts", Variant::from(2_u32)),
            ("ExecMainCode", Variant::from(2_i32)),
            ("ExecMainStatus", Variant::from(9_i32)),
            ("MainPID", Variant::from(0_u32)),
        ];
        let of_unit: &[(&str, Variant<'static>)] = &[
            ("ActiveState", text("activating")),
            ("SubState", text("auto-restart")),
            ("StateChangeTimestamp", Variant::from(1_795_188_232_845_123_u64)),
            ("InvocationID", Variant::from(vec![0xab_u8, 0x01])),
            ("ConditionResult", Variant::from(true)),
        ];
        assert!(play(&mut unit, &[(SERVICE, of_type), (UNIT, of_unit)]));
        assert_eq!(unit.state, Some("failed"));
        assert_eq!(unit.since(), Some(UnixMillis(1_795_188_232_845)));
        assert_eq!(unit.detail.sub_state.as_deref(), Some("auto-restart"));
        assert_eq!(unit.detail.result.as_deref(), Some("oom-kill"));
        assert_eq!(unit.detail.n_restarts, Some(2));
        assert_eq!(unit.detail.ended, Some(Ended { how: "killed", status: 9 }));
        assert_eq!((unit.main_pid, unit.run().id.as_str()), (None, "ab01"));
        // It runs again: nothing has ended.
        assert!(!play(&mut unit, &[(SERVICE, &[("ExecMainCode", Variant::from(0_i32))])]));
        assert_eq!(unit.detail.ended, None);
    }

    #[test]
    fn answers_of_wrong_types_tell_nothing() {
        let check = |interface: &str, changed: &[(&str, Variant<'static>)], want: bool| {
            let mut unit = Unit::new("nginx.service");
            assert_eq!(play(&mut unit, &[(interface, changed)]), want, "{changed:?}");
            assert_eq!(unit.detail.ended, None);
            unit
        };
        check(
            UNIT,
            &[("ActiveState", text("active")), ("StateChangeTimestamp", Variant::from(0_u64))],
            true,
        );
        check(UNIT, &[("SubState", text("running"))], false);
        check(UNIT, &[("ActiveState", Variant::from(7_u32))], false);
        check(UNIT, &[("ActiveState", text("of the future"))], false);
        check(UNIT, &[], false);
        check("org.freedesktop.systemd1.Mount", &[("ActiveState", text("active"))], false);
        let odd: &[(&str, Variant<'static>)] = &[
            ("Result", Variant::from(7_u32)),
            ("NRestarts", text("many")),
            ("ExecMainCode", Variant::from(9_i32)),
            ("ExecMainStatus", Variant::from(1.5_f64)),
            ("MainPID", Variant::from(-1_i32)),
            ("InvocationID", Variant::from(vec![7_u8; 400])),
            ("ActiveEnterTimestampMonotonic", Variant::from(0_u64)),
        ];
        let unit = check(SERVICE, odd, false);
        assert_eq!(unit.detail, ServiceDetail::default());
        assert_eq!(unit.run().id, "");
        let long = "x".repeat(5000);
        let unit = check(SERVICE, &[("Result", Variant::from(long))], false);
        assert_eq!(unit.detail.result.map(|result| result.len()), Some(WORD_BYTES_MAX));
        let other = Message::signal("/", super::super::PROPERTIES, "PropertiesChanged")
            .build(&"text")
            .unwrap();
        assert!(parse_signal(&other).is_none());
        assert!(Row::parse_all(&other).is_err());
    }

    #[test]
    fn a_reload_is_the_same_life_and_a_restart_another_even_if_nobody_saw_it() {
        let unit = |changed: u64, active: u64, invocation: Option<u8>, sub: &'static str| {
            let mut unit = Unit::new("nginx.service");
            let mut changed: Vec<(&str, Variant<'static>)> = vec![
                ("ActiveState", text("active")),
                ("SubState", text(sub)),
                ("StateChangeTimestamp", Variant::from(changed * 1000)),
                ("ActiveEnterTimestampMonotonic", Variant::from(active)),
            ];
            changed.extend(invocation.map(|id| ("InvocationID", Variant::from(vec![id]))));
            assert!(play(&mut unit, &[(UNIT, &changed)]));
            unit
        };
        let check = |before: &Unit, now: &Unit, reloaded: bool, restarted: bool| {
            assert_eq!(now.was_reloaded(&before.mark(), &now.run()), reloaded);
            assert_eq!(now.run().id != before.run().id, restarted);
        };
        for id in [Some(1), None] {
            let first = unit(100, 7, id, "running");
            check(&first, &unit(100, 7, id, "running"), false, false);
            check(&first, &unit(200, 7, id, "running"), true, false);
            check(&first, &unit(200, 7, id, "exited"), false, false);
            check(&first, &unit(200, 9, id.map(|id| id + 1), "running"), false, true);
            let mut seen = unit(100, 7, id, "running");
            (seen.state, seen.is_reloading) = (Some("reloading"), true);
            check(&seen, &unit(100, 7, id, "running"), true, false);
        }
        // Nothing is known of the life: nothing is told.
        let unknown = Unit::new("nginx.service");
        check(&unknown, &unit(100, 7, None, "running"), false, true);
    }

    #[test]
    fn before_systemd_230_the_time_of_a_state_is_when_it_was_entered() {
        let check = |active: &'static str, want: Option<i64>| {
            let changed: &[(&str, Variant<'static>)] = &[
                ("ActiveState", text(active)),
                ("ActiveEnterTimestamp", Variant::from(7_000_u64)),
                ("InactiveEnterTimestamp", Variant::from(9_000_u64)),
            ];
            let mut unit = Unit::new("nginx.service");
            assert!(play(&mut unit, &[(UNIT, changed)]));
            assert_eq!(unit.since().map(|at| at.0), want, "{active}");
        };
        check("active", Some(7));
        check("failed", Some(9));
        check("inactive", Some(9));
        check("activating", None);
    }

    #[test]
    fn object_paths_are_names_of_units() {
        let check = |label: &str, want: Option<&str>| {
            let path = format!("/org/freedesktop/systemd1/unit/{label}");
            assert_eq!(unit_of_path(&path).as_deref(), want, "{label}");
        };
        check("nginx_2eservice", Some("nginx.service"));
        check("php8_2e2_2dfpm_2eservice", Some("php8.2-fpm.service"));
        check("_6eginx_40a_2eservice", Some("nginx@a.service"));
        check("my_5cx2dapp_2eservice", Some(r"my\x2dapp.service"));
        check("a_", Some("a_"));
        check("a_zz", Some("a_zz"));
        check("_ff", None);
        assert_eq!(unit_of_path("/org/freedesktop/systemd1"), None);
    }

    fn row(name: &str, load: &str, active: &str) -> Row {
        Row {
            name: name.into(),
            load: load.into(),
            active: active.into(),
            sub: String::new(),
            path: format!("/unit/{name}"),
        }
    }

    #[test]
    fn a_unit_that_runs_is_there_whatever_became_of_its_file() {
        let check = |load, active, want| {
            assert_eq!(row("mysql.service", load, active).is_there(), want, "{load} {active}");
        };
        check("loaded", "active", true);
        check("loaded", "inactive", true);
        check("masked", "active", true);
        check("bad-setting", "active", true);
        check("not-found", "active", true);
        check("not-found", "failed", true);
        check("masked", "inactive", false);
        check("not-found", "inactive", false);
    }

    #[test]
    fn known_units_stay_when_there_are_more_than_are_watched() {
        let all = |n: usize| (0..n).map(|ix| row(&format!("a@{ix}.service"), "loaded", "active"));
        let mut rows: Vec<Row> = all(UNITS_MAX + 200).collect();
        let known = format!("/unit/a@{}.service", UNITS_MAX + 199);
        choose(&mut rows, |row| row.path == known);
        assert_eq!((rows.len(), rows[0].path.as_str()), (UNITS_MAX, known.as_str()));
        let mut rows: Vec<Row> = all(UNITS_MAX).collect();
        choose(&mut rows, |_| false);
        assert_eq!(rows, all(UNITS_MAX).collect::<Vec<_>>());
    }
}
