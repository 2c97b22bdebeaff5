//! How files begin that other programs wrote, and their rows: with a byte order mark, after blank lines, or as what is no
//! text here at all.

/// What some programs begin UTF-8 with. To Rust it is no blank: it would be a part of the first word.
pub(crate) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Text without the mark that it may begin with.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// How many lines of bytes end before a row begins in them. A CSV reader stops in the middle of the `\r\n` of the row
/// before, and passes over blank lines together with the row after them: which line that is, only the bytes say.
pub(crate) fn lines_before_row(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let breaks = bytes.into_iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    breaks.filter(|&byte| byte == b'\n').count() as u64
}

/// What a file holds that is read as text and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoText {
    /// Compressed, whatever its name says.
    Gzip,
    /// In an encoding that spreadsheets and some shells write.
    Utf16,
}

impl NoText {
    /// By a file's first bytes; nothing where they may begin a text.
    pub(crate) fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Self::Utf16),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_no_text() {
        for (text, expected) in [("\u{feff}i1", "i1"), ("i\u{feff}1", "i\u{feff}1"), ("", "")] {
            assert_eq!(without_mark(text), expected);
        }
    }

    #[test]
    fn a_row_is_on_the_line_after_those_that_end_before_it() {
        for (bytes, expected) in [("row\n", 0), ("\nrow\n", 1), ("\n\r\n\r\nrow\r\n", 3), ("\r\n", 1), ("", 0)] {
            assert_eq!(lines_before_row(bytes.bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_known_by_its_beginning() {
        for (bytes, expected) in [
            (&b"\x1f\x8b\x08"[..], Some(NoText::Gzip)),
            (b"\xff\xfeu\0", Some(NoText::Utf16)),
            (b"\xfe\xff\0u", Some(NoText::Utf16)),
            (b"\xef\xbb\xbfuser_id", None),
            (b"user_id", None),
            (b"\x1f", None),
            (b"", None),
        ] {
            assert_eq!(NoText::of(bytes), expected, "{bytes:?}");
        }
    }
}
