//! Tables small enough to judge by eye, and what holds for all of them.

use proptest::prelude::*;

use super::*;

/// Rows `values n_failed/n [n_failed/n before]`; answers as `dim=value,... n_failed/n explained`.
fn check(dimensions: &str, rows: &[(&str, &str)]) -> Vec<String> {
    told(&localize(&table(dimensions, rows)).common)
}

fn table(dimensions: &str, rows: &[(&str, &str)]) -> Table {
    let mut table = Table::new(dimensions.split(' ').map(str::to_owned).collect()).unwrap();
    for (values, counts) in rows {
        let values: Vec<&str> = values.split(' ').collect();
        for (at, count) in counts.split(' ').enumerate() {
            let (n_failed, n) = count.split_once('/').unwrap();
            table.add(&values, at == 1, n.parse().unwrap(), n_failed.parse().unwrap()).unwrap();
        }
    }
    table
}

fn told(found: &[Common]) -> Vec<String> {
    let value = |(name, value): (&String, &String)| format!("{name}={value}");
    let line = |common: &Common| {
        let values: Vec<String> = common.values.iter().map(value).collect();
        let values = if values.is_empty() { "all".into() } else { values.join(",") };
        format!("{values} {}/{} {}", common.n_failed, common.n, common.explained)
    };
    found.iter().map(line).collect()
}

#[test]
fn one_value_of_one_dimension_is_named_alone() {
    let rows = [
        ("hv-1 a", "0/100 1/100"),
        ("hv-1 b", "1/100 0/100"),
        ("hv-2 a", "90/100 0/100"),
        ("hv-2 b", "80/100 1/100"),
        ("hv-3 a", "1/100 1/100"),
        ("hv-3 b", "0/100 0/100"),
    ];
    assert_eq!(check("hypervisor site", &rows), ["hypervisor=hv-2 170/200 1"]);
}

#[test]
fn two_values_are_named_when_neither_alone_fits() {
    let rows = [
        ("de a", "0/100 0/100"),
        ("de b", "70/100 0/100"),
        ("fr a", "1/100 0/100"),
        ("fr b", "0/100 1/100"),
        ("us a", "0/100 1/100"),
        ("us b", "2/100 1/100"),
    ];
    assert_eq!(check("region site", &rows), ["region=de,site=b 70/100 0.999"]);
}

#[test]
fn without_a_past_each_is_compared_with_the_others() {
    let rows = [
        ("a x", "3/300"),
        ("a y", "2/300"),
        ("b x", "150/300"),
        ("b y", "170/300"),
        ("c x", "4/300"),
        ("c y", "3/300"),
    ];
    assert_eq!(check("site isp", &rows), ["site=b 320/600 0.995"]);
}

#[test]
fn two_causes_are_two_answers_the_larger_first() {
    let rows = [
        ("a x", "400/500 1/500"),
        ("a y", "390/500 0/500"),
        ("b x", "1/500 1/500"),
        ("b y", "120/500 1/500"),
        ("c x", "0/500 2/500"),
        ("c y", "2/500 0/500"),
        ("d x", "1/500 0/500"),
        ("d y", "1/500 1/500"),
    ];
    let expected = ["site=a 790/1000 0.868", "isp=y,site=b 120/500 0.131"];
    assert_eq!(check("site isp", &rows), expected);
}

#[test]
fn a_part_of_an_answer_is_named_only_when_it_fails_far_more() {
    let part = |worst: &str, other: &str| {
        check(
            "region site",
            &[
                ("de a", other),
                ("de b", other),
                ("de c", other),
                ("de d", worst),
                ("fr a", "1/1000 1/1000"),
                ("fr b", "1/1000 2/1000"),
                ("fr c", "2/1000 1/1000"),
                ("fr d", "1/1000 1/1000"),
            ],
        )
    };
    let even = part("150/1000 1/1000", "105/1000 1/1000");
    assert_eq!(even, ["region=de 465/4000 1"]);
    let both = part("990/1000 1/1000", "60/1000 1/1000");
    assert_eq!(both, ["region=de,site=d 990/1000 0.82", "region=de 1170/4000 0.18"]);
}

