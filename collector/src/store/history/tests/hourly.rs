//! What reports are made of, against sums made anew from what was sent: by the real keeper, whatever it
//! has sealed, summed up or neither when the report is asked for.

use std::ops::Range;

use super::super::super::incidents;
use super::super::super::keeper::Keeper;
use super::*;
use crate::config::{RetentionConfig, StoreConfig};

const HOUR: i64 = 3600;
const SERIES: [(&str, &str); 3] = [(STEAL, ""), (RECEIVE, "device=eth0"), (RECEIVE, "device=eth1")];
/// Before the time any story begins at, and after the time it ends at; whole hours.
const SPAN: Range<i64> = START - 12 * HOUR..START + 40 * HOUR;

/// One step of a story.
#[derive(Clone, Debug)]
enum Step {
    /// A server sends samples from so many seconds before now, each so many seconds after the one before;
    /// and requests with them.
    Send { server: i64, ago: i64, every: i64, values: Vec<(i64, u32, u32)> },
    /// So much time goes by.
    Wait(i64),
    /// The keeper has its turn, and the detector has read everything before it.
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let values = prop::collection::vec((0..1000_i64, 0..5_u32, 0..2_u32), 1..40);
    let ago = prop_oneof![2 => 0..2 * HOUR, 1 => 0..12 * HOUR];
    let send = (1..=2_i64, ago, prop_oneof![Just(10), Just(7), Just(95)], values);
    let send =
        send.prop_map(|(server, ago, every, values)| Step::Send { server, ago, every, values });
    let step = prop_oneof![
        6 => send,
        2 => (600..3 * HOUR).prop_map(Step::Wait),
        2 => Just(Step::Pass),
    ];
    prop::collection::vec(step, 5..40)
}

/// What was sent: by server, series and second the batch and the value; requests by server, site's key and
/// second.
#[derive(Debug, Default)]
struct Sent {
    now: i64,
    n: i64,
    seqs: BTreeMap<i64, u64>,
    samples: BTreeMap<(i64, usize, i64), (i64, i64)>,
    requests: BTreeMap<(i64, u16, i64), u64>,
}

impl Sent {
    async fn step(&mut self, store: &Store, keeper: &Keeper, step: &Step) {
        match step {
            Step::Wait(seconds) => self.now += seconds,
            Step::Pass => {
                let upto = *store.committed().borrow();
                store.write(move |tx| incidents::save_snapshot(tx, upto, b"")).await.unwrap();
                keeper.pass(UnixMillis::from_second(self.now)).await.unwrap();
            }
            Step::Send { server, ago, every, values } => {
                let body = self.body(*server, self.now - ago, *every, values);
                let seq = self.seqs.entry(*server).or_default();
                *seq += 1;
                let seq = *seq;
                append(store, batch(*server, seq, self.now - START, &body)).await;
            }
        }
    }

    fn body(
        &mut self,
        server: i64,
        from: i64,
        every: i64,
        values: &[(i64, u32, u32)],
    ) -> v1::BatchBody {
        self.n += 1;
        let series = SERIES.map(|(metric, attribute)| v1::Series {
            metric: metric.into(),
            attribute: attribute.into(),
        });
        let site = v1::Site { name: SITE.into(), ..v1::Site::default() };
        let mut body = v1::BatchBody {
            sites: vec![site],
            series: series.to_vec(),
            ..v1::BatchBody::default()
        };
        let last = self.now.min(from + (values.len() as i64 - 1) * every);
        for (second, (value, n_200, n_502)) in (from..=last).step_by(every as usize).zip(values) {
            // Counters rise with time, and fall when their server booted.
            let booted = if *value < 30 { second % 5000 } else { second - SPAN.start };
            let told = [value * 10, booted * 3, second % 977];
            // Not every tick has every series.
            let has = |ix: &usize| (value + *ix as i64) % 4 != 0;
            let of: Vec<usize> = (0..3).filter(has).collect();
            body.ticks.push(v1::Tick {
                at_unix_ms: second * 1000 + 7,
                series: of.iter().map(|ix| *ix as u32).collect(),
                value: of.iter().map(|ix| told[*ix]).collect(),
            });
            for ix in of {
                self.samples.insert((server, ix, second), (self.n, told[ix]));
            }
            let (status, count) = (vec![200, 502, 1002], vec![*n_200, *n_502, *n_502]);
            body.seconds.push(v1::SiteSecond { site: 0, second, status, count });
            for (key, n) in [(200, *n_200), (502, *n_502), (1002, *n_502)] {
                *self.requests.entry((server, key, second)).or_default() += u64::from(n);
            }
        }
        body
    }

