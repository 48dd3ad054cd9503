//! What a receiver's answer means: pure.

use std::time::Duration;

use jiff::fmt::rfc2822;
use serde_json::Value;
use wire::UnixMillis;

use super::escape;
use super::secret;
use super::sender::SendError;

/// Longest wait a receiver may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How much of an answer an error shows, UTF-16 units.
const SHOWN_MAX: usize = 200;

/// What is answered 400 or 422 although the message is well, in lower case: the key must be mended
/// (PagerDuty, Opsgenie), or the chat and the bot's rights in it (Telegram).
const WRONG_KEY: [&str; 3] = ["invalid routing key", "'routing_key'", "key format is not valid"];
const WRONG_CHAT: [&str; 9] = [
    "chat not found",
    "upgraded to a supergroup",
    "peer_id_invalid",
    "not enough rights to send text messages",
    "have no rights to send a message",
    "need administrator rights",
    "chat_write_forbidden",
    "topic_closed",
    "message thread not found",
];

/// An answer as it came: `body` are its first bytes.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Whether it was taken; `Err` says why not, without the texts of `secrets`.
///
/// 400, 413 and 422 are about the message and final. Wrong keys and addresses (401, 403, 404, 410, and
/// what is refused in words) are the operator's to mend, and everything else may pass: the message is
/// tried again.
pub fn judge(answer: &Answer<'_>, secrets: &[String], now: UnixMillis) -> Result<(), SendError> {
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let said = said(answer.body, secrets);
    let is_about_message = matches!(answer.status, 400 | 413 | 422);
    let lower = said.to_lowercase();
    let is_said = |words: &[&str]| is_about_message && words.iter().any(|w| lower.contains(w));
    let (is_key, is_chat) = (is_said(&WRONG_KEY), is_said(&WRONG_CHAT));
    let hint = match answer.status {
        300..=399 => ": redirects are not followed; give the address it redirects to",
        401 | 403 => ": is the secret the right one?",
        404 | 410 => ": is the address the right one?",
        _ if is_key => ": is the secret the right one?",
        _ if is_chat => ": is chat_id the right one, and may the bot write there?",
        _ => "",
    };
    let mut why = format!("the receiver answered {}{hint}", answer.status);
    if !said.is_empty() {
        why = format!("{why}: {said:?}");
    }
    Err(SendError {
        why,
        retry_after: retry_after(answer, now),
        is_final: is_about_message && !is_key && !is_chat,
    })
}

/// The beginning of an answer on one line, without any secret.
fn said(body: &[u8], secrets: &[String]) -> String {
    let text = secret::without(&escape::one_line(&String::from_utf8_lossy(body)), secrets);
    escape::cut(&text, SHOWN_MAX)
}

