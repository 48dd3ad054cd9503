//! The simulated fleet of the quickstart's demo: configuration and logs of servers that do not exist.
//!
//! `layout` writes what a web server's configuration would be below one directory per server, for real
//! agents to discover; `run` writes the log lines their nginx would write, and lets PHP-FPM fail on a
//! schedule: first on one server, later on all servers of a hypervisor. Nothing here is ever part of
//! gatewatch itself.

mod layout;
mod traffic;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::traffic::Server;

/// Traffic is written in slices of this length.
const TICK: Duration = Duration::from_millis(100);

/// Simulates a fleet of web servers by writing their log files.
#[derive(Debug, Parser)]
#[command(name = "gatewatch-demo", version)]
struct Cli {
    /// Directory that holds one directory per server.
    #[arg(long)]
    dir: PathBuf,
    /// Servers, named web-1 and so on; the second half is on hypervisor hv-2. It takes three on it to
    /// tell a hypervisor's fault from theirs.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(6..=200))]
    servers: u32,
    /// Sites on each server.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=500))]
    sites: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the configuration and empty logs of every server, and prints one line for each:
    /// name, hypervisor, root directory.
    Layout,
    /// Writes traffic until it is stopped.
    Run {
        /// Requests per second and site.
        #[arg(long, default_value_t = 3.0)]
        rate: f64,
        /// Seconds after which web-2 loses its only pool.
        #[arg(long, default_value_t = 20)]
        server_fails_at: u64,
        /// Seconds after which hypervisor hv-2 fails: every server on it loses its pool.
        #[arg(long, default_value_t = 45)]
        group_fails_at: u64,
        /// Seconds each failure lasts.
        #[arg(long, default_value_t = 12)]
        fails_for: u64,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Command::Layout => layout::write(&cli.dir, cli.servers, cli.sites),
        Command::Run { rate, server_fails_at, group_fails_at, fails_for } => {
            let plan = [
                Outage {
                    hypervisor: None,
                    servers: vec![2],
                    from: server_fails_at,
                    to: server_fails_at + fails_for,
                },
                Outage {
                    hypervisor: Some(layout::SECOND_HYPERVISOR),
                    servers: layout::on_second_hypervisor(cli.servers),
                    from: group_fails_at,
                    to: group_fails_at + fails_for,
                },
            ];
            run(&cli, rate, &plan)
        }
    }
}

/// From when to when, in seconds since the start, the pools of these servers are gone.
struct Outage {
    /// What fails them, if they fail together.
    hypervisor: Option<&'static str>,
    servers: Vec<u32>,
    from: u64,
    to: u64,
}

fn run(cli: &Cli, rate: f64, plan: &[Outage]) -> Result<()> {
    let mut servers: Vec<Server> = (1..=cli.servers)
        .map(|n| Server::open(&layout::root(&cli.dir, n), n, cli.sites))
        .collect::<Result<_>>()?;
    let path = cli.dir.join("truth.jsonl");
    let mut truth =
        File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    say(&format!(
        "simulated traffic: {} servers x {} sites x {rate} requests/s; no real server is involved",
        cli.servers, cli.sites
    ))?;
    let started = instant();
    let (mut n_ticks, mut down) = (0u32, vec![false; plan.len()]);
    loop {
        let elapsed = TICK * n_ticks;
        if let Some(wait) = elapsed.checked_sub(started.elapsed()) {
            std::thread::park_timeout(wait);
            continue;
        }
        for (outage, down) in plan.iter().zip(&mut down) {
            let now_down = (outage.from..outage.to).contains(&elapsed.as_secs());
            if now_down != *down {
                *down = now_down;
                announce(outage, now_down, &mut truth)?;
                for n in &outage.servers {
                    servers[*n as usize - 1].pool_is_down = now_down;
                }
            }
        }
        let now = now();
        for server in &mut servers {
            server.write(now, rate * TICK.as_secs_f64())?;
        }
        n_ticks += 1;
    }
}

fn announce(outage: &Outage, down: bool, truth: &mut File) -> Result<()> {
    let names: Vec<String> = outage.servers.iter().map(|n| layout::name(*n)).collect();
    let what = if down { "pool_died" } else { "pool_back" };
    let hypervisor = outage.hypervisor;
    let fact = serde_json::json!({
        "at": now().to_string(), "what": what, "hypervisor": hypervisor, "servers": names
    });
    writeln!(truth, "{fact}").context("cannot write the truth")?;
    let names = names.join(", ");
    let story = match (hypervisor, down) {
        (None, true) => format!("{names} loses its only PHP-FPM pool www"),
        (None, false) => format!("{names} has its PHP-FPM pool www back"),
        (Some(hypervisor), true) => {
            format!("hypervisor {hypervisor} fails: {names} lose PHP-FPM at the same time")
        }
        (Some(hypervisor), false) => {
            format!("hypervisor {hypervisor} is well again: {names} have PHP-FPM back")
        }
    };
    say(&format!("simulated: {story}"))
}

fn say(text: &str) -> Result<()> {
    let local = now().to_zoned(TimeZone::system());
    let mut out = io::stdout().lock();
    writeln!(out, "{} {text}", local.strftime("%H:%M:%S")).context("cannot write to stdout")
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let now = SystemTime::now();
    let ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn instant() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    Instant::now()
}
