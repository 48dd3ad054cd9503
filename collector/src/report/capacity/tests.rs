//! Tables of figures to sentences and cells.

use super::*;

#[test]
fn nothing_is_said_of_no_samples() {
    let ask = Ask {
        kind: Kind::Capacity,
        from: UnixMillis(0),
        to: UnixMillis(7_200_000),
        server: None,
        labels: std::collections::BTreeMap::new(),
        now: UnixMillis(7_200_000),
    };
    let input = Input { hours: 0..7200, ..Input::default() };
    let report = report(&input, &Settings::default(), &ask);
    assert_eq!(report.findings.len(), 1);
}
