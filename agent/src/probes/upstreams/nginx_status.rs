//! `stub_status` of nginx. Pure and total.

use crate::probes::Values;

/// The values of a page; nothing when it is none.
///
/// `handled` below `accepts` means that nginx closed connections at once, as it does when its
/// `worker_connections` are used up.
pub(super) fn parse(page: &str) -> Option<Values> {
    let mut values = Values::new();
    let mut lines = page.lines();
    let active = lines.next()?.strip_prefix("Active connections:")?;
    values.push(("nginx.connections_current", state("active"), number(active.trim())?));
    // Some builds name a fourth counter, the time of requests.
    lines.next()?.trim().strip_prefix("server accepts handled requests")?;
    let mut counters = lines.next()?.split_ascii_whitespace();
    for name in ["nginx.connections_accepted", "nginx.connections_handled", "nginx.requests"] {
        values.push((name, String::new(), number(counters.next()?)?));
    }
    let mut words = lines.next()?.split_ascii_whitespace();
    for name in ["reading", "writing", "waiting"] {
        let word = words.next()?;
        if !word.trim_end_matches(':').eq_ignore_ascii_case(name) {
            return None;
        }
        values.push(("nginx.connections_current", state(name), number(words.next()?)?));
    }
    Some(values)
}

fn state(name: &str) -> String {
    format!("state={name}")
}

fn number(text: &str) -> Option<f64> {
    text.parse::<u64>().ok().map(|n| n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Active connections: 291 \nserver accepts handled requests\n \
                        16630948 16630940 31070465 \nReading: 6 Writing: 179 Waiting: 106 \n";

    #[test]
    fn a_page_is_read_whole_or_not_at_all() {
        let check = |page: &str, want: Option<[f64; 7]>| {
            let got = parse(page).map(|v| v.iter().map(|(.., n)| *n).collect::<Vec<_>>());
            assert_eq!(got, want.map(|want| want.to_vec()), "{page:?}");
        };
        let want = [291.0, 16_630_948.0, 16_630_940.0, 31_070_465.0, 6.0, 179.0, 106.0];
        check(PAGE, Some(want));
        check(&PAGE.replace("requests\n", "requests request_time\n"), Some(want));
        check(&PAGE.replace("106", "x"), None);
        check(&PAGE.replace("291", "-1"), None);
        check(&PAGE.replace("Writing", "Riting"), None);
        check("<html>404</html>", None);
        check("Active connections: 1", None);
        check("", None);
        check("Active connections: 99999999999999999999999\n", None);
    }
}