    /// What is sealed was written by a release with a tenth of the scale's step.
    async fn change_scale(&mut self, store: &Store) {
        let cuts = "SELECT t0, hot_cut FROM sealed WHERE parts > 0";
        let cuts = store.read(move |conn| {
            let mut query = conn.prepare(cuts)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<BTreeMap<i64, i64>>>()
        });
        let cuts = cuts.await.unwrap();
        for ((_, series, second), (id, value)) in &mut self.samples {
            if *series == 0 && cuts.get(&hour_of(*second)).is_some_and(|cut| cut >= id) {
                *value /= 10;
            }
        }
        let change = "UPDATE metric SET scale = scale * 10 WHERE name = ?1";
        store.write(move |tx| tx.execute(change, [STEAL])).await.unwrap();
    }

    /// Samples of each hour of a series, in the metric's unit.
    fn hours(&self, metric: &str) -> BTreeMap<(i64, String, i64), Vec<(i64, f64)>> {
        let scale = catalog::find(metric).unwrap().scale;
        let mut hours: BTreeMap<_, Vec<(i64, f64)>> = BTreeMap::new();
        for ((server, series, second), (_, value)) in &self.samples {
            let (name, attribute) = SERIES[*series];
            if name == metric {
                let key = (*server, attribute.to_owned(), hour_of(*second));
                hours.entry(key).or_default().push((*second, *value as f64 / scale));
            }
        }
        hours
    }
}

/// What an hour of samples comes to.
#[derive(Debug)]
struct Want {
    /// Means of minutes by their first second; of a counter its rise a second.
    minutes: BTreeMap<i64, f64>,
    min: f64,
    max: f64,
    mean: f64,
    rise: f64,
}

/// Sums of samples by the plainest means there are.
fn want(metric: &str, samples: &[(i64, f64)]) -> Option<Want> {
    let mut of_minute: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    let is_counter = metric == RECEIVE;
    let mut all: Vec<f64> = Vec::new();
    if is_counter {
        // What it rose by in each second.
        for pair in samples.windows(2) {
            let [(from, was), (to, is)] = [pair[0], pair[1]];
            let rise = if is >= was { is - was } else { is };
            for second in from..to {
                of_minute.entry(second / 60 * 60).or_default().push(rise / (to - from) as f64);
                all.push(rise / (to - from) as f64);
            }
        }
    } else {
        for (second, value) in samples {
            of_minute.entry(second / 60 * 60).or_default().push(*value);
            all.push(*value);
        }
    }
    let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let minutes: BTreeMap<i64, f64> =
        of_minute.iter().map(|(minute, values)| (*minute, mean(values))).collect();
    let ends = if is_counter { minutes.values().copied().collect() } else { all.clone() };
    (!all.is_empty()).then(|| Want {
        min: ends.iter().copied().fold(f64::INFINITY, f64::min),
        max: ends.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        mean: mean(&all),
        rise: all.iter().sum(),
        minutes,
    })
}

fn is_near(found: f64, wanted: f64, off: f64) -> bool {
    (found - wanted).abs() <= off + 1e-9 * wanted.abs()
}

fn check_spread(spread: &Spread, want: &Want, metric: &str) {
    // Rises of a minute are kept as whole numbers.
    let whole = if metric == RECEIVE { 1.0 / 60.0 + 1e-9 } else { 1e-9 };
    assert_eq!(spread.n_minutes(), want.minutes.len() as u64);
    assert!(is_near(spread.min(), want.min, whole), "{spread:?}\n{want:?}");
    assert!(is_near(spread.max(), want.max, whole), "{spread:?}\n{want:?}");
    assert!(is_near(spread.mean(), want.mean, 1e-9), "{} {want:?}", spread.mean());
    assert!(is_near(spread.rise(), want.rise, 1e-6), "{} {want:?}", spread.rise());
    let mut sorted: Vec<f64> = want.minutes.values().copied().collect();
    sorted.sort_by(f64::total_cmp);
    for q in [0.0, 0.5, 0.95, 1.0] {
        let exact = sorted[(q * (sorted.len() - 1) as f64) as usize];
        let found = spread.quantile(q).unwrap();
        assert!(is_near(found, exact, 0.0101 * exact + whole), "{q}: {found} {exact} {want:?}");
    }
    let limit = f64::midpoint(want.min, want.max);
    let above = |limit: f64| sorted.iter().filter(|mean| **mean > limit).count() as f64;
    let found = spread.share_above(limit).unwrap() * sorted.len() as f64;
    let (least, most) = (above(limit * 1.021), above(limit * 0.979));
    assert!((least - 1e-6..=most + 1e-6).contains(&found), "{found} above {limit}: {want:?}");
}

