//! The plans that a provider sells, as a TOML catalogue lists them. Pure.

/// Plans to choose from.
#[derive(Clone, Debug, PartialEq)]
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
