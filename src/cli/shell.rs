//! Commands to copy and paste.

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,=+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// This command, continued.
pub(super) fn resume_command() -> String {
    let mut words: Vec<String> = std::env::args().filter(|arg| arg != "--force").map(|arg| quoted(&arg)).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        for (word, expected) in
            [("runs/a_1.b", "runs/a_1.b"), ("", "''"), ("my logs", "'my logs'"), ("it's", r"'it'\''s'"), ("~x", "'~x'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