type Key = (i64, String, i64);

async fn hours_of(
    store: &Store,
    metric: &'static str,
    hours: Range<i64>,
) -> Told<BTreeMap<Key, Spread>> {
    let servers = BTreeSet::from([ServerId(1), ServerId(2)]);
    let read = move |history: &History<'_>| {
        let (mut found, metric) = (BTreeMap::new(), catalog::find(metric).unwrap());
        history.hourly(metric, &servers, &hours, &mut |hour| {
            let key = (hour.server.0, hour.attribute.to_owned(), hour.t0);
            let twice = found.insert(key, hour.spread.clone());
            assert_eq!(twice, None, "each hour is shown once");
        })?;
        Ok(found)
    };
    store.history(Limits::default(), read).await.unwrap()
}

async fn check_samples(store: &Store, sent: &Sent) {
    for metric in [STEAL, RECEIVE] {
        let Told { value: found, notes } = hours_of(store, metric, SPAN).await;
        assert_eq!(notes, Notes::default());
        let wanted: BTreeMap<Key, Want> = sent
            .hours(metric)
            .into_iter()
            .filter_map(|(key, samples)| Some((key, want(metric, &samples)?)))
            .collect();
        let keys = |keys: Vec<&Key>| keys.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(keys(found.keys().collect()), keys(wanted.keys().collect()), "{metric}");
        for (key, want) in &wanted {
            check_spread(&found[key], want, metric);
        }
        // The same of a few hours of it only.
        let some = START + HOUR..START + 3 * HOUR;
        let of_some = hours_of(store, metric, some.clone()).await.value;
        let in_some = found.into_iter().filter(|((_, _, t0), _)| some.contains(t0));
        assert_eq!(of_some, in_some.collect());
        check_minutes(store, metric, wanted).await;
    }
}

async fn check_minutes(store: &Store, metric: &'static str, wanted: BTreeMap<Key, Want>) {
    let read = move |history: &History<'_>| {
        let metric = catalog::find(metric).unwrap();
        let mut found: BTreeMap<(i64, &str), Vec<(i64, f64)>> = BTreeMap::new();
        for server in [1, 2] {
            for (_, attribute) in SERIES.iter().filter(|(name, _)| *name == metric.name) {
                let of = found.entry((server, *attribute)).or_default();
                let mut see = |minute, mean| of.push((minute, mean));
                let kept = history.minutes(ServerId(server), metric, attribute, &SPAN, &mut see)?;
                assert_eq!(kept, Some(SPAN), "all samples are kept");
            }
        }
        Ok(found)
    };
    let Told { value, notes } = store.history(Limits::default(), read).await.unwrap();
    assert_eq!(notes, Notes::default());
    for ((server, attribute), found) in value {
        let of = wanted.iter().filter(|((s, a, _), _)| (*s, a.as_str()) == (server, attribute));
        let want: Vec<(i64, f64)> =
            of.flat_map(|(_, want)| want.minutes.iter().map(|(at, mean)| (*at, *mean))).collect();
        assert_eq!(found.len(), want.len());
        for (found, want) in found.iter().zip(&want) {
            assert!(found.0 == want.0 && is_near(found.1, want.1, 1e-9), "{found:?} {want:?}");
        }
    }
}

