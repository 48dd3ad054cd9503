//! Folding, as tables.

use wire::v1::{Change, Exemplar, Loss, ServiceState, SiteSecond, Tick};

use super::*;
use crate::model::ServerId;

/// 2026-11-30T12:00:00Z.
const T0: i64 = 1_796_040_000;

fn sites() -> HashMap<String, SiteId> {
    [("a.example", 1), ("b.example", 2), (OTHER, 9)]
        .map(|(name, id)| (name.to_owned(), SiteId(id)))
        .into()
}

/// A batch that arrived `at` seconds into the hour and says it spans `span`.
fn head(at: i64, span: (i64, i64)) -> Head {
    let ms = |second: i64| UnixMillis::from_second(T0 + second);
    Head { id: 1, server: ServerId(1), at: ms(at), t_min: ms(span.0), t_max: ms(span.1) }
}

fn site(name: &str) -> v1::Site {
    v1::Site { name: name.to_owned(), ..v1::Site::default() }
}

fn fold(batches: &[(Head, BatchBody)], hour: i64) -> Folded {
    let sites = sites();
    let mut fold = Fold::new(T0 + hour * HOUR_S, &sites);
    for (head, body) in batches {
        fold.add(head, body);
    }
    fold.finish()
}

/// `site status second count` of each.
fn counts(folded: &Folded) -> Vec<(i64, u16, u16, u64)> {
    folded.counts.iter().map(|c| (c.site.0, c.status, c.second, c.n)).collect()
}

fn second(site: u32, at: i64, counts: &[(u32, u32)]) -> SiteSecond {
    let (status, count) = counts.iter().copied().unzip();
    SiteSecond { site, second: T0 + at, status, count }
}

#[test]
fn counts_are_folded_to_ticks_but_gateway_errors_keep_their_second() {
    let check = |given: &[(i64, u32, u32)], want: &[(i64, u16, u16, u64)]| {
        let seconds = given.iter().map(|(at, status, n)| second(0, *at, &[(*status, *n)]));
        let body = BatchBody {
            sites: vec![site("A.example")],
            seconds: seconds.collect(),
            ..BatchBody::default()
        };
        let folded = fold(&[(head(100, (0, 90)), body)], 0);
        assert_eq!(counts(&folded), want, "{given:?}");
        assert_eq!(folded.tally, Tally::default(), "{given:?}");
    };
    check(&[(0, 200, 1), (9, 200, 2), (10, 200, 4)], &[(1, 200, 0, 3), (1, 200, 10, 4)]);
    check(&[(3, 500, 1), (9, 500, 1)], &[(1, 500, 0, 2)]);
    for status in [502, 503, 504, 1000, 1001, 1023] {
        let kept = status as u16;
        check(&[(3, status, 1), (9, status, 1)], &[(1, kept, 3, 1), (1, kept, 9, 1)]);
        check(&[(3, status, 1), (3, status, 1)], &[(1, kept, 3, 2)]);
    }
    check(&[(3, 200, u32::MAX), (4, 200, u32::MAX)], &[(1, 200, 0, 2 * u64::from(u32::MAX))]);
    check(&[(3, 200, 0)], &[]);
}

#[test]
fn what_has_no_site_or_status_is_counted_and_what_is_over_the_limit_is_other() {
    let body = BatchBody {
        sites: vec![site("c.example"), site(""), site("b.example")],
        seconds: vec![
            second(0, 1, &[(200, 1)]),
            second(1, 1, &[(200, 1)]),
            second(2, 1, &[(200, 1), (99, 1), (600, 1), (999, 1), (1024, 1)]),
            second(3, 1, &[(200, 1)]),
            SiteSecond { site: 2, second: T0, status: vec![200, 404], count: vec![7] },
        ],
        ..BatchBody::default()
    };
    let folded = fold(&[(head(9, (0, 9)), body)], 0);
    assert_eq!(counts(&folded), [(2, 200, 0, 8), (9, 200, 0, 1)]);
    assert_eq!(folded.tally, Tally { n_counts_refused: 7, ..Tally::default() });
}

fn ticks(series: &[(&str, &str)], ticks: &[(i64, &[(u32, i64)])]) -> BatchBody {
    let one = |(metric, attribute): &(&str, &str)| v1::Series {
        metric: (*metric).to_owned(),
        attribute: (*attribute).to_owned(),
    };
    let tick = |(at, values): &(i64, &[(u32, i64)])| {
        let (series, value) = values.iter().copied().unzip();
        Tick { at_unix_ms: (T0 + at) * 1000, series, value }
    };
    BatchBody {
        series: series.iter().map(one).collect(),
        ticks: ticks.iter().map(tick).collect(),
        ..BatchBody::default()
    }
}

