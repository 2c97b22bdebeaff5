//! What is wrong with a request, field by field.

use std::fmt;

use crate::proto::v1;

/// How many violations are told apart. A request of ten thousand bad candidates has ten thousand, and an error's
/// details travel in an HTTP/2 trailer, for which common clients accept 8 to 16 KiB.
const MAX_LISTED: usize = 24;

/// One rule that one field breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path: `event.time`, `candidate_item_ids[3]`.
    pub field: String,
    /// What is wrong with it; reads on from the field's name.
    pub description: String,
}

/// Everything that is wrong with a request; the first `MAX_LISTED` by name, the rest as a number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Violations {
    listed: Vec<Violation>,
    total: usize,
}

impl Violations {
    /// Nothing is wrong so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// One violation.
    pub fn of(field: &str, description: impl fmt::Display) -> Self {
        let mut violations = Self::new();
        violations.add(format_args!("{field}"), description);
        violations
    }

    /// Notes a violation.
    pub fn add(&mut self, field: impl fmt::Display, description: impl fmt::Display) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Violation { field: field.to_string(), description: description.to_string() });
        }
        self.total += 1;
    }

    /// The value, or `None` after noting its violation.
    pub fn take<T, E: fmt::Display>(&mut self, field: impl fmt::Display, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(field, error)).ok()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The violations that are listed by name.
    pub fn listed(&self) -> &[Violation] {
        &self.listed
    }

    /// `Ok(value)` if nothing is wrong. `None` must have been noted.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    /// As the contract's message; how many more there are than are listed, without a field.
    pub fn to_proto(&self) -> Vec<v1::FieldViolation> {
        let violation =
            |v: &Violation| v1::FieldViolation { field: v.field.clone(), description: v.description.clone() };
        let more = match self.total - self.listed.len() {
            0 => None,
            more => Some(v1::FieldViolation { field: String::new(), description: format!("and {more} more") }),
        };
        self.listed.iter().map(violation).chain(more).collect()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 3;
        for (n, Violation { field, description }) in self.listed.iter().take(NAMED).enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{field} {description}")?;
        }
        if self.total > NAMED { write!(f, "; and {} more", self.total - NAMED) } else { Ok(()) }
    }
}

impl std::error::Error for Violations {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_what_it_lists() {
        let mut violations = Violations::new();
        for n in 0..10_000 {
            violations.add(format_args!("candidate_item_ids[{n}]"), "must not be empty");
        }
        assert_eq!(violations.listed().len(), MAX_LISTED);
        let said = violations.to_proto();
        assert_eq!(said.len(), MAX_LISTED + 1);
        assert_eq!((&*said[MAX_LISTED].field, &*said[MAX_LISTED].description), ("", "and 9976 more"));
        assert_eq!(
            violations.to_string(),
            "candidate_item_ids[0] must not be empty; candidate_item_ids[1] must not be empty; \
             candidate_item_ids[2] must not be empty; and 9997 more"
        );
    }
}