async fn check_requests(store: &Store, sent: &Sent) {
    let mut wanted: BTreeMap<(i64, u16, i64), u64> = BTreeMap::new();
    let mut bad: BTreeMap<i64, BTreeSet<i64>> = [(1, BTreeSet::new()), (2, BTreeSet::new())].into();
    for ((server, key, second), n) in sent.requests.iter().filter(|(_, n)| **n > 0) {
        *wanted.entry((*server, *key, hour_of(*second))).or_default() += n;
        if *key == 502 {
            bad.get_mut(server).unwrap().insert(second / 60 * 60);
        }
    }
    for (server, minutes) in &bad {
        for minute in minutes {
            *wanted.entry((*server, BAD_MINUTES, hour_of(*minute))).or_default() += 1;
        }
    }
    let read = |history: &History<'_>| {
        let (mut found, mut bad) = (BTreeMap::new(), BTreeMap::new());
        let mut names = BTreeMap::new();
        for server in [1, 2] {
            for site in history.sites(ServerId(server))? {
                assert_eq!(names.insert(site.site, server), None);
            }
            let told = history.bad_minutes(ServerId(server), &SPAN)?.expect("all are kept");
            assert_eq!(told.unread, BTreeSet::new());
            let minutes = told.sites;
            assert!(minutes.keys().all(|site| names[site] == server));
            bad.insert(server, minutes.into_values().flatten().collect::<BTreeSet<i64>>());
        }
        let servers = BTreeSet::from([ServerId(1), ServerId(2)]);
        history.site_hours(&servers, &SPAN, &mut |hour| {
            assert_eq!(names.get(&hour.site), Some(&hour.server.0));
            let twice = found.insert((hour.server.0, hour.key, hour.t0), hour.n);
            assert_eq!(twice, None, "each number is shown once");
        })?;
        Ok((found, bad))
    };
    let Told { value, notes } = store.history(Limits::default(), read).await.unwrap();
    assert_eq!((value, notes), ((wanted, bad), Notes::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn hours_are_those_of_what_was_sent_whatever_is_sealed_or_summed_up(
        steps in steps(), later in steps(), changes in any::<bool>(), is_over in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            enrol(&store, 2).await;
            let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
            let stop = tokio_util::sync::CancellationToken::new();
            let keeper = Keeper::new(store.clone(), pace, retention, stop);
            let mut sent = Sent { now: START + HOUR, ..Sent::default() };
            for step in &steps {
                sent.step(&store, &keeper, step).await;
            }
            if is_over {
                // The day is over: it is summed up, and what comes still is late.
                for wait in [5 * HOUR, HOUR, HOUR] {
                    sent.step(&store, &keeper, &Step::Wait(wait)).await;
                    sent.step(&store, &keeper, &Step::Pass).await;
                }
            }
            if changes {
                sent.change_scale(&store).await;
            }
            for step in later.iter().take(10).filter(|step| !changes || !matches!(step, Step::Pass)) {
                sent.step(&store, &keeper, step).await;
            }
            check_samples(&store, &sent).await;
            check_requests(&store, &sent).await;
        });
    }
}

/// A column of one hour: a value each minute from `from` on.
fn minutely(metric: i64, minutes: Range<u16>, value: i64) -> Column {
    let at: Vec<u16> = minutes.map(|minute| minute * 60).collect();
    let values = vec![value; at.len()];
    Column { metric, at, values }
}

fn hour_with(columns: Vec<Column>) -> ServerHour {
    ServerHour { columns, ..ServerHour::default() }
}

/// Sums of steal: server 1 half, server 2 a quarter, in each hour of the day before.
async fn yesterday(store: &Store) -> Day {
    use super::super::super::rollup::month::{MonthFile, Rows};
    use super::super::super::rollup::rolled::{Rolled, SeriesDay};

    let day = Day::of(START - 86_400).unwrap();
    let mut rows = Rows::default();
    for (server, value) in [(1, 5000), (2, 2500)] {
        let mut series = SeriesDay::default();
        series.fill(Rolled::of(&minutely(5, 0..60, value), catalog::Kind::Gauge));
        rows.series.push((5, ServerId(server), series));
    }
    MonthFile::create(store.dir(), day.month()).unwrap().put(day, &rows).unwrap();
    let note = "INSERT INTO summed(day) VALUES (?1)";
    store.write(move |tx| tx.execute(note, [day.first_second()])).await.unwrap();
    day
}

async fn with_steal() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 2).await;
    add_metric(&store, 5, STEAL, "").await;
    (dir, store)
}

/// Server, hour from `START`, minutes, mean.
fn told(hours: &BTreeMap<Key, Spread>) -> Vec<(i64, i64, u64, f64)> {
    let one = |((server, _, t0), spread): (&Key, &Spread)| {
        (*server, (t0 - START) / HOUR, spread.n_minutes(), (spread.mean() * 1e6).round() / 1e6)
    };
    hours.iter().map(one).collect()
}

