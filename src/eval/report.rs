//! Metrics as people read them.

use std::fmt::Write;

use super::Metrics;

/// A line of a table.
#[derive(Debug, Clone)]
pub struct MetricsRow {
    /// What was evaluated.
    pub name: String,
    /// How well it ranks.
    pub metrics: Metrics,
}

/// An aligned table with four decimals, as the paper prints them.
pub fn metrics_table(rows: &[MetricsRow]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut table = format!("{:width$}", "");
    Metrics::NAMES.iter().for_each(|name| write!(table, "  {name:>7}").expect("a string takes everything"));
    table += "    users\n";
    for row in rows {
        write!(table, "{:width$}", row.name).expect("a string takes everything");
        row.metrics.values().iter().for_each(|value| {
            write!(table, "  {value:>7.4}").expect("a string takes everything");
        });
        writeln!(table, "  {:>7}", row.metrics.users).expect("a string takes everything");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Rank;

    #[test]
    fn columns_line_up() {
        let row = |name: &str, rank| MetricsRow { name: name.into(), metrics: Metrics::of([Rank(rank)]) };
        let table = metrics_table(&[row("popularity", 3), row("sesrec", 0)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{table}");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>()[..3], ["sesrec", "1.0000", "1.0000"]);
    }
}
