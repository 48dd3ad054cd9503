//! The plans that a provider sells, as a TOML catalogue lists them. Pure.
//!
//! ```toml
//! currency = "EUR"
//!
//! [[plan]]
//! name = "S"              # as the label `plan` of servers has it
//! provider = "northcloud" # as the label `provider` has it; left out: of any
//! vcpu = 2
//! memory = "4GiB"
//! disk = "80GB"
//! price = 9.9             # a month
//! ```

mod read;

pub use read::PLANS_MAX;

use crate::config::Problem;

/// Plans to choose from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// Currency of all prices: `EUR`.
    pub currency: String,
    /// In the order of the file.
    pub plans: Vec<Plan>,
}

/// One size of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its name, as the label `plan` of servers has it.
    pub name: String,
    /// Whose it is, as the label `provider` of servers has it; `None`: of any.
    pub provider: Option<String>,
    /// Processors.
    pub vcpu: f64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Disk, bytes.
    pub disk_bytes: u64,
    /// Money a month.
    pub price: f64,
}

impl Catalogue {
    /// Reads the text of a catalogue; `file` is how problems name it. `Err` holds every problem there
    /// is, in the order of the file.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        read::catalogue(file, text)
    }

    /// The plan of this name, best that of `provider`. Neither minds capitals.
    #[must_use]
    pub fn find(&self, name: &str, provider: Option<&str>) -> Option<&Plan> {
        let named = || self.plans.iter().filter(|plan| is_same(&plan.name, name));
        let of = |plan: &&Plan| plan.is_of(provider);
        let exact = |plan: &&Plan| plan.provider.is_some() && plan.is_of(provider);
        match provider {
            Some(_) => named().find(exact).or_else(|| named().find(of)),
            // Of two providers nobody knows which.
            None => named().next().filter(|_| named().count() == 1),
        }
    }
}

impl Plan {
    /// Whether a server of this provider can have it.
    #[must_use]
    pub fn is_of(&self, provider: Option<&str>) -> bool {
        match (&self.provider, provider) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(asked)) => is_same(own, asked),
        }
    }

    /// Whether it has no less of anything than the other.
    #[must_use]
    pub fn is_as_large_as(&self, other: &Self) -> bool {
        self.vcpu >= other.vcpu
            && self.memory_bytes >= other.memory_bytes
            && self.disk_bytes >= other.disk_bytes
    }
}

/// Whether two names mean the same.
fn is_same(a: &str, b: &str) -> bool {
    a.trim().eq_ignore_ascii_case(b.trim())
}

#[cfg(test)]
mod tests;
