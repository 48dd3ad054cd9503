//! The line to one receiver: all a teller knows of a route. Here a message becomes what is sent.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chart::Chart;
use super::context::Library;
use super::{Event, Message, Page, SendError, Sender, Target};
use crate::clock;
use crate::model::Incident;

/// After how long a try is cut off whatever it waits for. A receiver over HTTP has 10 s of it, the
/// rest is the store's. A mail server may greet slowly, to see who cannot wait.
const ANSWER_MAX: Duration = Duration::from_secs(15);
const MAIL_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Letters of one route that are kept for their next try; of more, the oldest are made again.
const KEPT_MAX: usize = 32;

/// One try, on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;
/// Sends a message once.
pub(super) type SendOnce = Arc<dyn Fn(Message) -> Sending + Send + Sync>;
/// Sends again what the receiver was told of incidents that are not over.
pub(super) type Again = Arc<dyn Fn(Vec<Incident>) -> Sending + Send + Sync>;

/// A line to a receiver; cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    /// Name of the route.
    pub(super) route: String,
    /// Where it goes, for logs.
    pub(super) to: String,
    /// Messages a minute at most.
    pub(super) per_minute: u32,
    /// After so long without an answer a try is cut off.
    pub(super) answer_max: Duration,
    /// Sends once.
    pub(super) send: SendOnce,
    /// A receiver that forgets is told again so often.
    pub(super) again: Option<(Duration, Again)>,
}

impl Line {
    /// The line to a configured receiver; `links` is what the address of an incident begins with.
    pub(super) fn new(library: &Library, target: Target, links: &str) -> Self {
        let Target { route, sender, messages_per_minute_max, kind, again_every, .. } = target;
        let to = sender.place();
        let is_for_people = !["webhook", "alertmanager"].contains(&kind.as_str());
        let answer_max = if kind == "email" { MAIL_ANSWER_MAX } else { ANSWER_MAX };
        let again = again_every.map(|every| (every, again(sender.clone(), links.to_owned())));
        let desk = Arc::new(Desk::new(library.clone(), links.to_owned(), is_for_people));
        let send = move |message: Message| -> Sending {
            let (sender, desk) = (sender.clone(), Arc::clone(&desk));
            Box::pin(async move {
                let letter = desk.letter(message).await;
                let Letter { message, page, chart } = &*letter;
                let sent = sender.send(message, page, chart.as_deref(), clock::now()).await;
                if sent.as_ref().map_or_else(|error| error.is_final, |()| true) {
                    desk.forget(&letter.message.delivery);
                }
                sent
            })
        };
        let (route, per_minute) = (route.name, messages_per_minute_max);
        Self { route, to, per_minute, answer_max, send: Arc::new(send), again }
    }
}

/// What is sent of a message: the same on every try.
#[derive(Debug)]
struct Letter {
    message: Message,
    page: Page,
    /// PNG.
    chart: Option<Vec<u8>>,
}

/// Makes letters, and keeps those that did not arrive.
struct Desk {
    library: Library,
    links: String,
    /// Whether people read it as it is: with the chart, and with what changed back.
    is_for_people: bool,
    /// By delivery, which is in order of time.
    kept: Mutex<BTreeMap<String, Arc<Letter>>>,
}

impl Desk {
    fn new(library: Library, links: String, is_for_people: bool) -> Self {
        Self { library, links, is_for_people, kept: Mutex::default() }
    }

    /// The letter of a message, made before its first try.
    async fn letter(&self, mut message: Message) -> Arc<Letter> {
        if let Some(letter) = self.kept().get(&message.delivery) {
            return Arc::clone(letter);
        }
        // What only the store knows joins the message here. A receiver that shows neither is not kept
        // waiting for it.
        let context =
            if self.is_for_people { self.library.gather(&message).await } else { Arc::default() };
        message.changed_back = message.changed_back.take().or_else(|| context.changed_back.clone());
        let page = Page::new(&message, &self.links, context.chart.as_ref());
        let chart = context.chart.as_ref().map(Chart::png);
        let letter = Arc::new(Letter { message, page, chart });
        let mut kept = self.kept();
        kept.insert(letter.message.delivery.clone(), Arc::clone(&letter));
        while kept.len() > KEPT_MAX {
            kept.pop_first();
        }
        letter
    }

    fn forget(&self, delivery: &str) {
        self.kept().remove(delivery);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Letter>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All at once, as if each had just begun.
fn again(sender: Sender, links: String) -> Again {
    Arc::new(move |incidents| {
        let (sender, links) = (sender.clone(), links.clone());
        Box::pin(async move {
            let now = clock::now();
            let told = |incident: Incident| {
                let message = Message {
                    event: Event::Opened,
                    delivery: incident.id.clone(),
                    at: now,
                    reason: "it goes on".to_owned(),
                    incident: Some(incident),
                    before: None,
                    changed_back: None,
                    digest: Vec::new(),
                    report: None,
                };
                let page = Page::new(&message, &links, None);
                (message, page)
            };
            let told: Vec<(Message, Page)> = incidents.into_iter().map(told).collect();
            sender.send_again(&told, now).await
        })
    })
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("route", &self.route).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_letter_is_made_once_while_its_message_is_tried_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::new(Store::open(dir.path()).unwrap());
        let desk = Desk::new(library, "http://gw".to_owned(), true);
        let message = |n: usize| Message {
            event: Event::Opened,
            delivery: format!("D{n:03}"),
            at: clock::now(),
            reason: String::new(),
            incident: Some(crate::samples::incident()),
            before: None,
            changed_back: None,
            digest: Vec::new(),
            report: None,
        };
        let first = desk.letter(message(0)).await;
        assert!(Arc::ptr_eq(&first, &desk.letter(message(0)).await), "the same letter");
        for n in 1..=KEPT_MAX {
            desk.letter(message(n)).await;
        }
        assert_eq!(desk.kept().len(), KEPT_MAX);
        assert!(!desk.kept().contains_key("D000"), "the oldest is made again");
        desk.forget("D001");
        assert_eq!(desk.kept().len(), KEPT_MAX - 1);
    }

    #[tokio::test]
    async fn a_letter_for_people_has_the_chart_and_says_what_changed_back_and_one_for_programs_not()
    {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = crate::notify::context::tests::store(&dir).await;
        for is_for_people in [true, false] {
            let library = Library::new(store.clone());
            let desk = Desk::new(library, "http://gw".to_owned(), is_for_people);
            let told = crate::notify::context::tests::told(Event::Resolved, Some(incident.clone()));
            let letter = desk.letter(told).await;
            let back = letter.page.resolved.as_ref().and_then(|over| over.changed_back.as_deref());
            let is_told = back.is_some_and(|back| back.contains("php8.2-fpm.service"));
            assert_eq!(
                (is_told, letter.chart.is_some()),
                (is_for_people, is_for_people),
                "{back:?}"
            );
            assert_eq!(letter.page.spark.is_some(), is_for_people);
        }
    }
}
