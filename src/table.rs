//! Tables of results, as Markdown for people and as CSV for programs.

use std::{
    borrow::Cow,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

/// A table can't be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct TableError {
    path: PathBuf,
    source: io::Error,
}

/// Rows of text under named columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns and no row yet.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: vec![] }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has another number of cells than there are columns.
    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        let row: Vec<String> = row.into_iter().map(Into::into).collect();
        assert_eq!(row.len(), self.columns.len(), "a cell per column");
        self.rows.push(row);
    }

    /// As a Markdown table whose source is aligned, too; columns of numbers to the right.
    pub fn markdown(&self) -> String {
        let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ");
        let columns: Vec<Vec<String>> = (0..self.columns.len())
            .map(|n| {
                let below = self.rows.iter().map(|row| cell(&row[n]));
                std::iter::once(cell(&self.columns[n])).chain(below).collect()
            })
            .collect();
        let numeric: Vec<bool> =
            columns.iter().map(|cells| cells.len() > 1 && cells[1..].iter().all(is_number)).collect();
        let width = |cells: &Vec<String>| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = columns.iter().map(width).collect();
        let mut text = String::new();
        for line in 0..=self.rows.len() {
            for ((cells, &right), &width) in columns.iter().zip(&numeric).zip(&widths) {
                let cell = &cells[line];
                let written = if right { write!(text, "| {cell:>width$} ") } else { write!(text, "| {cell:width$} ") };
                written.expect("a string takes everything");
            }
            text.push_str("|\n");
            if line == 0 {
                for (&right, &width) in numeric.iter().zip(&widths) {
                    let dashes = "-".repeat(width);
                    text.push_str(&if right { format!("|-{dashes}:") } else { format!("|-{dashes}-") });
                }
                text.push_str("|\n");
            }
        }
        text
    }

    /// As CSV with a header: numbers without separators, percent as shares of one, what is not known is empty.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(vec![]);
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            let row = row.iter().map(|cell| plain(cell).into_owned());
            writer.write_record(row).expect("memory takes everything, and rows are of one length");
        }
        let bytes = writer.into_inner().expect("memory takes everything");
        String::from_utf8(bytes).expect("made of strings")
    }

    /// Writes `dir/name.md` and `dir/name.csv`, and makes `dir` if need be. `note` stands below the Markdown table.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, dir: &Path, name: &str, note: &str) -> Result<[PathBuf; 2], TableError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TableError { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let (markdown, csv) = (dir.join(format!("{name}.md")), dir.join(format!("{name}.csv")));
        let note = if note.is_empty() { String::new() } else { format!("\n{}\n", note.trim_end()) };
        fs::write(&markdown, self.markdown() + &note).map_err(failed(&markdown))?;
        fs::write(&csv, self.csv()).map_err(failed(&csv))?;
        Ok([markdown, csv])
    }
}

/// A cell as programs read it.
fn plain(cell: &str) -> Cow<'_, str> {
    let groups: Vec<&str> = cell.split(',').collect();
    let digits = |group: &&str| group.bytes().all(|byte| byte.is_ascii_digit());
    let counted = groups.len() > 1
        && groups.iter().all(digits)
        && (1..=3).contains(&groups[0].len())
        && groups[1..].iter().all(|group| group.len() == 3);
    match cell {
        "–" => "".into(),
        _ if counted => groups.concat().into(),
        _ => share(cell).map_or(cell.into(), Cow::Owned),
    }
}

/// Percent as a share of one, with the same digits: `57.0 %` is 0.570.
fn share(cell: &str) -> Option<String> {
    let digits = cell.strip_suffix(" %")?;
    let value: f64 = digits.parse().ok().filter(|value: &f64| value.is_finite())?;
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    Some(format!("{:.*}", decimals + 2, value / 100.0))
}

/// Digits with what may stand around them: `−0.31`, `57.2 %`, `0.4054 ± 0.0012`, `1,234`, or nothing known.
fn is_number(cell: &String) -> bool {
    let sign = |c: char| matches!(c, '+' | '-' | '−' | '.' | ',' | '±' | '%' | ' ');
    cell.is_empty()
        || cell == "–"
        || cell.chars().any(|c| c.is_ascii_digit()) && cell.chars().all(|c| c.is_ascii_digit() || sign(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["model", "NDCG@10", "share"]);
        table.push(["a|b, \"c\"", "0.4054 ± 0.0012", "57.0 %"]);
        table.push(["d", "–", "8.5 %"]);
        table
    }

    #[test]
    fn markdown_is_aligned_and_escaped() {
        let expected = "\
| model     |         NDCG@10 |  share |
|-----------|----------------:|-------:|
| a\\|b, \"c\" | 0.4054 ± 0.0012 | 57.0 % |
| d         |               – |  8.5 % |
";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn files_hold_the_table_and_its_note() {
        let dir = tempfile::tempdir().unwrap();
        let [markdown, csv] = table().write(&dir.path().join("new"), "scores", "As said.").unwrap();
        assert_eq!(fs::read_to_string(markdown).unwrap(), table().markdown() + "\nAs said.\n");
        let csv = fs::read_to_string(csv).unwrap();
        assert_eq!(csv, "model,NDCG@10,share\n\"a|b, \"\"c\"\"\",0.4054 ± 0.0012,0.570\nd,,0.085\n");
        assert_eq!(["1,234,567", "1,23", "a,bc", "12"].map(plain), ["1234567", "1,23", "a,bc", "12"]);
        assert_eq!(["100.0 %", "27.9 %", "0 %", "-3.5 %"].map(plain), ["1.000", "0.279", "0.00", "-0.035"]);
        assert_eq!(["many %", "inf %", "%", "5%"].map(plain), ["many %", "inf %", "%", "5%"]);
        fs::write(dir.path().join("file"), "").unwrap();
        let error = table().write(&dir.path().join("file"), "scores", "").unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
