//! As much of HTTP as a question to a server of this machine needs: one request, one short answer.

use super::dial::Failure;
use crate::own_requests::user_agent;
use wire::v1::Signal;

/// Longest host that is asked for.
const HOST_BYTES_MAX: usize = 253;

/// One request after which the server closes the connection. HTTP/1.0: no chunks come back.
pub(super) fn request(method: &str, path: &str, host: &str) -> Option<Vec<u8>> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_word(path) || !is_word(host) || host.len() > HOST_BYTES_MAX {
        return None;
    }
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: {}\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n",
        user_agent()
    );
    Some(request.into_bytes())
}

/// The status of an answer; `None` while its first line is not whole or is no HTTP.
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&answer[..end]).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?;
    let status: u16 = rest.get(..3)?.parse().ok()?;
    (100..600).contains(&status).then_some(status)
}

/// True when nothing more is wanted of an answer to `HEAD`.
pub(super) fn has_status(answer: &[u8]) -> bool {
    answer.contains(&b'\n')
}

/// The text of an answer with status 200.
pub(super) fn body(answer: &[u8]) -> Result<String, Failure> {
    let status = status(answer);
    if status != Some(200) {
        let words =
            status.map_or("an answer that is no HTTP".to_owned(), |s| format!("status {s}"));
        return Err(Failure::new(Signal::Other, words));
    }
    let text = String::from_utf8_lossy(answer);
    let body = text.split_once("\r\n\r\n").or_else(|| text.split_once("\n\n"));
    Ok(body.map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_or_refused() {
        for (answer, want) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\nmore", Ok("body\r\n\r\nmore")),
            ("HTTP/1.0 200\n\nx", Ok("x")),
            ("HTTP/1.1 200 OK\r\n", Ok("")),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Err("status 403")),
            ("HTTP/1.1 999 Odd\r\n\r\n", Err("an answer that is no HTTP")),
            ("HTTP/2 200\r\n\r\n", Err("an answer that is no HTTP")),
            ("SSH-2.0-x\r\n", Err("an answer that is no HTTP")),
            ("HTTP/1.1 é00\r\n", Err("an answer that is no HTTP")),
            ("", Err("an answer that is no HTTP")),
        ] {
            let got = body(answer.as_bytes());
            assert_eq!(got.as_deref().map_err(|f| f.words.as_str()), want, "{answer:?}");
        }
        assert!(!has_status(b"HTTP/1.1 200 OK") && has_status(b"HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn a_host_or_path_cannot_smuggle_a_second_request() {
        assert!(request("HEAD", "/", "a.example").is_some());
        for (path, host) in
            [("/", "a\r\nX: y"), ("/ x", "a.example"), ("/\r\n", "a"), ("/", ""), ("", "a")]
        {
            assert_eq!(request("GET", path, host), None, "{path:?} {host:?}");
        }
        assert_eq!(request("GET", "/", &"a".repeat(300)), None);
    }
}
