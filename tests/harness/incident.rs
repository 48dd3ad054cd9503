//! An incident as the contract's JSON tells it, with what the tests ask of it.

use serde_json::Value;
use wire::UnixMillis;

/// One incident.
#[derive(Clone, Debug)]
pub struct Incident {
    json: Value,
}

impl Incident {
    /// Reads JSON lines, one incident each.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, String> {
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let json = serde_json::from_str(line).map_err(|e| format!("{e} in {line:?}"))?;
                Ok(Self { json })
            })
            .collect()
    }

    /// An incident out of a larger message.
    #[must_use]
    pub fn from_json(json: &Value) -> Self {
        Self { json: json.clone() }
    }

    /// The whole object.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Text at a JSON pointer; empty when there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Number at a JSON pointer.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        let value = self.json.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in {}", self.json))
    }

    /// Texts of the list at a JSON pointer, sorted.
    #[must_use]
    pub fn texts(&self, pointer: &str) -> Vec<String> {
        let list = self.json.pointer(pointer).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("no list at {pointer} in {}", self.json));
        let mut texts: Vec<String> =
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        texts.sort();
        texts
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("/id")
    }

    /// `site`, `pool`, `server` or `group`.
    #[must_use]
    pub fn scope(&self) -> &str {
        self.text("/scope")
    }

    /// True while it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.text("/state") == "open"
    }

    /// True when it is no child of another one: what an operator is told.
    #[must_use]
    pub fn is_top(&self) -> bool {
        self.json.pointer("/parent").is_none_or(Value::is_null)
    }

    /// The failing sites.
    #[must_use]
    pub fn sites(&self) -> Vec<String> {
        self.texts("/where/sites")
    }

    /// Cause class.
    #[must_use]
    pub fn cause(&self) -> &str {
        self.text("/cause/class")
    }

    /// When something last happened to it: it opened, widened, went into another one, ended. A new guess
    /// at its cause does not count.
    #[must_use]
    pub fn last_moment_ms(&self) -> Option<i64> {
        let moments = self.json.pointer("/timeline").and_then(Value::as_array)?.iter();
        let happened = |moment: &&Value| {
            moment["what"].as_str().is_some_and(|what| !what.starts_with("cause: "))
        };
        let at = |moment: &Value| UnixMillis::parse_rfc3339(moment["at"].as_str()?);
        moments.filter(happened).filter_map(at).map(|at| at.0).max()
    }

    /// Instant at a JSON pointer, milliseconds since the epoch.
    #[must_use]
    pub fn at_ms(&self, pointer: &str) -> i64 {
        let text = self.text(pointer);
        let at = UnixMillis::parse_rfc3339(text);
        at.unwrap_or_else(|| panic!("no time at {pointer} in {}", self.json)).0
    }
}
