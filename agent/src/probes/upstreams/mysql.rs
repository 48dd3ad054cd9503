//! What MySQL says first: a greeting, or why it has no room. Nothing is sent, nobody logs in.

use wire::v1::Signal;

use super::dial::Failure;

/// Longest first packet that is read: a greeting has some 80 to 120 bytes.
pub(super) const BYTES_MAX: usize = 1024;

const TOO_MANY_CONNECTIONS: u16 = 1040;
const HOST_IS_BLOCKED: u16 = 1129;

/// Header of a packet: three bytes of length, one of sequence.
const HEADER: usize = 4;

/// True once the first packet is whole.
pub(super) fn is_whole(answer: &[u8]) -> bool {
    let Some([a, b, c, _]) = answer.first_chunk::<HEADER>() else { return false };
    answer.len() - HEADER >= u32::from_le_bytes([*a, *b, *c, 0]) as usize
}

/// What the first packet means.
pub(super) fn parse(answer: &[u8]) -> Result<(), Failure> {
    let odd = || Failure::new(Signal::Other, "it does not speak as MySQL does");
    let packet = answer.get(HEADER..).ok_or_else(odd)?;
    match packet.split_first() {
        // Version of the protocol, then that of the server.
        Some((9 | 10, _)) => Ok(()),
        // Its own text is not quoted: whoever listens there could write anything.
        Some((0xff, [low, high, ..])) => Err(match u16::from_le_bytes([*low, *high]) {
            TOO_MANY_CONNECTIONS => {
                Failure::new(Signal::TooManyConnections, "error 1040: Too many connections")
            }
            HOST_IS_BLOCKED => Failure::new(Signal::Permission, "error 1129: Host is blocked"),
            code => Failure::new(Signal::Other, format!("error {code}")),
        }),
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes();
        bytes[3] = 0;
        [&bytes, payload].concat()
    }

    #[test]
    fn a_greeting_is_good_and_an_error_says_why_there_is_no_room() {
        let check = |answer: &[u8], want: Result<(), (Option<Signal>, &str)>| {
            let got = parse(answer);
            let got = got.as_ref().copied().map_err(|f| (f.signal, f.words.as_str()));
            assert_eq!(got, want, "{answer:?}");
        };
        check(&packet(b"\x0a8.0.36\0\x08\0\0\0rest"), Ok(()));
        check(&packet(b"\x0a5.5.5-10.11.6-MariaDB\0"), Ok(()));
        let full = packet(b"\xff\x10\x04Too many connections");
        check(&full, Err((Some(Signal::TooManyConnections), "error 1040: Too many connections")));
        let blocked = packet(b"\xff\x69\x04Host 'a' is blocked\x1b[0m");
        check(&blocked, Err((Some(Signal::Permission), "error 1129: Host is blocked")));
        check(&packet(b"\xff\x01\x04forged: 502"), Err((Some(Signal::Other), "error 1025")));
        let odd = Err((Some(Signal::Other), "it does not speak as MySQL does"));
        for answer in [&b""[..], b"\0\0\0\0", b"HTTP/1.1 400", &packet(b"\xff\x10")] {
            check(answer, odd);
        }
    }

    #[test]
    fn a_packet_is_whole_when_its_length_says_so() {
        let whole = packet(b"\x0a8.0");
        assert!(is_whole(&whole));
        for n in 0..whole.len() {
            assert!(!is_whole(&whole[..n]), "{n} bytes");
        }
        assert!(!is_whole(&[0xff; 100]), "a length of 16 MiB is never whole: the limit ends it");
    }
}
