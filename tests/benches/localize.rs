//! Row D8S, the speed of localize (how right it is, D8, is another row): from a CSV file of 100,000
//! combinations of six dimensions to what they have in common.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use harness::instant;
use serde_json::{Value, json};

use crate::Bench;
use crate::measure::{output, quantile};
use crate::table::Row;

const N_LEAVES: u32 = 100_000;
const N_VALUES: [u32; 6] = [4, 30, 200, 12, 6, 50];
const ROUNDS: usize = 7;
const S_MAX: f64 = 1.0;

/// Time of `localize` with and without rows from before the fault.
pub(crate) fn d8s(bench: &Bench) -> Result<Vec<Row>, String> {
    let collector = std::env::var("BENCH_COLLECTOR")
        .map_err(|_| "the released collector is built when D8S is asked for".to_owned())?;
    let mut rows = Vec::new();
    for (what, has_past) in [
        ("localize: 100,000 leaves of 6 dimensions, file to answer", true),
        ("localize: the same without a past", false),
    ] {
        let path = bench.dir.join(format!("localize-{has_past}.csv"));
        let mut file = fs::File::create(&path).map_err(|error| error.to_string())?;
        file.write_all(leaves(has_past).as_bytes()).map_err(|error| error.to_string())?;
        let path = path.display().to_string();
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let began = instant();
            let (found, _) = output(&[&collector, "localize", &path])?;
            took.push(began.elapsed().as_secs_f64());
            check(&found)?;
        }
        rows.push(Row::alone("D8S", what, quantile(&mut took, 0.5), "s", S_MAX));
    }
    Ok(rows)
}

/// Heavy-tailed traffic, failures everywhere, and one fault of two values.
fn leaves(has_past: bool) -> String {
    let mut state = 1_u64;
    let mut chance = move |n: u32| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(n)) as u32
    };
    let mut text =
        String::from("isp,location,website,client,protocol,version,baseline,n,n_failed\n");
    for _ in 0..N_LEAVES {
        let values = N_VALUES.map(&mut chance);
        let n = 10 + 20_000 / (1 + chance(2000));
        let usual = n / 500 + u32::from(chance(500) < n % 500);
        let is_faulty = values[1] == 7 && values[3] == 2;
        let n_failed = if is_faulty { n * (20 + chance(30)) / 100 } else { usual.min(n) };
        let values = values.map(|value| value.to_string()).join(",");
        if has_past {
            writeln!(text, "{values},1,{n},{usual}").expect("a string grows");
        }
        writeln!(text, "{values},0,{n},{n_failed}").expect("a string grows");
    }
    text
}

/// Fast and wrong is no figure.
fn check(found: &str) -> Result<(), String> {
    let first: Value = serde_json::from_str(found.lines().next().unwrap_or_default())
        .map_err(|error| format!("{error} in {found}"))?;
    if first["where"] == json!({"client": "2", "location": "7"}) {
        Ok(())
    } else {
        Err(format!("the fault is not found: {found}"))
    }
}