#[tokio::test]
async fn what_is_damaged_or_missing_is_a_hole_and_the_rest_is_told() {
    let (dir, store) = with_steal().await;
    let day = yesterday(&store).await;
    let month = rusqlite::Connection::open(dir.path().join(day.month().file())).unwrap();
    let flip =
        "UPDATE series SET body = CAST(X'00' || substr(body, 2) AS BLOB) WHERE server_id = 2";
    month.execute(flip, []).unwrap();
    // Of two hours that are not summed up one is gone, and one of server 2 is damaged.
    let hours = [1, 2].map(|server| (server, hour_with(vec![minutely(5, 0..30, 1000 * server)])));
    put(dir.path(), START + HOUR, 0, &hours);
    note_sealed(&store, START + HOUR, 0, 1).await;
    note_sealed(&store, START + 2 * HOUR, 0, 1).await;
    let file = rusqlite::Connection::open(dir.path().join(Day::of(START).unwrap().file())).unwrap();
    file.execute("UPDATE block SET vsum = vsum + 1 WHERE server_id = 2", []).unwrap();
    let Told { value, notes } = hours_of(&store, STEAL, START - 48 * HOUR..START + 4 * HOUR).await;
    let from = day.first_second();
    let of_day: Vec<(i64, i64, u64, f64)> =
        (0..24).map(|hour| (1, (from - START) / HOUR + hour, 60, 0.5)).collect();
    assert_eq!(told(&value), [of_day, vec![(1, 1, 30, 0.1)]].concat());
    let hole = |from: i64, to: i64, server: Option<&str>, why: &str| Hole {
        from: at(from),
        to: at(to),
        server: server.map(str::to_owned),
        why: why.to_owned(),
    };
    let begin = from - START;
    let all = [
        hole(begin, begin + 86_400, Some("web-2"), "damaged"),
        hole(HOUR, 2 * HOUR, Some("web-2"), "damaged"),
        hole(2 * HOUR, 3 * HOUR, None, "missing"),
    ];
    assert_eq!(notes.holes, all);
}

#[tokio::test]
async fn a_release_that_changed_a_scale_leaves_one_hour_of_both() {
    use super::super::super::rollup::month::{MonthFile, Rows};
    use super::super::super::rollup::rolled::{Rolled, SeriesDay};

    let (dir, store) = with_steal().await;
    let old =
        "INSERT INTO metric(metric, name, attribute, scale, unit) VALUES (6, ?1, '', 1000, '1')";
    store.write(move |tx| tx.execute(old, [STEAL])).await.unwrap();
    let day = yesterday(&store).await;
    // Of the last two hours of the day before, one has sums in both scales, one in the old one alone.
    let mut series = SeriesDay::default();
    series[22] = Rolled::of(&minutely(6, 0..60, 100), catalog::Kind::Gauge);
    let mut other = SeriesDay::default();
    other[0] = Rolled::of(&minutely(6, 0..30, 900), catalog::Kind::Gauge);
    let rows =
        Rows { series: vec![(6, ServerId(1), series), (6, ServerId(2), other)], sites: Vec::new() };
    MonthFile::create(store.dir(), day.month()).unwrap().put(day, &rows).unwrap();
    // An hour that is not summed up: two parts, of one second the later one holds.
    let early = hour_with(vec![minutely(6, 0..40, 200)]);
    put(dir.path(), START, 0, &[(1, early)]);
    put(dir.path(), START, 1, &[(1, hour_with(vec![minutely(5, 30..60, 4000)]))]);
    note_sealed(&store, START, 0, 2).await;
    let Told { value, notes } = hours_of(&store, STEAL, START - 48 * HOUR..START + HOUR).await;
    assert_eq!(notes, Notes::default());
    let of = |server: i64, t0: i64| &value[&(server, String::new(), t0)];
    assert_eq!(value.len(), 49);
    let both = of(1, day.first_second() + 22 * HOUR);
    assert_eq!((both.n_minutes(), both.min(), both.max()), (120, 0.1, 0.5));
    assert!(is_near(both.mean(), 0.3, 1e-12) && is_near(both.quantile(0.9).unwrap(), 0.5, 0.005));
    assert!(is_near(both.quantile(0.1).unwrap(), 0.1, 0.001), "{both:?}");
    assert_eq!(both.share_above(0.2), Some(0.5));
    let both = of(2, day.first_second());
    assert_eq!((both.n_minutes(), both.min(), both.max()), (90, 0.25, 0.9));
    let put_together = of(1, START);
    assert_eq!((put_together.n_minutes(), put_together.max()), (60, 0.4));
    assert!(is_near(put_together.mean(), 0.3, 1e-12), "{}", put_together.mean());
    let mut all = both.clone();
    all.merge(put_together);
    all.merge(of(1, day.first_second() + 22 * HOUR));
    assert_eq!((all.n_minutes(), all.min(), all.max()), (270, 0.1, 0.9));
}

