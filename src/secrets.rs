//! What is told of a URL that may hold a password.

/// The text with `***` for what stands before the `@` of every URL: the user and password of
/// `redis://USER:PASSWORD@HOST`, mistyped schemes included. A word ends at white space.
pub fn without_passwords(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(hidden).collect()
}

/// A word, from the first `:` to the last `@` hidden, slashes aside.
fn hidden(word: &str) -> String {
    let (Some(colon), Some(at)) = (word.find(':'), word.rfind('@')) else { return word.to_owned() };
    let slashes = word[colon + 1..].len() - word[colon + 1..].trim_start_matches('/').len();
    let start = colon + 1 + slashes;
    if start < at { format!("{}***{}", &word[..start], &word[at..]) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_and_nothing_else() {
        for (text, expected) in [
            ("'redi://me:pw@host:1/0' for '--store'", "'redi://***@host:1/0' for '--store'"),
            ("redis:/me:p@w@host", "redis:/***@host"),
            ("'redi://:hunt'er2@h:1'", "'redi://***@h:1'"),
            ("store = redis://:pw@a,b/main\n", "store = redis://***@a,b/main\n"),
            (
                "a@b.example: is fine, @file and http://[::1]:50051 too",
                "a@b.example: is fine, @file and http://[::1]:50051 too",
            ),
            ("redis://@host", "redis://@host"),
            ("", ""),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
    }
}
