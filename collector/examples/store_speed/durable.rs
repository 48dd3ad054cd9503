//! What the wait for the disk costs: the statements of the store at `synchronous` FULL and NORMAL, in
//! turns, on the same disk.

use std::fs;
use std::path::Path;

use gatewatch_collector::clock;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::agents::Failed;
use crate::day::body;
use crate::values::{Machine, SERIES};

/// Rows of a transaction, transactions of a round, rounds.
const ROWS: i64 = 2000;
const COMMITS: i64 = 20;
const ROUNDS: usize = 7;

/// Bodies that are inserted in turns.
const BODIES: i64 = 100;

const INSERT: &str =
    "INSERT INTO hot(server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Seconds of a round at FULL and at NORMAL, medians.
pub(crate) fn durable(dir: &Path) -> Result<Value, Failed> {
    let mut machine = Machine::new(1);
    let at = |no| 1_795_176_000 + no * 10;
    let bodies: Vec<Vec<u8>> =
        (0..BODIES).map(|no| body(&mut machine, &[at(no)], SERIES.len(), (1, 0)).1).collect();
    let (mut full, mut normal, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        commits.extend(round(dir, "FULL", &bodies, &mut full)?);
        round(dir, "NORMAL", &bodies, &mut normal)?;
    }
    for all in [&mut full, &mut normal, &mut commits] {
        all.sort_by(f64::total_cmp);
    }
    let n_bytes = bodies.iter().map(Vec::len).sum::<usize>() as f64 / BODIES as f64;
    Ok(json!({
        "full_s": full[ROUNDS / 2], "normal_s": normal[ROUNDS / 2],
        "rows_per_s": (ROWS * COMMITS) as f64 / full[ROUNDS / 2], "body_bytes": n_bytes,
        "commit_p50_ms": commits[commits.len() / 2],
        "commit_p99_ms": commits[commits.len() * 99 / 100],
    }))
}

/// One database from empty to full; returns how long each transaction took, ms.
fn round(
    dir: &Path,
    synchronous: &str,
    bodies: &[Vec<u8>],
    seconds: &mut Vec<f64>,
) -> Result<Vec<f64>, Failed> {
    let dir = dir.join("durable");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let mut conn = Connection::open(dir.join("gatewatch.db"))?;
    conn.execute_batch(&format!(
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};
         PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=67108864;
         PRAGMA cache_size=-65536; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;"
    ))?;
    conn.execute_batch(include_str!("../../src/store/schema.sql"))?;
    let began = clock::instant();
    let mut commits_ms = Vec::new();
    for commit in 0..COMMITS {
        let began = clock::instant();
        let tx = conn.transaction()?;
        for row in 0..ROWS {
            let (seq, at) = (commit + 1, 1_795_176_000_000 + commit * 10_000);
            let body = &bodies[(row % BODIES) as usize];
            tx.prepare_cached(INSERT)?.execute(params![row, 1, seq, at, at, at, at, 1, body])?;
        }
        tx.commit()?;
        commits_ms.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    seconds.push(began.elapsed().as_secs_f64());
    drop(conn);
    fs::remove_dir_all(&dir)?;
    Ok(commits_ms)
}