#[test]
fn when_everything_fails_the_answer_fixes_nothing() {
    let rows = [
        ("a x", "50/100 0/100"),
        ("a y", "52/100 1/100"),
        ("b x", "49/100 0/100"),
        ("b y", "51/100 0/100"),
    ];
    assert_eq!(check("site isp", &rows), ["all 202/400 1"]);
}

#[test]
fn two_causes_of_different_kinds_are_not_everything() {
    let mut rows = Vec::new();
    for site in ["a", "b", "c", "d"] {
        for isp in ["u", "v", "w", "x"] {
            let counts = match (site, isp) {
                ("a", _) => "800/1000 1/1000",
                (_, "u") => "700/1000 1/1000",
                _ => "1/1000 1/1000",
            };
            rows.push((format!("{site} {isp}"), counts));
        }
    }
    let rows: Vec<(&str, &str)> = rows.iter().map(|(v, counts)| (v.as_str(), *counts)).collect();
    let found = check("site isp", &rows);
    assert_eq!(found, ["site=a 3200/4000 0.604", "isp=u 2900/4000 0.396"]);
}

#[test]
fn what_failed_as_much_before_is_no_answer() {
    let rows = [
        ("a x", "90/100 880/1000"),
        ("a y", "1/100 8/1000"),
        ("b x", "0/100 9/1000"),
        ("b y", "2/100 11/1000"),
    ];
    assert_eq!(check("site isp", &rows), [""; 0]);
}

#[test]
fn nothing_is_found_in_nothing() {
    for rows in [&[][..], &[("a x", "0/0 5/10")], &[("a x", "0/100 0/100")], &[("a x", "0/100")]] {
        assert_eq!(check("site isp", rows), [""; 0]);
    }
    assert_eq!(Table::new(Vec::new()).unwrap_err(), Refusal::NoDimension);
    let names = |n: usize| (0..n).map(|i| i.to_string()).collect();
    assert_eq!(Table::new(names(9)).unwrap_err(), Refusal::TooManyDimensions(9));
}

#[test]
fn values_that_always_come_together_are_named_by_the_kind_with_fewer_values() {
    let rows = [
        ("web-1 hv-1 a", "80/100 0/100"),
        ("web-2 hv-2 a", "0/100 0/100"),
        ("web-2 hv-2 b", "1/100 0/100"),
        ("web-3 hv-2 b", "0/100 0/100"),
        ("web-3 hv-2 a", "0/100 0/100"),
    ];
    assert_eq!(check("server hypervisor site", &rows), ["hypervisor=hv-1 80/100 0.989"]);
}

#[test]
fn the_json_shape_is_that_of_the_contract() {
    let rows = [("a x", "80/100 0/100"), ("b x", "0/100 1/100"), ("c y", "0/100 1/100")];
    let found = localize(&table("site isp", &rows)).common;
    let line = serde_json::to_string(&found[0]).unwrap();
    let score = found[0].score;
    assert_eq!(
        line,
        format!(
            r#"{{"where":{{"site":"a"}},"score":{score:?},"n":100,"n_failed":80,"explained":1.0}}"#
        )
    );
    assert!(score > SCORE_MIN, "{line}");
}

/// Leaves of `n_values` that fail at random, but for one value that fails as a whole.
fn random_failures(n_leaves: u64, n_values: &[u64]) -> Table {
    let mut table = Table::new((0..n_values.len()).map(|d| format!("d{d}")).collect()).unwrap();
    let mut state = 7_u64;
    let mut chance = move |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..n_leaves {
        let codes: Vec<u64> = n_values.iter().map(|n| chance(*n)).collect();
        let names: Vec<String> = codes.iter().map(u64::to_string).collect();
        let values: Vec<&str> = names.iter().map(String::as_str).collect();
        let n_failed = if codes[0] == 1 || chance(3) == 0 { 20 + chance(80) } else { 0 };
        table.add(&values, false, 100, n_failed).unwrap();
        table.add(&values, true, 100, 0).unwrap();
    }
    table
}

