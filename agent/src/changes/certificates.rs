//! Until when a certificate is valid: a small, total walk over its DER.

use wire::UnixMillis;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the first certificate in a PEM file; `None` when there is none or it is odd.
pub(super) fn valid_until(pem: &[u8]) -> Option<UnixMillis> {
    let text = String::from_utf8_lossy(pem);
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    not_after(&base64(body.as_bytes())?)
}

fn not_after(der: &[u8]) -> Option<UnixMillis> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = any(rest)?.2;
    }
    for _ in ["serial number", "algorithm", "issuer"] {
        rest = any(rest)?.2;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, _, rest) = any(validity)?;
    let (tag, until, _) = any(rest)?;
    time(tag, std::str::from_utf8(until).ok()?)
}

/// The content of an element of this kind, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any(der)?;
    (found == tag).then_some((content, rest))
}

/// Tag, content and what follows of the first element.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = der else { return None };
    let (length, rest) = match length {
        ..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `270201120000Z`, `20500201120000Z`.
fn time(tag: u8, text: &str) -> Option<UnixMillis> {
    let text = text.strip_suffix('Z')?;
    let whole = match tag {
        // Two digits of a year are of 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let at = jiff::fmt::strtime::parse("%Y%m%d%H%M%S", &whole).ok()?.to_datetime().ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(UnixMillis(at.timestamp().as_millisecond()))
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0_u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ if byte.is_ascii_whitespace() => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            out.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pem: &str, want: Option<&str>) {
        let until = valid_until(pem.as_bytes()).map(|at| at.to_rfc3339()[..10].to_owned());
        assert_eq!(until.as_deref(), want, "{pem}");
    }

    fn made(year: i32) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 2, 1);
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        check(&made(2027), Some("2027-02-01"));
        check(&made(2051), Some("2051-02-01"));
        check(&format!("-----BEGIN PRIVATE KEY-----\nAA==\n{}", made(2028)), Some("2028-02-01"));
    }

    #[test]
    fn odd_files_have_none_and_do_no_harm() {
        check("", None);
        check("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", None);
        check("-----BEGIN CERTIFICATE-----\nMIT/////\n-----END CERTIFICATE-----", None);
        let whole = made(2027);
        for end in 0..whole.len() {
            let torn = format!("{}\n-----END CERTIFICATE-----", &whole[..end]);
            // Torn behind its dates it still has them.
            if let Some(at) = valid_until(torn.as_bytes()) {
                assert_eq!(&at.to_rfc3339()[..10], "2027-02-01");
            }
        }
    }
}
