//! The same ticks for VictoriaMetrics: remote write, snappy over protobuf, one request a batch, on as
//! many HTTP connections as there are agents. Without TLS, which it would pay for as well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatewatch_collector::clock;
use prost::Message;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::agents::{Failed, LIMIT, name, now_s};
use crate::fleet::Tally;
use crate::values::{METRICS, Machine, SERIES};

/// As for agents: ticks of the past, a second apart.
const AGO_S: i64 = 3300;

/// prometheus.WriteRequest
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) timeseries: Vec<TimeSeries>,
}

/// prometheus.TimeSeries
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// prometheus.Sample
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

impl Sample {
    /// A value as the wire of agents carries it, in its own unit again.
    pub(crate) fn new(series: usize, scaled: i64, second: i64) -> Self {
        let value = scaled as f64 / METRICS[series].scale;
        Self { value, timestamp: second * 1000 }
    }
}

/// The first `n` series of a server, without samples.
pub(crate) fn series(server: u64, n: usize) -> Vec<TimeSeries> {
    let label = |name: &str, value: &str| Label { name: name.to_owned(), value: value.to_owned() };
    let one = |(metric, attribute): &(&str, &str)| {
        let metric = metric.replace('.', "_");
        let mut labels = vec![label("__name__", &metric), label("server", &name(server))];
        if let Some((key, value)) = attribute.split_once('=') {
            labels.push(label(&key.replace('.', "_"), value));
        }
        TimeSeries { labels, samples: Vec::new() }
    };
    SERIES.iter().take(n).map(one).collect()
}

/// A connection that writes.
pub(crate) struct Remote {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Remote {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, buffer: Vec::new() })
    }

    /// Posts a request and waits until it is taken.
    pub(crate) async fn write(&mut self, request: &WriteRequest) -> Result<(), Failed> {
        let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
        let head = format!(
            "POST /api/v1/write HTTP/1.1\r\nHost: {}\r\nContent-Encoding: snappy\r\n\
             Content-Type: application/x-protobuf\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.buffer.clear();
        self.buffer.extend_from_slice(head.as_bytes());
        self.buffer.extend_from_slice(&body);
        self.stream.write_all(&self.buffer).await?;
        self.buffer.clear();
        while !self.buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = self.stream.read_buf(&mut self.buffer);
            if tokio::time::timeout(LIMIT, read).await?? == 0 {
                return Err("the connection ended".into());
            }
        }
        if self.buffer.starts_with(b"HTTP/1.1 204") {
            return Ok(());
        }
        Err(format!("answered {:.300}", String::from_utf8_lossy(&self.buffer)).into())
    }
}

/// Each connection sends request after request, with so many ticks each.
pub(crate) async fn load(
    address: SocketAddr,
    (n, n_ticks): (usize, i64),
    pid: u32,
    (warm, span): (Duration, Duration),
) -> Result<Value, Failed> {
    let tally = Arc::new(Tally::default());
    let mut running = JoinSet::new();
    for server in 0..n as u64 {
        let mut remote = Remote::connect(address).await?;
        let tally = Arc::clone(&tally);
        running.spawn(async move {
            let mut machine = Machine::new(server);
            let mut request = WriteRequest { timeseries: series(server, SERIES.len()) };
            let mut second = now_s() - AGO_S;
            loop {
                request.timeseries.iter_mut().for_each(|series| series.samples.clear());
                for _ in 0..n_ticks {
                    second += 1;
                    let row = machine.sample(second);
                    for (no, (series, value)) in request.timeseries.iter_mut().zip(row).enumerate()
                    {
                        series.samples.push(Sample::new(no, value, second));
                    }
                }
                let began = clock::instant();
                if let Err(why) = remote.write(&request).await {
                    return tally.lost(&why);
                }
                tally.acked(&[began.elapsed()]);
            }
        });
    }
    let measured = tally.measure(warm, span, pid, n_ticks).await;
    running.shutdown().await;
    Ok(measured)
}
