//! Attributes of items and users: distinct values, numbered from 1; 0 is unknown.

use std::path::Path;

use super::{
    interactions::{intern, used},
    log::{BadRows, Log},
};
use crate::data::{Attribute, AttributeValues, DatasetError, Progress, Vocabulary};

/// Which columns of `item_features.csv` become which attributes.
const ITEM_ATTRIBUTES: [(&str, &str); 3] =
    [("type", "item_type"), ("category", "first_level_category_id"), ("category2", "second_level_category_id")];

/// An attribute being collected.
pub(super) struct AttributeColumn {
    name: String,
    column: usize,
    distinct: Vocabulary,
    /// By entity number; 0 = unknown.
    values: Vec<u32>,
}

impl AttributeColumn {
    fn new(name: &str, column: usize, entities: usize) -> Self {
        Self { name: name.to_owned(), column, distinct: Vocabulary::new(), values: vec![0; entities] }
    }

    /// As the catalogue has it: for the entities of `table` that are `kept`, after its padding; and what its rows mean.
    pub fn finish(self, table: &'static str, kept: &[bool], padding: u32) -> (Attribute, AttributeValues) {
        let kept = (0..kept.len()).filter(|&entity| kept[entity]);
        let kept = kept.map(|entity| self.values.get(entity).copied().unwrap_or(0));
        let values = std::iter::repeat_n(0, padding as usize).chain(kept).collect();
        let attribute = Attribute { name: self.name.clone(), rows: self.distinct.len() as u32 + 1, values };
        (attribute, AttributeValues { table, attribute: self.name, values: self.distinct })
    }
}

/// Reads `item_features.csv`: its items in file order are numbers 0, 1, ... of `items`, which has to be empty.
pub(super) fn read_items(
    dir: &Path,
    items: &mut Vocabulary,
    bad: &mut BadRows,
    progress: Progress,
) -> Result<Vec<AttributeColumn>, DatasetError> {
    let log = Log::open(dir, "item_features.csv", progress)?;
    let id_column = log.column("item_id")?;
    let mut attributes = vec![];
    for (name, column) in ITEM_ATTRIBUTES {
        attributes.push(AttributeColumn::new(name, log.column(column)?, 0));
    }
    log.each_row(bad, |row| {
        let id = row.id(id_column)?;
        if items.get(id).is_some() {
            return Err(row.fault(id_column, format!("{id:?} has a row already")));
        }
        for attribute in &attributes {
            row.text(attribute.column)?;
        }
        intern(items, id).map_err(|message| row.fault(id_column, message))?;
        for attribute in &mut attributes {
            let value = row.text(attribute.column)?;
            let number = attribute_row(&mut attribute.distinct, value);
            attribute.values.push(number.map_err(|message| row.fault(attribute.column, message))?);
        }
        Ok(())
    })?;
    Ok(attributes)
}

/// What `user_features.csv` says of the users in `users`; rows of others are passed over.
pub(super) struct UserFeatures {
    pub attributes: Vec<AttributeColumn>,
    /// Rows of users without any action.
    pub other_users: u64,
    /// Which users have a row.
    pub known: Vec<bool>,
}

/// Reads `user_features.csv`: every column besides `user_id` is an attribute of that name.
pub(super) fn read_users(
    dir: &Path,
    users: &Vocabulary,
    bad: &mut BadRows,
    progress: Progress,
) -> Result<UserFeatures, DatasetError> {
    let log = Log::open(dir, "user_features.csv", progress)?;
    let id_column = log.column("user_id")?;
    let mut attributes: Vec<AttributeColumn> = vec![];
    for (column, name) in log.columns().iter().enumerate().filter(|&(column, _)| column != id_column) {
        // The id is a user's first attribute in every model; a second one of a name could not be told apart.
        if name.is_empty() || name == "id" || attributes.iter().any(|attribute| attribute.name == *name) {
            return Err(log.error(format!("column {} is named {name:?}: give it a name of its own", column + 1)));
        }
        attributes.push(AttributeColumn::new(name, column, users.len()));
    }
    let mut other_users = 0;
    let mut known = vec![false; users.len()];
    log.each_row(bad, |row| {
        let id = row.id(id_column)?;
        let Some(user) = users.get(id) else {
            other_users += 1;
            return Ok(());
        };
        for attribute in &attributes {
            row.text(attribute.column)?;
        }
        if !used(&mut known, user) {
            return Err(row.fault(id_column, format!("{id:?} has a row already")));
        }
        for attribute in &mut attributes {
            let number = attribute_row(&mut attribute.distinct, row.text(attribute.column)?);
            attribute.values[user as usize] = number.map_err(|message| row.fault(attribute.column, message))?;
        }
        Ok(())
    })?;
    Ok(UserFeatures { attributes, other_users, known })
}

fn attribute_row(distinct: &mut Vocabulary, value: &str) -> Result<u32, String> {
    if value.is_empty() { Ok(0) } else { intern(distinct, value).map(|number| number + 1) }
}
