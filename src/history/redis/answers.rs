//! What the scripts answer.

use std::sync::Arc;

use redis::Value;

use super::{
    super::{
        Appended, Loaded, Outcome, StoreError,
        timeline::{Row, UserTimeline},
    },
    element,
};
use crate::domain::{EventTime, HistoryVersion};

/// The answer to a single call.
pub(super) fn only(answers: Vec<Result<Value, StoreError>>) -> Result<Value, StoreError> {
    answers.into_iter().next().unwrap_or(Err(StoreError::Deadline))
}

/// What an append of `row` did.
pub(super) fn appended(row: &Row, answer: Value) -> Result<Appended, StoreError> {
    let Value::Array(parts) = answer else { return Err(unexpected("append")) };
    let [outcome, at, rest @ ..] = parts.as_slice() else { return Err(unexpected("append")) };
    let outcome = match (bytes(outcome)?, rest) {
        (b"APPLIED", _) => Outcome::Applied,
        (b"DUPLICATE", _) => Outcome::Duplicate,
        (b"TOO_OLD", _) => Outcome::TooOld,
        // The bytes differ; an older schema may have written the same event otherwise.
        (b"CONFLICT", [stored]) if element::decode(bytes(stored)?)? == *row => Outcome::Duplicate,
        (b"CONFLICT", _) => Outcome::Conflict,
        _ => return Err(unexpected("append")),
    };
    Ok(Appended { outcome, version: version(at)? })
}

/// What a read found.
pub(super) fn loaded(answer: Value) -> Result<Loaded, StoreError> {
    let Value::Array(parts) = answer else { return Err(unexpected("load")) };
    match parts.as_slice() {
        [_] => Ok(Loaded::Unchanged),
        [at, erased, recommendations, searches, clicks, unwritten @ ..] => {
            let erased = match bytes(erased)? {
                b"" => EventTime::default(),
                time => element::decode_time(time)?,
            };
            let mut rows = vec![];
            for list in [recommendations, searches, clicks] {
                let Value::Array(elements) = list else { return Err(unexpected("load")) };
                for element in elements {
                    rows.push(element::decode(bytes(element)?)?);
                }
            }
            let view = Arc::new(UserTimeline::restore(rows, version(at)?, erased).view());
            Ok(if unwritten.is_empty() { Loaded::History(view) } else { Loaded::Unwritten(view) })
        }
        _ => Err(unexpected("load")),
    }
}

/// A user's version.
pub(super) fn version(value: &Value) -> Result<HistoryVersion, StoreError> {
    let digits = std::str::from_utf8(bytes(value)?).ok().and_then(|digits| digits.parse().ok());
    digits.map(HistoryVersion).ok_or_else(|| unexpected("version"))
}

fn bytes(value: &Value) -> Result<&[u8], StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(unexpected("value")),
    }
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "Redis answered with an unexpected {what}: is the key prefix shared with something else?"
    ))
}
