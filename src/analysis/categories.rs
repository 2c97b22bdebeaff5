//! Which attribute of items is their category.

use super::AnalysisError;
use crate::data::{Attribute, Catalogue};

/// What kind of thing each item is.
#[derive(Debug, Clone, Copy)]
pub struct Categories<'a> {
    attribute: &'a Attribute,
    /// How many there are.
    pub count: usize,
}

impl<'a> Categories<'a> {
    /// By the attribute of this name; without a name by the most specific that there is, the one with the most values.
    ///
    /// # Errors
    /// Names the attributes that exist, if that one doesn't, or if none tells items apart.
    pub fn choose(catalogue: &'a Catalogue, name: Option<&str>) -> Result<Self, AnalysisError> {
        let all: Vec<Self> =
            catalogue.items.attributes.iter().map(|attribute| Self { attribute, count: distinct(attribute) }).collect();
        let existing = || {
            let names: Vec<String> =
                all.iter().map(|one| format!("{} ({} values)", one.attribute.name, one.count)).collect();
            if names.is_empty() { "items have no attribute".into() } else { format!("there are: {}", names.join(", ")) }
        };
        match name {
            Some(name) => all.iter().find(|one| one.attribute.name == name).copied().ok_or_else(|| {
                AnalysisError::Category(format!("--category {name}: items have no such attribute; {}", existing()))
            }),
            // Of equals the first.
            None => {
                let best = all.iter().rev().max_by_key(|one| one.count).filter(|one| one.count > 1).copied();
                let message = || format!("no attribute of items tells them apart ({})", existing());
                best.ok_or_else(|| AnalysisError::Category(message()))
            }
        }
    }

    /// The attribute's name.
    pub fn name(&self) -> &'a str {
        &self.attribute.name
    }

    /// An item's category; `None` where it is unknown.
    pub fn of(&self, item: u32) -> Option<u32> {
        self.attribute.values.get(item as usize).copied().filter(|&value| value != 0)
    }
}

/// How many values some item has; unknown is none.
fn distinct(attribute: &Attribute) -> usize {
    let mut seen = vec![false; attribute.rows as usize];
    attribute.values.iter().for_each(|&value| seen[value as usize] = true);
    seen.iter().skip(1).filter(|&&seen| seen).count()
}