/// Metric, attribute, and the samples by second.
type Told<'a> = (&'a str, &'a str, Vec<(u16, i64)>);

fn samples(folded: &Folded) -> Vec<Told<'_>> {
    let mut all = Vec::new();
    for series in &folded.series {
        all.push((series.metric.name, series.attribute.as_str(), series.samples.clone()));
    }
    all
}

#[test]
fn of_one_second_the_later_batch_wins_whatever_the_order_of_time() {
    let cpu = [("system.cpu.utilization", "")];
    let first = ticks(&cpu, &[(20, &[(0, 5)]), (10, &[(0, 4)])]);
    let second = ticks(
        &[("system.memory.limit", ""), ("system.cpu.utilization", "")],
        &[(10, &[(1, 7), (0, 64)]), (3599, &[(1, 1)])],
    );
    let folded = fold(&[(head(30, (10, 20)), first), (head(3590, (10, 3599)), second)], 0);
    assert_eq!(
        samples(&folded),
        [
            ("system.cpu.utilization", "", vec![(10, 7), (20, 5), (3599, 1)]),
            ("system.memory.limit", "", vec![(10, 64)]),
        ]
    );
}

#[test]
fn samples_of_unknown_metrics_and_out_of_range_are_counted() {
    let series =
        [("system.cpu.utilization", ""), ("no.such.metric", ""), ("system.cpu.utilization", "x=1")];
    let body = ticks(&series, &[(10, &[(0, 10_001), (1, 5), (2, -1), (3, 5), (0, 10_000)])]);
    let folded = fold(&[(head(30, (0, 20)), body)], 0);
    assert_eq!(samples(&folded), [("system.cpu.utilization", "", vec![(10, 10_000)])]);
    assert_eq!(folded.tally, Tally { n_samples_refused: 4, ..Tally::default() });
}

#[test]
fn more_series_than_a_server_can_have_are_refused_and_counted() {
    let names: Vec<String> = (0..SERIES_MAX + 5).map(|ix| format!("k={ix}")).collect();
    let series: Vec<(&str, &str)> =
        names.iter().map(|name| ("system.filesystem.utilization", name.as_str())).collect();
    let values: Vec<(u32, i64)> = (0..series.len() as u32).map(|ix| (ix, 1)).collect();
    let folded = fold(&[(head(30, (0, 20)), ticks(&series, &[(10, &values)]))], 0);
    assert_eq!(folded.series.len(), SERIES_MAX);
    assert_eq!(folded.tally, Tally { n_samples_refused: 5, ..Tally::default() });
}

/// Each entry of a batch over three hours is in exactly one of them, or counted in exactly one.
#[test]
fn a_batch_over_several_hours_is_divided_without_rest_and_nonsense_is_counted_once() {
    let cpu = [("system.cpu.utilization", "")];
    let mut body = ticks(
        &cpu,
        &[
            (-1, &[(0, 1)]),
            (0, &[(0, 2)]),
            (3599, &[(0, 3)]),
            (3600, &[(0, 4)]),
            (-40 * 86_400, &[(0, 5)]), // older than is believed
            (10_000, &[(0, 6)]),       // too far ahead
        ],
    );
    body.sites = vec![site("a.example")];
    body.seconds = vec![second(0, -3600, &[(200, 1)]), second(0, 20_000, &[(200, 1), (404, 1)])];
    body.loss = Some(Loss { n_lines_lost: 3, ..Loss::default() });
    body.services = vec![
        ServiceState { unit: "old".into(), at_unix_ms: 5, ..ServiceState::default() },
        ServiceState { unit: "new".into(), at_unix_ms: i64::MAX, ..ServiceState::default() },
    ];
    body.changes = vec![
        Change { kind: "boot".into(), at_unix_ms: T0 * 1000, ..Change::default() },
        Change { kind: "lie".into(), at_unix_ms: (T0 - 9000) * 1000, ..Change::default() },
    ];
    let batches = [(head(3610, (-3600, 3600)), body)];
    let hours: Vec<Folded> = (-2..=2).map(|hour| fold(&batches, hour)).collect();
    let n: Vec<u64> = hours.iter().map(Folded::n_entries).collect();
    assert_eq!(n, [0, 3, 3, 2, 0]);
    let misdated: Vec<u64> = hours.iter().map(|hour| hour.tally.n_misdated).collect();
    assert_eq!(misdated, [0, 5, 0, 0, 0], "two samples, two counts, one change");
    let units = |ix: usize| -> Vec<&str> {
        hours[ix].events.services.iter().map(|service| service.unit.as_str()).collect()
    };
    assert_eq!((units(1), units(2), units(3)), (vec!["old"], vec![], vec!["new"]));
    let lost: Vec<bool> = hours.iter().map(|hour| hour.events.loss.is_some()).collect();
    assert_eq!(lost, [false, false, false, true, false]);
}

