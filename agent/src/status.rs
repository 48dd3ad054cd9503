//! The `status` command and what answers it: one JSON object per connection to a Unix socket.
//!
//! The answer is made when asked, from the watch channels of the stages, so it costs nothing while
//! nobody asks. The socket is removed when the agent ends.

mod host;
mod text;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gather::{FileStatus, GatherStatus};
use crate::probes::Latest;
use crate::selfstats;
use crate::spool::{Spool, Stats};
use crate::uplink::UplinkStatus;
use crate::window::Loss;
pub use text::render;

/// A client that does not read its answer is left alone after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent that does not answer in this time is stuck.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why `status` has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error(
        "no agent answers on {path}: is it running (systemctl status gatewatch-agent), with the \
         same config?"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// Not for this user.
    #[error("not allowed to ask on {path}: run this as root or as the agent's user")]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// What came back is no status.
    #[error("the agent on {path} gave no usable answer: {reason}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Where the answer comes from.
#[derive(Clone)]
pub struct Sources {
    /// The data path.
    pub gather: watch::Receiver<GatherStatus>,
    /// The stream.
    pub uplink: watch::Receiver<UplinkStatus>,
    /// The queue.
    pub spool: Arc<Mutex<Spool>>,
    /// What the probes said last.
    pub latest: Latest,
}

/// Answers until `stop`. Without a socket the agent works on: that is logged, not fatal.
pub async fn serve(socket: PathBuf, sources: Sources, stop: CancellationToken) {
    let listener = match listen(&socket) {
        Ok(listener) => listener,
        Err(error) => {
            let path = socket.display();
            tracing::warn!(%path, %error, "no status socket: set `socket` to a place this user may write");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel-safe: a connection that is not taken stays in the backlog.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((mut stream, _)) => {
                // One at a time: an answer takes a millisecond, and a slow reader is cut off.
                let answer = answer(sources.clone()).await;
                let sent =
                    tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(answer.as_bytes()));
                if !matches!(sent.await, Ok(Ok(()))) {
                    tracing::debug!("a status client left before its answer");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "status socket");
                tokio::time::sleep(Duration::from_secs(1)).await; // out of file descriptors
            }
        }
    }
    if let Err(error) = fs::remove_file(&socket) {
        tracing::debug!(%error, "status socket stays");
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = socket.parent() {
        fs::create_dir_all(parent)?;
    }
    // The lock on the state directory says that no other agent answers here.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn answer(sources: Sources) -> String {
    let spool = Arc::clone(&sources.spool);
    // On the blocking pool: the gather thread may hold the spool while the disk is slow.
    let stats = tokio::task::spawn_blocking(move || {
        spool.lock().unwrap_or_else(PoisonError::into_inner).stats()
    });
    let stats = stats.await.unwrap_or_default();
    let mut report = report(&sources.gather.borrow(), &sources.uplink.borrow(), &stats);
    report["host"] = host::report(&sources.latest);
    report.to_string()
}

fn report(gather: &GatherStatus, uplink: &UplinkStatus, spool: &Stats) -> Value {
    let own = selfstats::read();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uplink": uplink,
        "spool": {
            "epoch": spool.epoch,
            "seq_first": spool.seq_first,
            "seq_last": spool.seq_last,
            "acked": spool.seq_acked,
            "bytes_unacked": spool.bytes_unacked,
            "bytes": spool.bytes,
            "bytes_max": spool.bytes_max,
            "blocked": gather.blocked,
        },
        "loss": losses(&gather.loss, spool),
        "ledger": ledger(&gather.files),
        "files": gather.files.iter().map(file).collect::<Vec<_>>(),
        "unreadable": gather.unreadable,
        "n_sites": gather.n_sites,
        "complete_until": gather.complete_until.to_rfc3339(),
        "self": {
            "cpu_seconds": own.map(|own| own.cpu_ms as f64 / 1000.0),
            "rss_bytes": own.map(|own| own.rss_bytes),
        },
    })
}

/// Since the start of this program; batches the spool evicted, over its life.
fn losses(loss: &Loss, spool: &Stats) -> Value {
    let gone = spool.evicted.plus(spool.corrupt);
    json!({
        "n_lines_rejected": loss.n_lines_rejected,
        "n_lines_lost": loss.n_lines_lost + gone.n_lines,
        "n_bytes_rejected": loss.n_bytes_rejected,
        "n_bytes_lost": loss.n_bytes_lost + gone.n_bytes,
        "n_bytes_evicted": gone.n_bytes,
        "n_bytes_recovered": loss.n_bytes_recovered,
        "n_batches_evicted": spool.n_batches_evicted,
        "n_truncations": loss.n_truncations,
        "n_lines_too_long": loss.n_lines_too_long,
        "n_exemplars_dropped": loss.n_exemplars_dropped,
        "n_lines_other": loss.n_lines_other,
        "n_times_clamped": loss.n_times_clamped,
        "n_spool_records_corrupt": spool.n_records_corrupt,
        "n_events_dropped": loss.n_events_dropped,
    })
}

/// What became of every byte of every log since the start: seen = counted + rejected + lost.
fn ledger(files: &[FileStatus]) -> Value {
    let sum = |number: fn(&FileStatus) -> u64| files.iter().map(number).sum::<u64>();
    json!({
        "n_lines": sum(|file| file.n_lines),
        "n_bytes_seen": sum(|file| file.n_bytes_seen),
        "n_bytes_counted": sum(|file| file.n_bytes_counted),
        "n_bytes_rejected": sum(|file| file.n_bytes_rejected),
        "n_bytes_lost": sum(|file| file.n_bytes_lost),
    })
}