#[test]
fn random_failures_of_many_leaves_end_with_the_best_so_far_and_say_so() {
    let table = random_failures(3000, &[5, 20, 7, 30, 4, 11, 6, 9]);
    let cut = localize_by(&table, Weights::TUNED, 60_000);
    assert!(!cut.complete);
    let first: BTreeMap<String, String> = [("d0".to_owned(), "1".to_owned())].into();
    assert_eq!(cut.common[0].values, first, "the first layer is looked at first");
    assert_eq!(cut, localize_by(&table, Weights::TUNED, 60_000), "cut off at the same place");
    let nothing = localize_by(&table, Weights::TUNED, 10);
    assert_eq!(nothing, Found { common: Vec::new(), complete: false });
}

#[test]
fn a_question_of_the_promised_size_never_runs_out_of_visits() {
    // Of each of at most 45 searches: the leaves, the first layer, and each set of dimensions.
    let most = |n_leaves: u64, n_dims: u32| {
        let n_searches = (ROUNDS_MAX * LOOKS_MAX) as u64;
        n_searches * n_leaves * (1 + u64::from(n_dims) + (1 << n_dims) - 1)
    };
    assert!(most(100_000, 6) <= VISITS_MAX);
    // And that is what a search takes at most.
    let table = random_failures(400, &[5, 6, 7, 4, 3, 8]);
    assert!(localize_by(&table, Weights::TUNED, most(400, 6)).complete);
}

/// A search without bounds, over every cell of every layer.
fn by_hand(table: &Table) -> Option<(i64, BTreeMap<String, String>)> {
    let leaves = Leaves::of(table);
    let cube = Cube::of(&leaves);
    let gains = leaves.gains();
    let n_dims = leaves.dimensions.len();
    let mut best: Option<(i64, std::cmp::Reverse<usize>, BTreeMap<String, String>)> = None;
    for set in 1_u32..1 << n_dims {
        let dims: Vec<usize> = (0..n_dims).filter(|d| set >> d & 1 == 1).collect();
        let mut cells: BTreeMap<Vec<u32>, leaves::Gain> = BTreeMap::new();
        for (i, gain) in gains.iter().enumerate() {
            let key = dims.iter().map(|d| leaves.columns[*d][i]).collect();
            for (sum, gain) in cells.entry(key).or_insert([0.0; 9]).iter_mut().zip(gain) {
                *sum += gain / leaves.dispersion;
            }
        }
        for (key, gain) in cells {
            let gain = gain.into_iter().fold(f64::MIN, f64::max);
            let kept = Weights::TUNED.kept_by_condition.powi(dims.len() as i32 - 1);
            let score = ((gain * kept - cube.penalty(dims.len())) * 1e6).round() as i64;
            let values: Vec<(usize, u32)> = dims.iter().copied().zip(key).collect();
            let rank = (score, std::cmp::Reverse(dims.len()), leaves.named(&values));
            if score >= 8_000_000
                && best.as_ref().is_none_or(|best| (rank.0, rank.1) > (best.0, best.1))
            {
                best = Some(rank);
            }
        }
    }
    best.map(|(score, _, values)| (score, values))
}

fn rows() -> impl Strategy<Value = Vec<([u8; 4], u64, u64, u64, u64)>> {
    let leaf = ([0_u8..3, 0_u8..4, 0_u8..2, 0_u8..3], 1_u64..400, 0_u64..100, 1_u64..400, 0_u64..6);
    proptest::collection::vec(leaf, 1..60)
}

