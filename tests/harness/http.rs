//! Asks the collector over HTTP, as an admin.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::fleet::Fleet;

impl Fleet {
    /// Status line with headers, and body, of a GET; `more` are further header lines, each with its end.
    #[must_use]
    pub fn http_get(&self, path: &str, more: &str) -> (String, Vec<u8>) {
        let read = |name: &str| {
            let text = fs::read_to_string(self.data_dir().join(name)).expect("the collector runs");
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
}