fn file(file: &FileStatus) -> Value {
    json!({
        "path": file.path,
        "site": file.site,
        "format": file.format,
        "read": file.read,
        "size": file.size,
        "spooled": file.spooled,
        "acked": file.acked,
        "n_lines": file.n_lines,
        "n_rejected": file.n_rejected,
        "rejected": file.rejects.n_by_reason,
        "skipped": file.rejects.n_skipped,
        "rejected_samples": file.rejects.samples.iter().map(|sample| json!({
            "read_at": sample.read_at.to_rfc3339(),
            "reason": sample.reason,
            "line": sample.line,
        })).collect::<Vec<_>>(),
        "n_bytes_seen": file.n_bytes_seen,
        "n_bytes_counted": file.n_bytes_counted,
        "n_bytes_rejected": file.n_bytes_rejected,
        "n_bytes_lost": file.n_bytes_lost,
        "n_bytes_recovered": file.n_bytes_recovered,
        "n_truncations": file.n_truncations,
        "problem": file.problem,
        "note": file.note,
    })
}

/// Asks the running agent; its JSON as it came.
pub fn ask(socket: &Path) -> Result<String, StatusError> {
    let path = socket.to_owned();
    let read = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => StatusError::Forbidden { path: path.clone() },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let reason = format!("silent for {} s", ASK_TIMEOUT.as_secs());
            StatusError::Answer { path: path.clone(), reason }
        }
        _ => StatusError::NotRunning { path: path.clone(), source },
    })?;
    match serde_json::from_str::<text::Shown>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(StatusError::Answer { path, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Volume;
    use wire::UnixMillis;

    fn example() -> (GatherStatus, UplinkStatus, Stats) {
        let gather = GatherStatus {
            files: vec![FileStatus {
                path: "/var/log/nginx/a.log".into(),
                site: "a.example".into(),
                format: "combined".into(),
                read: 300,
                spooled: 200,
                acked: 100,
                n_lines: 3,
                n_bytes_seen: 330,
                n_bytes_counted: 200,
                n_bytes_rejected: 100,
                n_bytes_lost: 30,
                ..FileStatus::default()
            }],
            loss: Loss { n_bytes_lost: 30, ..Loss::default() },
            complete_until: UnixMillis(1_795_176_067_000),
            ..GatherStatus::default()
        };
        let uplink = UplinkStatus { state: "connected", ..UplinkStatus::default() };
        let spool = Stats {
            seq_last: 9,
            seq_acked: 7,
            bytes_unacked: 50,
            n_batches_evicted: 2,
            evicted: Volume { n_lines: 11, n_bytes: 1100 },
            ..Stats::default()
        };
        (gather, uplink, spool)
    }

    #[test]
    fn the_json_has_every_field_of_the_contract() {
        let (gather, uplink, spool) = example();
        let report = report(&gather, &uplink, &spool);
        for key in ["uplink", "spool", "loss", "files", "self"] {
            assert!(report.get(key).is_some(), "{key}");
        }
        for key in ["n_lines_rejected", "n_lines_lost", "n_bytes_lost", "n_batches_evicted"] {
            assert!(report["loss"][key].is_u64(), "{key}");
        }
        assert_eq!(report["loss"]["n_bytes_lost"], 1130, "vanished and evicted");
        assert_eq!(report["ledger"]["n_bytes_seen"], 330);
        let file = &report["files"][0];
        for key in ["read", "spooled", "acked", "n_lines", "n_rejected"] {
            assert!(file[key].is_u64(), "{key}");
        }
        assert_eq!(file["path"], "/var/log/nginx/a.log");
        assert_eq!((&file["site"], &file["format"]), (&json!("a.example"), &json!("combined")));
        assert_eq!((&file["acked"], &report["loss"]["n_lines_lost"]), (&json!(100), &json!(11)));
        assert!(report["self"]["cpu_seconds"].is_f64());
        assert!(report["self"]["rss_bytes"].is_u64());
    }

    #[tokio::test]
    async fn the_socket_answers_and_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/agent.sock");
        let (spool, _) = Spool::open(&dir.path().join("spool"), 1 << 24, UnixMillis(1)).unwrap();
        let (gather, uplink, _) = example();
        let (_gather_tx, gather) = watch::channel(gather);
        let (_uplink_tx, uplink) = watch::channel(uplink);
        let spool = Arc::new(Mutex::new(spool));
        let sources = Sources { gather, uplink, spool, latest: Latest::default() };
        let stop = CancellationToken::new();
        assert!(matches!(ask(&socket), Err(StatusError::NotRunning { .. })));
        let server = tokio::spawn(serve(socket.clone(), sources, stop.clone()));
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let asked = socket.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&asked)).await.unwrap().unwrap();
        let text = render(&answer);
        assert!(text.contains("/var/log/nginx/a.log (a.example, combined)"), "{text}");
        assert!(text.contains("330 B seen = 200 B counted + 100 B rejected + 30 B lost"), "{text}");
        assert!(text.contains("n_bytes_lost 30\n"), "{text}");
        stop.cancel();
        server.await.unwrap();
        assert!(!socket.exists());
    }
}
