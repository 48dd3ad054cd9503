//! What fails again and again is said twice: when it begins and when it is over.

use crate::errors;

/// Whether something fails.
#[derive(Clone, Debug)]
pub struct Trouble {
    what: &'static str,
    is_failing: bool,
    /// Lines it said.
    pub n_said: u64,
}

impl Trouble {
    /// Of something that fails like this, in words.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, is_failing: false, n_said: 0 }
    }

    /// Notes how a try ended.
    pub fn note<T, E: std::error::Error + 'static>(&mut self, tried: &Result<T, E>) {
        match (tried, self.is_failing) {
            (Err(error), false) => {
                tracing::error!(error = %errors::chain(error), "{}", self.what);
            }
            (Ok(_), true) => tracing::info!("over: {}", self.what),
            _ => return,
        }
        self.is_failing = tried.is_err();
        self.n_said += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_for_long_is_said_when_it_begins_and_when_it_is_over() {
        let mut trouble = Trouble::new("it cannot be written");
        let mut said = Vec::new();
        for is_well in [true, false, false, false, true, true, false] {
            let tried = if is_well { Ok(()) } else { Err(std::io::Error::other("full")) };
            trouble.note(&tried);
            said.push(trouble.n_said);
        }
        assert_eq!(said, [0, 1, 1, 1, 2, 2, 3]);
    }
}
