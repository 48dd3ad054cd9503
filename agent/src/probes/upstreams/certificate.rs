//! When a certificate ends: the one date that is wanted of its DER. Pure and total.

use wire::UnixMillis;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`, which holds the version.
const VERSION: u8 = 0xa0;

/// `notAfter` of an X.509 certificate; `None` for what is none.
///
/// `Certificate { tbsCertificate { [0] version?, serialNumber, signature, issuer, validity { notBefore,
/// notAfter }, ... } }` (RFC 5280, section 4.1).
pub(super) fn not_after(der: &[u8]) -> Option<UnixMillis> {
    let (certificate, _) = expect(SEQUENCE, der)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if rest.first() == Some(&VERSION) {
        (_, rest) = expect(VERSION, rest)?;
    }
    (_, rest) = expect(INTEGER, rest)?; // serial number
    (_, rest) = expect(SEQUENCE, rest)?; // algorithm of the signature
    (_, rest) = expect(SEQUENCE, rest)?; // issuer
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (_, _, rest) = element(validity)?; // not before
    let (tag, text, _) = element(rest)?;
    time(tag, text)
}

/// The content of an element of this kind, and what follows it.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// Tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (n_bytes, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        // The long form; what needs more than three bytes is no certificate.
        let n_digits = usize::from(first & 0x7f);
        if n_digits == 0 || n_digits > 3 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(n_digits)?;
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(n_bytes)?;
    Some((*tag, content, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(tag: u8, text: &[u8]) -> Option<UnixMillis> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0_i16, |sum, d| sum * 10 + i16::from(d - b'0'));
    let (year, rest) = match tag {
        UTC_TIME if digits.len() == 12 => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        GENERALIZED_TIME if digits.len() == 14 => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| i8::try_from(number(&rest[at..at + 2])).ok();
    let when =
        jiff::civil::DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0);
    let when = when.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(UnixMillis(when.timestamp().as_millisecond()))
}

/// `2026-12-03`.
pub(super) fn day(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| "a day out of range".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 11, 30);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_last_day_of_a_certificate_is_found_in_either_form_of_a_time() {
        for (year, want) in [(2026, "2026-11-30"), (2049, "2049-11-30"), (2050, "2050-11-30")] {
            assert_eq!(not_after(&certificate(year)).map(day).as_deref(), Some(want));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_last_day() {
        let whole = certificate(2030);
        for n in 0..whole.len().min(200) {
            let cut = &whole[..n];
            assert_eq!(not_after(cut), None, "the first {n} bytes");
        }
        for (tag, text) in [
            (UTC_TIME, &b"261301000000Z"[..]),
            (UTC_TIME, b"2611300000Z"),
            (UTC_TIME, b"26113000000\xffZ"),
            (UTC_TIME, b"261130000000"),
            (GENERALIZED_TIME, b"99999999999999Z"),
            (INTEGER, b"261130000000Z"),
            (UTC_TIME, b""),
        ] {
            assert_eq!(time(tag, text), None, "{text:?}");
        }
        assert_eq!(element(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(element(&[0x30, 0x80]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = not_after(&bytes);
        }

        #[test]
        fn a_certificate_with_a_wrong_byte_is_read_without_a_panic(at in 0_usize..300, byte: u8) {
            let mut der = certificate_once().clone();
            let at = at % der.len();
            der[at] = byte;
            let _ = not_after(&der);
        }
    }

    fn certificate_once() -> &'static Vec<u8> {
        static ONE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        ONE.get_or_init(|| certificate(2030))
    }
}
