//! What a collector can say, field by field: a test that walks everything a message to the agent may
//! hold, as the compiler of the `.proto` files sees it.
//!
//! The list below is the whole reach of a collector, a lying one included. A field that is added to an
//! answer fails the test until it is listed here with what the agent does about it; no text and no
//! bytes may be listed but the few that are there for the identity.

use std::collections::{BTreeMap, BTreeSet};

/// Written by the build script: `rpc SERVICE.METHOD INPUT OUTPUT` and `field MESSAGE.NAME TYPE`.
const CONTRACT: &str = include_str!(concat!(env!("OUT_DIR"), "/contract.txt"));

/// What a field can do to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Holds one of the messages listed.
    Message,
    /// A number of the protocol or the spool: compared, clamped, or acked up to what there is.
    Number,
    /// Shown in `status` and in the log; names no file, decides nothing.
    Name,
    /// A certificate: checked, then stored in the agent's own identity file.
    Certificate,
}

use Effect::{Certificate, Message, Name, Number};

const REACH: [(&str, &str, Effect); 24] = [
    ("CollectorMessage.welcome", "Welcome", Message),
    ("CollectorMessage.ack", "Ack", Message),
    ("CollectorMessage.rewind", "Rewind", Message),
    ("CollectorMessage.throttle", "Throttle", Message),
    // Checked against the versions this agent speaks; decides how batches are packed when they are sent.
    ("Welcome.protocol_version", "uint32", Number),
    ("Welcome.server", "string", Name),
    // A higher one starts the agent's numbering anew; no batch is dropped for it.
    ("Welcome.epoch", "uint64", Number),
    ("Welcome.seq_durable", "uint64", Number),
    // Clamped to 100 ms .. 1 h; what is no number is 1 s.
    ("Welcome.retry_jitter_s", "double", Number),
    // Only compared with the own clock, for a warning.
    ("Welcome.clock_unix_ms", "int64", Number),
    ("Ack.epoch", "uint64", Number),
    // Batches up to here may be deleted from the spool, and never more than were written.
    ("Ack.seq", "uint64", Number),
    ("Rewind.epoch", "uint64", Number),
    ("Rewind.seq", "uint64", Number),
    // Clamped to 1 .. 60 s.
    ("Throttle.batch_interval_ms", "uint32", Number),
    ("EnrollResponse.certificate_der", "bytes", Certificate),
    ("EnrollResponse.ca_der", "bytes", Certificate),
    ("EnrollResponse.server", "string", Name),
    ("EnrollResponse.not_after_unix_ms", "int64", Number),
    ("EnrollResponse.renew_after_unix_ms", "int64", Number),
    ("RenewResponse.certificate_der", "bytes", Certificate),
    ("RenewResponse.ca_der", "bytes", Certificate),
    ("RenewResponse.not_after_unix_ms", "int64", Number),
    ("RenewResponse.renew_after_unix_ms", "int64", Number),
];

/// Fields of everything that any of these messages may hold, by `Message.field`.
fn reach_of(roots: &BTreeSet<&str>, contract: &str) -> BTreeMap<String, String> {
    let fields: Vec<(&str, &str, &str)> = contract
        .lines()
        .filter_map(|line| {
            let (name, kind) = line.strip_prefix("field ")?.split_once(' ')?;
            let (message, field) = name.split_once('.')?;
            Some((message, field, kind))
        })
        .collect();
    let mut found = BTreeMap::new();
    let (mut seen, mut queue) = (roots.clone(), roots.iter().copied().collect::<Vec<_>>());
    while let Some(message) = queue.pop() {
        for (_, field, kind) in fields.iter().filter(|(of, ..)| *of == message) {
            found.insert(format!("{message}.{field}"), (*kind).to_owned());
            let inner = kind.rsplit(' ').next().unwrap_or(kind);
            if seen.insert(inner) {
                queue.push(inner);
            }
        }
    }
    found
}

/// What each method answers: the roots of the walk are found, not named.
fn answers(contract: &str) -> BTreeSet<&str> {
    contract.lines().filter_map(|line| line.strip_prefix("rpc ")?.rsplit(' ').next()).collect()
}

#[test]
fn a_collector_can_say_nothing_but_numbers_names_and_certificates() {
    let answers = answers(CONTRACT);
    let known = BTreeSet::from(["CollectorMessage", "EnrollResponse", "RenewResponse"]);
    assert_eq!(answers, known, "another method: list what it answers, and its effect");
    let reach = reach_of(&answers, CONTRACT);
    let listed: BTreeMap<String, String> =
        REACH.iter().map(|(field, kind, _)| ((*field).to_owned(), (*kind).to_owned())).collect();
    assert_eq!(reach, listed, "a field of an answer is not listed with its effect");
    for (field, kind, effect) in REACH {
        let may_be = match effect {
            Message => kind.starts_with(char::is_uppercase),
            Name => kind == "string" && field.ends_with(".server"),
            Certificate => kind == "bytes" && field.ends_with("_der"),
            Number => matches!(kind, "uint32" | "uint64" | "int64" | "double"),
        };
        assert!(may_be, "{field}: a {kind} cannot be a {effect:?}");
    }
}

#[test]
fn the_walk_finds_what_is_hidden_in_other_messages() {
    let contract =
        "rpc S.M A B\nfield B.x C\nfield C.y repeated D\nfield D.run string\nfield E.z string\n";
    let found = reach_of(&answers(contract), contract);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["B.x", "C.y", "D.run"]);
}
