//! Lines of JSON: what is wrong with one.

/// What the parser says of a line. It counts lines, too: whoever reads the file has a number for the only one already.
/// An entry of a stream may have several.
pub(super) fn fault(error: &serde_json::Error) -> String {
    let (said, line, column) = (error.to_string(), error.line(), error.column());
    match said.strip_suffix(&format!(" at line {line} column {column}")) {
        Some(fault) if line == 1 => format!("{fault} at column {column}"),
        // The line ends too early: that is found out behind its line break.
        Some(fault) if column == 0 => fault.to_owned(),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    #[test]
    fn a_line_is_told_its_column_alone() {
        let told = |line: &str| fault(&serde_json::from_str::<v1::Event>(line).unwrap_err());
        for line in ["{\"eventId\":7}", "{\"eventId\":7}\n", "{\"other\":1}", "no JSON\r\n", "[]"] {
            let told = told(line);
            assert!(told.contains(" at column ") && !told.contains(" line "), "{line:?}: {told}");
        }
        assert_eq!(told("{\n"), "EOF while parsing an object");
        assert!(told("{\n \"other\": 1}").ends_with(" at line 2 column 8"), "{}", told("{\n \"other\": 1}"));
        assert_eq!(told("{"), "EOF while parsing an object at column 1");
    }
}
