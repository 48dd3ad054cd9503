//! Asks the collector over HTTP, as an admin.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::fleet::Fleet;

impl Fleet {
    /// Status line with headers, and body, of a GET; `more` are further header lines, each with its end.
    #[must_use]
    pub fn http_get(&self, path: &str, more: &str) -> (String, Vec<u8>) {
        // As the collector sees it, which may have a disk of its own mounted there.
        let root = format!("/proc/{}/root{}", self.collector().pid(), self.data_dir().display());
        let read = |name: &str| {
            let text = fs::read_to_string(format!("{root}/{name}")).expect("the collector runs");
            text.trim().to_owned()
        };
        let mut stream = TcpStream::connect(read("http.addr")).expect("the collector listens");
        // Version 1.0: the body ends with the connection.
        let token = read("admin.token");
        let request = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("headers have an end");
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).expect("headers are ASCII"), body)
    }

    /// Requests of a server by site and status, as the collector counts them: sealed hours and the rest.
    pub fn counted(&self, server: &str) -> Result<BTreeMap<(String, String), u64>, String> {
        let (head, body) = self.http_get(&format!("/api/v1/counts?server={server}"), "");
        let text = String::from_utf8_lossy(&body);
        let told = |e: &dyn std::fmt::Display| format!("{e}: {head}\n{text}");
        let answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| told(&e))?;
        let mut counted = BTreeMap::new();
        let sites = answer["sites"].as_object().ok_or_else(|| told(&"no sites"))?;
        for (site, by_status) in sites {
            for (status, n) in by_status.as_object().ok_or_else(|| told(&"no statuses"))? {
                let n = n.as_u64().ok_or_else(|| told(&"no number"))?;
                counted.insert((site.clone(), status.clone()), n);
            }
        }
        Ok(counted)
    }
}
