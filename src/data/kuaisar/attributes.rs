//! Attributes of items and users: distinct values, numbered from 1; 0 is unknown.

use std::{path::Path, str::FromStr};

use super::{
    interactions::{intern, used},
    log::{BadRows, Log},
};
use crate::data::{
    Attribute, AttributeValues, DatasetError, EntityTable, ITEM_WORDS, Progress, Tokenizer, Vocabulary, WordLists,
};

/// Which columns of `item_features.csv` become which attributes.
const ITEM_ATTRIBUTES: [(&str, &str); 3] =
    [("type", "item_type"), ("category", "first_level_category_id"), ("category2", "second_level_category_id")];

/// A further column of `item_features.csv` as an attribute, as `NAME=COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemColumn {
    /// What it is called in the data set.
    pub attribute: String,
    /// What it is called in the file.
    pub column: String,
}

impl FromStr for ItemColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (attribute, column) = text.split_once('=').unwrap_or_default();
        if attribute.is_empty() || column.is_empty() {
            return Err("must be NAME=COLUMN".into());
        }
        let mut taken = ["id", ITEM_WORDS].into_iter().chain(ITEM_ATTRIBUTES.map(|(name, _)| name));
        if taken.any(|name| name == attribute) {
            return Err(format!("there is an attribute {attribute} already"));
        }
        Ok(Self { attribute: attribute.into(), column: column.into() })
    }
}

/// Words of an item that count, the first ones: as many as short captions and lists of properties have.
const WORDS_PER_ITEM: usize = 16;

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

/// The words of captions, numbered apart from those of queries, by item number.
#[derive(Default)]
pub(super) struct Captions {
    words: Vocabulary,
    lists: WordLists,
}

impl Captions {
    /// Keeps the words of the next item, each once.
    fn push(&mut self, caption: &str, tokenizer: Tokenizer) -> Result<(), String> {
        let mut numbers = vec![];
        for word in tokenizer.words(caption) {
            let number = intern(&mut self.words, &word)?;
            if !numbers.contains(&number) {
                numbers.push(number);
            }
            if numbers.len() == WORDS_PER_ITEM {
                break;
            }
        }
        self.lists.push(&numbers);
        Ok(())
    }

    /// As the catalogue has them: for the items that are `kept`, after its padding. Words that `table` lacks are added
    /// to it. Without any caption there are no lists.
    pub fn finish(self, kept: &[bool], table: &mut EntityTable) -> Result<WordLists, String> {
        if self.words.is_empty() {
            return Ok(WordLists::default());
        }
        let mut rows: Vec<Option<u32>> = vec![None; self.words.len()];
        let mut lists = WordLists::padded();
        for item in (0..kept.len() as u32).filter(|&item| kept[item as usize]) {
            let mut list = vec![];
            for &number in self.lists.get(item).unwrap_or_default() {
                let row = match rows[number as usize] {
                    Some(row) => row,
                    None => intern(&mut table.ids, self.words.name(number).unwrap_or_default())? + table.first_row,
                };
                rows[number as usize] = Some(row);
                list.push(row);
            }
            lists.push(&list);
        }
        Ok(lists)
    }
}

/// What `item_features.csv` says.
pub(super) struct ItemFeatures {
    pub attributes: Vec<AttributeColumn>,
    pub captions: Captions,
}

/// Reads `item_features.csv`: its items in file order are numbers 0, 1, ... of `items`, which has to be empty.
pub(super) fn read_items(
    dir: &Path,
    items: &mut Vocabulary,
    further: &[ItemColumn],
    tokenizer: Tokenizer,
    bad: &mut BadRows,
    progress: Progress,
) -> Result<ItemFeatures, DatasetError> {
    let log = Log::open(dir, "item_features.csv", progress)?;
    let id_column = log.column("item_id")?;
    // Not every log has captions.
    let has_captions = log.columns().iter().any(|column| column == "caption");
    let caption_column = has_captions.then(|| log.column("caption")).transpose()?;
    let mut captions = Captions::default();
    let mut attributes = vec![];
    let further = further.iter().map(|further| (further.attribute.as_str(), further.column.as_str()));
    for (name, column) in ITEM_ATTRIBUTES.into_iter().chain(further) {
        if attributes.iter().any(|attribute: &AttributeColumn| attribute.name == name) {
            let path = dir.join("item_features.csv");
            return Err(DatasetError::format(&path, format!("two columns for one attribute, {name}")));
        }
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
        let caption = caption_column.map(|column| Ok((column, row.text(column)?))).transpose()?;
        intern(items, id).map_err(|message| row.fault(id_column, message))?;
        if let Some((column, caption)) = caption {
            captions.push(caption, tokenizer).map_err(|message| row.fault(column, message))?;
        }
        for attribute in &mut attributes {
            let value = row.text(attribute.column)?;
            let number = attribute_row(&mut attribute.distinct, value);
            attribute.values.push(number.map_err(|message| row.fault(attribute.column, message))?);
        }
        Ok(())
    })?;
    Ok(ItemFeatures { attributes, captions })
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