fn retry_after(answer: &Answer<'_>, now: UnixMillis) -> Option<Duration> {
    if !matches!(answer.status, 429 | 503) {
        return None;
    }
    let header = answer.retry_after.map(str::trim).and_then(|text| {
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let at = rfc2822::parse(text).ok()?.timestamp().as_millisecond();
        Some(UnixMillis(at).since(now))
    });
    // Discord says it in the body, Telegram in `parameters`, as seconds with a fraction.
    let in_body = || {
        let body: Value = serde_json::from_slice(answer.body).ok()?;
        let seconds = [&body["retry_after"], &body["parameters"]["retry_after"]];
        let seconds = seconds.into_iter().find_map(Value::as_f64)?;
        Duration::try_from_secs_f64(seconds).ok()
    };
    Some(header.or_else(in_body)?.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::START;

    fn judged(status: u16, retry_after: Option<&str>, body: &str) -> Result<(), SendError> {
        let secrets = ["s3cret\"key".to_owned()];
        judge(&Answer { status, retry_after, body: body.as_bytes() }, &secrets, START)
    }

    #[test]
    fn only_what_is_about_the_message_is_final() {
        for (status, body, expected) in [
            (200, "ok", None),
            (202, "", None),
            (204, "", None),
            (302, "", Some(false)),
            (400, "invalid_payload", Some(true)),
            (400, r#"{"description":"Bad Request: chat not found"}"#, Some(false)),
            (401, "", Some(false)),
            (403, "", Some(false)),
            (404, "", Some(false)),
            (408, "", Some(false)),
            (410, "", Some(false)),
            (413, "", Some(true)),
            (422, "", Some(true)),
            (429, "", Some(false)),
            (500, "", Some(false)),
            (503, "", Some(false)),
        ] {
            let is_final = judged(status, None, body).err().map(|error| error.is_final);
            assert_eq!(is_final, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_wrong_key_is_not_taken_for_a_wrong_message() {
        let (key, chat) = ("is the secret the right one?", "may the bot write there?");
        let telegram =
            |what: &str| format!(r#"{{"ok":false,"description":"Bad Request: {what}"}}"#);
        let pagerduty = |what: &str| {
            format!(
                r#"{{"status":"invalid event","message":"Event object is invalid","errors":["{what}"]}}"#
            )
        };
        for (status, body, expected) in [
            (400, pagerduty("Invalid routing key"), key),
            (400, pagerduty("Length of 'routing_key' is incorrect (should be 32 characters)"), key),
            (422, r#"{"message":"Key format is not valid!","took":0.0}"#.into(), key),
            (400, telegram("not enough rights to send text messages to the chat"), chat),
            (400, telegram("TOPIC_CLOSED"), chat),
            (400, telegram("chat not found"), chat),
        ] {
            let error = judged(status, None, &body).unwrap_err();
            assert!(!error.is_final, "{body}");
            assert!(error.why.contains(expected), "{}", error.why);
        }
        // A picture that may not be sent is left out, and its text arrives.
        let photo = telegram("not enough rights to send photos to the chat");
        assert!(judged(400, None, &photo).unwrap_err().is_final);
        assert!(
            judged(400, None, &pagerduty("'payload.summary' is missing")).unwrap_err().is_final
        );
    }

    #[test]
    fn a_receiver_is_given_the_time_it_asks_for_but_an_hour_at_most() {
        // The start is 2026-11-20T12:01:07Z.
        for (status, header, body, expected_ms) in [
            (429, Some("30"), "", Some(30_000)),
            (503, Some(" 5 "), "", Some(5_000)),
            (429, Some("Fri, 20 Nov 2026 12:02:07 GMT"), "", Some(60_000)),
            (429, Some("Fri, 20 Nov 2026 12:00:07 GMT"), "", Some(0)),
            (429, Some("99999999"), "", Some(3_600_000)),
            (429, Some("soon"), "", None),
            (429, None, r#"{"retry_after": 1.5, "global": false}"#, Some(1_500)),
            (429, None, r#"{"parameters": {"retry_after": 35}}"#, Some(35_000)),
            (429, None, r#"{"retry_after": -1}"#, None),
            (429, None, r#"{"retry_after": 1e300}"#, None),
            (429, None, "not JSON", None),
            (500, Some("30"), "", None),
        ] {
            let error = judged(status, header, body).unwrap_err();
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(error.retry_after, expected, "{status} {header:?} {body}");
        }
    }

    #[test]
    fn an_error_shows_a_bit_of_the_answer_and_never_a_secret() {
        let error = judged(400, None, "no\n\0 s3cret\"key or s3cret\\\"key \u{202e}\u{1b}[31m");
        let why = error.unwrap_err().why;
        assert!(why.contains("no \u{fffd} (secret) or (secret)"), "{why}");
        assert!(!why.contains("s3cret") && !why.contains('\u{1b}'), "{why}");
        let long = judged(500, None, &"x".repeat(5000)).unwrap_err().why;
        assert!(long.len() < 300, "{long}");
    }
}
