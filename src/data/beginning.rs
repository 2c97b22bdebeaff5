//! How files begin that other programs wrote: with a byte order mark, or as what is no text here at all.

/// What some programs begin UTF-8 with. To Rust it is no blank: it would be a part of the first word.
pub(crate) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Text without the mark that it may begin with.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
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
