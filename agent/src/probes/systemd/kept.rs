//! Signals that come while a listing waits for its answers: any user may send more of them than a
//! connection takes before somebody reads them.

use zbus::Message;

/// Signals of systemd kept while a listing waits for its answers.
const KEPT_MAX: usize = 256;
/// A signal of systemd is some 1 KiB; a larger one is not kept.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Signals that came while a listing was under way.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) signals: Vec<Message>,
    pub(super) has_lost: bool,
}

impl Kept {
    pub(super) fn take(&mut self, signal: Message) {
        if self.signals.len() < KEPT_MAX && signal.data().len() <= KEPT_BYTES_MAX {
            self.signals.push(signal);
        } else {
            self.has_lost = true;
        }
    }
}

/// True for a signal of systemd, or any while it is not known who that is.
pub(super) fn is_of(signal: &Message, owner: &str) -> bool {
    owner.is_empty() || signal.header().sender().is_some_and(|sender| sender.as_str() == owner)
}

/// The bus itself writes who sent a message.
pub(super) fn sender_of(answer: &Message) -> String {
    answer.header().sender().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_signals_is_kept_up_to_a_limit() {
        let signal = |text: &str| {
            Message::signal("/a", super::super::PROPERTIES, "PropertiesChanged")
                .build(&text)
                .unwrap()
        };
        let mut kept = Kept::default();
        kept.take(signal(&"x".repeat(2 * KEPT_BYTES_MAX)));
        assert_eq!((kept.signals.len(), kept.has_lost), (0, true));
        let mut kept = Kept::default();
        for _ in 0..KEPT_MAX {
            kept.take(signal("a"));
        }
        assert!(!kept.has_lost);
        kept.take(signal("a"));
        assert_eq!((kept.signals.len(), kept.has_lost), (KEPT_MAX, true));
        assert!(is_of(&signal("a"), "") && !is_of(&signal("a"), ":1.7"));
    }
}