#[tokio::test]
async fn what_came_late_for_sums_is_told_beside_the_samples_and_without_them_the_sums_are() {
    let (dir, store) = with_steal().await;
    yesterday(&store).await;
    let hours = [1, 2].map(|server| (server, hour_with(vec![minutely(5, 0..30, 1000 * server)])));
    put(dir.path(), START, 0, &hours);
    note_sealed(&store, START, 0, 1).await;
    let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
    let stop = tokio_util::sync::CancellationToken::new();
    Keeper::new(store.clone(), pace, retention, stop).pass(at(40 * HOUR)).await.unwrap();
    let told_of = async || {
        let Told { value, notes } = hours_of(&store, STEAL, START..START + HOUR).await;
        (told(&value), notes.holes.len())
    };
    assert_eq!(told_of().await, (vec![(1, 0, 30, 0.1), (2, 0, 30, 0.2)], 0));
    let said = Said { second: 1800, steal: 4100, n_200: 1, n_502: 0 };
    append(&store, batch(2, 1, 40 * HOUR, &body(&[said]))).await;
    let late = (2, 0, 31, ((30.0 * 0.2 + 0.41) / 31.0 * 1e6_f64).round() / 1e6);
    assert_eq!(told_of().await, (vec![(1, 0, 30, 0.1), late], 0));
    // The samples are damaged: what was summed up of them is still right, but for what came late.
    let file = rusqlite::Connection::open(dir.path().join(Day::of(START).unwrap().file())).unwrap();
    file.execute("UPDATE block SET vsum = vsum + 1 WHERE server_id = 2", []).unwrap();
    assert_eq!(told_of().await, (vec![(1, 0, 30, 0.1), (2, 0, 30, 0.2)], 1));
}

#[tokio::test]
async fn hours_are_told_until_the_time_is_over_and_then_it_is_said() {
    let (_dir, store) = with_steal().await;
    yesterday(&store).await;
    let servers = BTreeSet::from([ServerId(1), ServerId(2)]);
    let read = move |history: &History<'_>| {
        let (mut n, metric) = (0, catalog::find(STEAL).unwrap());
        history.hourly(metric, &servers, &SPAN, &mut |_| n += 1)?;
        Ok(n)
    };
    let told = store.history(Limits::within(Duration::ZERO), read).await.unwrap();
    assert_eq!(told.value, 0);
    assert!(told.notes.cut.is_some_and(|cut| cut.contains("longer than 0 s")));
}

#[tokio::test]
async fn where_only_sums_are_kept_there_are_no_minutes() {
    let (_dir, store) = with_steal().await;
    yesterday(&store).await;
    let keep = "INSERT OR REPLACE INTO state(k, v) VALUES ('raw_from', ?1)";
    store.write(move |tx| tx.execute(keep, [START])).await.unwrap();
    let read = |history: &History<'_>| {
        let (server, metric) = (ServerId(1), catalog::find(STEAL).unwrap());
        let before = START - 24 * HOUR..START;
        let mut n = 0;
        let minutes = history.minutes(server, metric, "", &before, &mut |_, _| n += 1)?;
        let bad = history.bad_minutes(server, &before)?;
        let beyond = START - HOUR..START + HOUR;
        let some = history.minutes(server, metric, "", &beyond, &mut |_, _| n += 1)?;
        Ok((minutes, bad, some, n, history.samples_from()?))
    };
    let told = store.history(Limits::default(), read).await.unwrap();
    assert_eq!(told.value, (None, None, Some(START..START + HOUR), 0, START));
}