#[test]
fn exemplars_beyond_twenty_of_a_site_and_signal_are_counted_and_their_sites_come_along() {
    let exemplar = |site, status, signal| Exemplar {
        site,
        status,
        signal,
        at_unix_ms: T0 * 1000 + 5,
        ..Exemplar::default()
    };
    let mut exemplars = vec![exemplar(1, 502, 1); 22];
    exemplars.extend(vec![exemplar(1, 504, 1); 3]);
    exemplars.extend(vec![exemplar(1, 502, 2); 2]);
    exemplars.push(exemplar(0, 502, 1));
    exemplars.push(exemplar(0, 500, 1));
    exemplars.push(exemplar(7, 502, 1));
    let body = BatchBody {
        sites: vec![site("a.example"), v1::Site { pool: "www".into(), ..site("b.example") }],
        exemplars,
        ..BatchBody::default()
    };
    let folded = fold(&[(head(9, (0, 9)), body)], 0);
    assert_eq!(folded.events.exemplars.len(), 20 + 2 + 1);
    assert_eq!(folded.tally.n_thinned, 5);
    assert_eq!(folded.tally.n_events_refused, 2);
    let names: Vec<(&str, &str)> =
        folded.events.sites.iter().map(|s| (s.name.as_str(), s.pool.as_str())).collect();
    assert_eq!(names, [("b.example", "www"), ("a.example", "")]);
    assert_eq!(folded.events.exemplars[0].site, 0);
    assert_eq!(folded.events.exemplars[22].site, 1);
}

#[test]
fn losses_add_up_and_end_at_the_largest_number() {
    let body = |n| BatchBody {
        loss: Some(Loss { n_lines_lost: n, n_truncations: 1, ..Loss::default() }),
        ..BatchBody::default()
    };
    let head = head(9, (0, 9));
    let folded = fold(&[(head, body(3)), (head, body(u64::MAX))], 0);
    let loss = folded.events.loss.unwrap();
    assert_eq!((loss.n_lines_lost, loss.n_truncations), (u64::MAX, 2));
}

#[test]
fn long_names_and_unknown_metrics_of_hostile_bodies_are_not_kept() {
    let metric = "system.filesystem.utilization";
    let long = |ix: usize| format!("a={}{ix}", "x".repeat(1 << 20));
    let series = |metric: &str, attribute: String| v1::Series { metric: metric.into(), attribute };
    let sites = sites();
    let mut fold = Fold::new(T0, &sites);
    for ix in 0..8 {
        let series = vec![
            series(metric, long(ix)),
            series(&long(ix), "a=1".into()),
            series("no.such.metric", long(ix)),
            series(metric, "a=/".into()),
        ];
        let tick = Tick {
            at_unix_ms: (T0 + ix as i64) * 1000,
            series: vec![0, 1, 2, 3],
            value: vec![7; 4],
        };
        let body = BatchBody { series, ticks: vec![tick], ..BatchBody::default() };
        fold.add(&head(9, (0, 9)), &body);
    }
    let kept: usize =
        fold.known.values().flat_map(|(_, known)| known.keys()).map(String::len).sum();
    assert!(kept < 2 * NAME_BYTES_MAX, "{kept} bytes of names");
    let folded = fold.finish();
    let lens: Vec<usize> = folded.series.iter().map(|series| series.samples.len()).collect();
    assert_eq!(lens, [8, 8], "those that are long are one when cut");
    assert_eq!(folded.tally.n_samples_refused, 16);
}

#[test]
fn series_beyond_the_bound_are_refused_and_those_before_go_on() {
    let sites = sites();
    let mut fold = Fold::new(T0, &sites);
    let series = |ix: usize| v1::Series {
        metric: "system.filesystem.utilization".into(),
        attribute: format!("a={ix}"),
    };
    let n = SERIES_MAX + 100;
    for at in 0..2 {
        let tick = Tick {
            at_unix_ms: (T0 + at) * 1000,
            series: (0..n as u32).collect(),
            value: vec![7; n],
        };
        let series = (0..n).map(series).collect();
        let body = BatchBody { series, ticks: vec![tick], ..BatchBody::default() };
        fold.add(&head(9, (0, 9)), &body);
    }
    let folded = fold.finish();
    assert_eq!(folded.series.len(), SERIES_MAX);
    assert!(folded.series.iter().all(|series| series.samples.len() == 2));
    assert_eq!(folded.tally.n_samples_refused, 200);
}
