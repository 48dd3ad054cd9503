//! A FastCGI client as small as one question needs: build the request, take the answer apart. Pure.
//!
//! Records have a head of 8 bytes: version 1, type, request number, length of the content, padding.

/// Most bytes of an answer that are read, heads of records included.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const REQUEST: u16 = 1;
const HEAD_BYTES: usize = 8;

/// The bytes that ask for a page as `GET`; PHP-FPM finds its status page by `SCRIPT_NAME`.
pub(super) fn request(path: &str, query: &str) -> Vec<u8> {
    let params = [
        ("SCRIPT_NAME", path),
        ("SCRIPT_FILENAME", path),
        ("REQUEST_URI", path),
        ("QUERY_STRING", query),
        ("REQUEST_METHOD", "GET"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "gatewatch"),
        ("REMOTE_ADDR", "127.0.0.1"),
    ];
    let mut encoded = Vec::new();
    for (name, value) in params {
        for len in [name.len(), value.len()] {
            // The high bit marks a length of four bytes.
            encoded.extend((len as u32 | 0x8000_0000).to_be_bytes());
        }
        encoded.extend(name.as_bytes());
        encoded.extend(value.as_bytes());
    }
    let mut bytes = Vec::new();
    // Role 1, responder; no flag: the connection is closed after the answer.
    push_record(&mut bytes, BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    for part in encoded.chunks(usize::from(u16::MAX)) {
        push_record(&mut bytes, PARAMS, part);
    }
    push_record(&mut bytes, PARAMS, &[]);
    push_record(&mut bytes, STDIN, &[]);
    bytes
}

fn push_record(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    bytes.extend([1, kind]);
    bytes.extend(REQUEST.to_be_bytes());
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(content);
}

/// What is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// It ended, or went on beyond all bounds, before it was whole.
    #[error("the answer is not whole")]
    Cut,
    /// Not the protocol.
    #[error("the answer is not FastCGI")]
    Protocol,
    /// A page with another status.
    #[error("the answer has status {0}")]
    Status(u16),
}

/// True when all records up to the last one are there; an error when they are no records.
pub(super) fn is_whole(answer: &[u8]) -> Result<bool, AnswerError> {
    let mut records = Records(answer);
    while let Some((kind, _)) = records.next()? {
        if kind == END_REQUEST {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The body of the page in a whole answer.
pub(super) fn body(answer: &[u8]) -> Result<Vec<u8>, AnswerError> {
    let mut page = Vec::new();
    let mut records = Records(answer);
    loop {
        match records.next()? {
            None => return Err(AnswerError::Cut),
            Some((END_REQUEST, _)) => break,
            Some((STDOUT, content)) => page.extend(content),
            Some(_) => {}
        }
    }
    let (head, body) = [&b"\r\n\r\n"[..], b"\n\n"]
        .iter()
        .find_map(|end| {
            let at = memchr::memmem::find(&page, end)?;
            Some((&page[..at], &page[at + end.len()..]))
        })
        .ok_or(AnswerError::Protocol)?;
    let head = String::from_utf8_lossy(head);
    let status = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("status").then(|| value.trim().get(..3)?.parse().ok()).flatten()
    });
    match status {
        None | Some(200) => Ok(body.to_vec()),
        Some(status) => Err(AnswerError::Status(status)),
    }
}

/// Type and content of one record after the other; `None` where the next one is not whole yet.
struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, AnswerError> {
        let Some(head) = self.0.get(..HEAD_BYTES) else { return Ok(None) };
        if head[0] != 1 {
            return Err(AnswerError::Protocol);
        }
        let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let padding = usize::from(head[6]);
        let Some(content) = self.0.get(HEAD_BYTES..HEAD_BYTES + len) else { return Ok(None) };
        let Some(rest) = self.0.get(HEAD_BYTES + len + padding..) else { return Ok(None) };
        self.0 = rest;
        Ok(Some((head[1], content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(page: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (first, second) = page.split_at(page.len() / 2);
        for part in [first, second] {
            bytes.extend([1, STDOUT, 0, 1]);
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend([3, 0]);
            bytes.extend(part);
            bytes.extend([0; 3]);
        }
        push_record(&mut bytes, 7, b"a word on stderr");
        push_record(&mut bytes, END_REQUEST, &[0; 8]);
        bytes
    }

    #[test]
    fn a_page_comes_out_of_its_records() {
        let check = |page: &str, want: Result<&str, AnswerError>| {
            let whole = answer(page.as_bytes());
            assert_eq!(is_whole(&whole), Ok(true));
            assert_eq!(body(&whole), want.map(|body| body.as_bytes().to_vec()), "{page:?}");
            for end in 0..whole.len() {
                assert_eq!(is_whole(&whole[..end]), Ok(false), "cut at {end}");
                assert_eq!(body(&whole[..end]), Err(AnswerError::Cut), "cut at {end}");
            }
        };
        check("Content-type: application/json\r\n\r\n{\"pool\":\"www\"}", Ok("{\"pool\":\"www\"}"));
        check("X: y\n\nbody\n\nmore", Ok("body\n\nmore"));
        check("Status: 200 OK\r\n\r\n", Ok(""));
        check("Status: 404 Not Found\r\n\r\nFile not found.\n", Err(AnswerError::Status(404)));
        check("status:403\r\n\r\n", Err(AnswerError::Status(403)));
        check("Status: \u{e9}\u{e9}\r\n\r\nx", Ok("x"));
        check("no end of the head", Err(AnswerError::Protocol));
    }

    #[test]
    fn what_is_no_fastcgi_is_refused() {
        for text in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 64], &[0xFF; 64]] {
            assert_eq!(is_whole(text), Err(AnswerError::Protocol));
            assert_eq!(body(text), Err(AnswerError::Protocol));
        }
        assert_eq!(is_whole(b""), Ok(false));
    }

    #[test]
    fn a_request_is_whole_records_with_its_params() {
        let bytes = request("/fpm/status", "json");
        let mut records = Records(&bytes);
        let mut kinds = Vec::new();
        while let Some((kind, content)) = records.next().unwrap() {
            kinds.push((kind, content.is_empty()));
            if kind == PARAMS && !content.is_empty() {
                let value = b"\x80\0\0\x0b\x80\0\0\x0bSCRIPT_NAME/fpm/status";
                assert!(content.starts_with(value));
            }
        }
        assert!(records.0.is_empty());
        let want = [(BEGIN_REQUEST, false), (PARAMS, false), (PARAMS, true), (STDIN, true)];
        assert_eq!(kinds, want);
    }
}
