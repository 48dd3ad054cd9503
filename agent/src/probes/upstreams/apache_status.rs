//! `mod_status?auto` of Apache. Pure and total.

use crate::probes::Values;

/// Slots that are counted: a server has at most some thousands.
const SLOTS_MAX: usize = 200_000;

/// What the signs of the scoreboard mean.
const STATES: [(char, &str); 11] = [
    ('_', "waiting"),
    ('S', "starting"),
    ('R', "reading"),
    ('W', "sending"),
    ('K', "keepalive"),
    ('D', "dnslookup"),
    ('C', "closing"),
    ('L', "logging"),
    ('G', "finishing"),
    ('I', "idle_cleanup"),
    ('.', "open"),
];

/// The values of a page; `None` when it is none.
///
/// No slot `open` and no worker idle means that `MaxRequestWorkers` are used up.
pub(super) fn parse(page: &str) -> Option<Values> {
    let mut values = Values::new();
    let mut has_workers = false;
    for line in page.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let number = || value.trim().parse::<u64>().ok().map(|n| n as f64);
        match key {
            "BusyWorkers" => {
                has_workers = true;
                values.push(("apache.workers", "state=busy".to_owned(), number()?));
            }
            "IdleWorkers" => values.push(("apache.workers", "state=idle".to_owned(), number()?)),
            // Only with `ExtendedStatus On`.
            "Total Accesses" => values.push(("apache.requests", String::new(), number()?)),
            "Scoreboard" => scoreboard(value.trim(), &mut values),
            _ => {}
        }
    }
    has_workers.then_some(values)
}

fn scoreboard(slots: &str, values: &mut Values) {
    for (sign, name) in STATES {
        let n = slots.chars().take(SLOTS_MAX).filter(|slot| *slot == sign).count();
        values.push(("apache.scoreboard", format!("state={name}"), n as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "localhost\nServerVersion: Apache/2.4.57 (Debian)\nServerMPM: event\n\
                        Total Accesses: 17\nTotal kBytes: 3\nUptime: 4\nBusyWorkers: 3\n\
                        GracefulWorkers: 0\nIdleWorkers: 47\nProcesses: 2\n\
                        Scoreboard: __W_KK_...\n";
    const OLD: &str = "BusyWorkers: 1\nIdleWorkers: 7\nScoreboard: W_______........\n";

    fn get(page: &str, name: &str, attribute: &str) -> Option<f64> {
        let values = parse(page)?;
        values.iter().find(|(n, a, _)| *n == name && a == attribute).map(|(.., v)| *v)
    }

    #[test]
    fn workers_and_their_states_are_read_from_old_and_new_pages() {
        assert_eq!(get(PAGE, "apache.workers", "state=busy"), Some(3.0));
        assert_eq!(get(PAGE, "apache.workers", "state=idle"), Some(47.0));
        assert_eq!(get(PAGE, "apache.requests", ""), Some(17.0));
        assert_eq!(get(PAGE, "apache.scoreboard", "state=keepalive"), Some(2.0));
        assert_eq!(get(PAGE, "apache.scoreboard", "state=open"), Some(3.0));
        assert_eq!(get(OLD, "apache.workers", "state=busy"), Some(1.0));
        assert_eq!(get(OLD, "apache.requests", ""), None, "absent, not zero");
    }

    #[test]
    fn what_is_no_status_page_is_nothing() {
        for page in
            ["", "<html>", "BusyWorkers: x\n", "BusyWorkers: -1", "IdleWorkers: 1\n", "é: ü"]
        {
            assert_eq!(parse(page), None, "{page:?}");
        }
    }
}
