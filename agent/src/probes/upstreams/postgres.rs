//! Whether PostgreSQL answers: it is asked whether it speaks TLS, which takes no login.
//!
//! That it has no room it only tells who logs in; so its connections are counted from the kernel's.

use wire::v1::Signal;

use super::dial::Failure;

/// `SSLRequest`: length 8, code 80877103.
pub(super) const QUESTION: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answer is one byte; an error has a text behind it that is not wanted.
pub(super) const BYTES_MAX: usize = 1;

pub(super) fn is_whole(answer: &[u8]) -> bool {
    !answer.is_empty()
}

/// What the first byte means.
pub(super) fn parse(answer: &[u8]) -> Result<(), Failure> {
    match answer.first() {
        // It does, it does not, and as an old one refuses to say. It is there.
        Some(b'S' | b'N' | b'E') => Ok(()),
        _ => Err(Failure::new(Signal::Other, "it does not speak as PostgreSQL does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_of_postgresql_is_a_sign_of_life() {
        for (answer, is_up) in
            [(&b"S"[..], true), (b"N", true), (b"E", true), (b"H", false), (b"", false)]
        {
            assert_eq!(parse(answer).is_ok(), is_up, "{answer:?}");
        }
        assert_eq!(
            u32::from_be_bytes([QUESTION[4], QUESTION[5], QUESTION[6], QUESTION[7]]),
            80_877_103
        );
    }
}