fn fill(rows: &[([u8; 4], u64, u64, u64, u64)], order: [usize; 4], has_past: bool) -> Table {
    let name = |d: usize| format!("dim-{d}");
    let mut table = Table::new(order.iter().map(|d| name(*d)).collect()).unwrap();
    for (values, n, n_failed, n_before, n_failed_before) in rows {
        let values: Vec<String> = order.iter().map(|d| format!("v{}", values[*d])).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        table.add(&values, false, *n, (*n_failed).min(*n)).unwrap();
        if has_past {
            table.add(&values, true, *n_before, *n_failed_before).unwrap();
        }
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_rows_and_dimensions_changes_nothing(
        rows in rows(),
        order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        turn in 0_usize..60,
        has_past: bool,
    ) {
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        turned.reverse();
        let straight = localize(&fill(&rows, [0, 1, 2, 3], has_past));
        prop_assert_eq!(straight, localize(&fill(&turned, order, has_past)));
    }

    #[test]
    fn rows_of_one_leaf_add_up(rows in rows(), has_past: bool) {
        let mut halves = Vec::new();
        let mut doubles = Vec::new();
        for (values, n, n_failed, n_before, n_failed_before) in rows {
            let half = (values, n, n_failed, n_before, n_failed_before);
            halves.extend([half, half]);
            let n_failed = n_failed.min(n);
            let n_failed_before = n_failed_before.min(n_before);
            doubles.push((values, n * 2, n_failed * 2, n_before * 2, n_failed_before * 2));
        }
        let halves = localize(&fill(&halves, [0, 1, 2, 3], has_past));
        prop_assert_eq!(halves, localize(&fill(&doubles, [0, 1, 2, 3], has_past)));
    }

    #[test]
    fn the_best_cell_is_the_best_of_all_cells(rows in rows()) {
        let table = fill(&rows, [0, 1, 2, 3], true);
        let leaves = Leaves::of(&table);
        let search = Search { weights: Weights::TUNED, score_min: 8.0, excess_min: 0.0, is_first: false };
        let cell = Cube::of(&leaves).best(&leaves, &search, &mut Visits::new(VISITS_MAX));
        let score = cell.as_ref().map(|cell| (cell.score * 1e6).round() as i64);
        prop_assert_eq!(score, by_hand(&table).map(|(score, _)| score));
        if let Some(cell) = cell {
            let (score, values) = by_hand(&table).unwrap();
            let same_size = leaves.named(&cell.values).len() == values.len();
            prop_assert!(same_size, "{:?} or {:?} with {}", cell, values, score);
        }
    }

    #[test]
    fn one_clear_cause_is_found_first_and_ten_times_the_traffic_finds_it_too(
        cause in [0_u8..3, 0_u8..4, 0_u8..2, 0_u8..3],
        fixed in 1_u32..16,
        seed: u64,
        times in 1_u64..11,
    ) {
        let mut rows = Vec::new();
        let mut state = seed;
        let mut chance = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for at in 0..72_u8 {
            let values = [at % 3, at / 3 % 4, at / 12 % 2, at / 24];
            let n = 200 + chance(400);
            let is_cause = (0..4).all(|d| fixed >> d & 1 == 0 || values[d] == cause[d]);
            let n_failed = if is_cause { n * (55 + chance(30)) / 100 } else { chance(3) };
            rows.push((values, n * times, n_failed * times, n * times, chance(3) * times));
        }
        let found = localize(&fill(&rows, [0, 1, 2, 3], true)).common;
        let expected: BTreeMap<String, String> = (0..4)
            .filter(|d| fixed >> d & 1 == 1)
            .map(|d| (format!("dim-{d}"), format!("v{}", cause[d])))
            .collect();
        prop_assert_eq!(found.first().map(|common| &common.values), Some(&expected));
        prop_assert_eq!(found.len(), 1);
    }
}
