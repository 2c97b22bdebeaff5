//! What failures say: errors with their causes, and panics that were caught.

use std::any::Any;

/// An error with its causes, each told once: many messages carry their cause already.
pub fn told_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        known if known.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

/// The message that a panic was started with.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = anyhow::anyhow!("the cause").context("file: the cause").context("--flag");
        assert_eq!(told_once(&error), "--flag: file: the cause");
    }
}
