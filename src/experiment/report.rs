//! Rows as Markdown and CSV.

use std::{fmt::Write, path::Path};

use indicatif::HumanCount;

use super::{
    Comparison, ExperimentError, PairedTest, Row, Spread, comparison::SIGNIFICANT, row::METRICS, store::write_whole,
};
use crate::eval::Metrics;

/// A table with what is to be said about it.
#[derive(Debug)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// How the figures came about, a line each.
    pub protocol: Vec<String>,
    /// What follows from them, a paragraph each.
    pub notes: Vec<String>,
    /// The table.
    pub rows: Vec<Row>,
    /// What stands right of the test metrics.
    pub columns: Columns,
    /// Whether each row is also compared with the row before it.
    pub steps: bool,
}

/// What stands right of the test metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Training time, parameters, serving cost.
    Costs,
    /// Validation, which selects.
    Validation,
}

/// The best and the second best row of a metric.
#[derive(Debug, Clone, Copy)]
struct Places {
    best: usize,
    second: Option<usize>,
}

const TESTED: &str = "Tested: whether the row's metric differs from the other's, paired by test user. Each user's metric is \
averaged over a row's seeds first, so a user counts once. `*` in the table: the best row is better than the second best with \
p < 0.01 in Student's paired t-test (two-sided), as in the paper; Wilcoxon's signed-rank test stands beside it. The tests \
say whether a difference holds over users, the ± whether it holds over seeds.";

impl Report {
    /// Writes `NAME.md`, `NAME.csv` and `NAME.significance.csv` into a directory.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), ExperimentError> {
        let files = [("md", self.markdown()), ("csv", self.csv()), ("significance.csv", self.significance_csv())];
        for (extension, text) in files {
            let path = directory.join(format!("{name}.{extension}"));
            write_whole(&path, text.as_bytes()).map_err(ExperimentError::io(&path))?;
        }
        Ok(())
    }

    /// The whole page.
    pub fn markdown(&self) -> String {
        let mut page = format!("# {}\n\n{}\n", self.title, self.table());
        for note in &self.notes {
            writeln!(page, "{note}\n").expect("a string takes everything");
        }
        page += "## Protocol\n\n";
        for line in &self.protocol {
            writeln!(page, "- {line}").expect("a string takes everything");
        }
        let comparisons = self.comparisons();
        if !comparisons.is_empty() {
            write!(page, "\n## Significance\n\n{TESTED}\n\n{}", significance_table(&comparisons))
                .expect("a string takes everything");
        }
        page
    }

    /// The table alone: mean ± deviation, best bold, second best underlined.
    pub fn table(&self) -> String {
        let places: Vec<Option<Places>> = (0..METRICS).map(|metric| self.places(metric)).collect();
        let stars: Vec<bool> =
            (0..METRICS).map(|metric| self.best_with_second(metric).is_some_and(|c| c.is_significant())).collect();
        let mut table = format!("| | {} | {} |\n", Metrics::NAMES.join(" | "), self.columns.names().join(" | "));
        table += &format!("|---|{}\n", "---|".repeat(METRICS + self.columns.names().len()));
        for (n, row) in self.rows.iter().enumerate() {
            let cell = |metric: usize| {
                let value = value(row.metrics[metric]);
                match places[metric] {
                    Some(Places { best, .. }) if best == n => {
                        format!("**{value}**{}", if stars[metric] { "\\*" } else { "" })
                    }
                    Some(Places { second: Some(second), .. }) if second == n => format!("<u>{value}</u>"),
                    _ => value,
                }
            };
            let cells: Vec<String> = (0..METRICS).map(cell).chain(self.columns.cells(row)).collect();
            table += &format!("| {} | {} |\n", row.name, cells.join(" | "));
        }
        table
    }

    /// Every number, a line per row.
    pub fn csv(&self) -> String {
        let mut settings: Vec<&str> = vec![];
        for (name, _) in self.rows.iter().flat_map(|row| &row.settings) {
            if !settings.contains(&name.as_str()) {
                settings.push(name);
            }
        }
        let pair = |name: &str| [name.to_owned(), format!("{name} deviation")];
        let mut header: Vec<String> = vec!["row".into()];
        header.extend(settings.iter().map(ToString::to_string));
        header.push("seeds".into());
        header.extend(Metrics::NAMES.iter().flat_map(|name| pair(name)));
        header.extend(Metrics::NAMES.iter().flat_map(|name| pair(&format!("validation {name}"))));
        header.extend(
            ["seconds", "best epoch", "candidates/s", "candidates/s, cached user"].iter().flat_map(|name| pair(name)),
        );
        header.push("parameters".into());
        let lines = self.rows.iter().map(|row| {
            let of = |wanted: &str| row.settings.iter().find(|(name, _)| name == wanted);
            let mut line = vec![row.name.clone()];
            line.extend(settings.iter().map(|name| of(name).map_or_else(String::new, |(_, value)| value.clone())));
            line.push(row.seeds.to_string());
            let metrics = row.metrics.map(Some).into_iter();
            let validation = row.validation.map_or([None; METRICS], |spreads| spreads.map(Some));
            let costs = row
                .costs
                .map(|costs| [costs.seconds, costs.best_epoch, costs.candidates_per_second, costs.cached_user]);
            let costs = costs.map_or([None; 4], |spreads| spreads.map(Some));
            line.extend(metrics.chain(validation).chain(costs).flat_map(numbers));
            line.push(row.costs.map_or_else(String::new, |costs| costs.parameters.to_string()));
            line
        });
        csv_text(std::iter::once(header).chain(lines))
    }

    /// The tests, a line per comparison.
    pub fn significance_csv(&self) -> String {
        let header = ["metric", "row", "other", "difference", "users", "t", "t-test p", "rank sum", "signed-rank p"];
        let lines = self.comparisons().into_iter().map(|comparison| {
            let test = |test: Option<PairedTest>| match test {
                Some(PairedTest { statistic, p }) => [statistic.to_string(), format!("{p:e}")],
                None => [String::new(), String::new()],
            };
            let mut line = vec![comparison.metric.to_owned(), comparison.row, comparison.other];
            line.extend([comparison.difference.to_string(), comparison.users.to_string()]);
            line.extend(test(comparison.t).into_iter().chain(test(comparison.wilcoxon)));
            line
        });
        csv_text(std::iter::once(header.map(str::to_owned).to_vec()).chain(lines))
    }

    /// The row that a validation metric selects.
    pub fn selected(&self, metric: usize) -> Option<&Row> {
        let validated = self.rows.iter().filter_map(|row| Some((row.validation?[metric].mean, row)));
        validated.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, row)| row)
    }

    /// The best row with the second best in every metric; then, where rows are steps, each with the one before.
    fn comparisons(&self) -> Vec<Comparison> {
        let best = (0..METRICS).filter_map(|metric| self.best_with_second(metric));
        let steps = self.rows.windows(2).filter(|_| self.steps);
        let steps = steps.flat_map(|rows| (0..METRICS).map(|metric| Comparison::of(&rows[1], &rows[0], metric)));
        best.chain(steps).collect()
    }

    fn best_with_second(&self, metric: usize) -> Option<Comparison> {
        let Places { best, second } = self.places(metric)?;
        Some(Comparison::of(&self.rows[best], &self.rows[second?], metric))
    }

    fn places(&self, metric: usize) -> Option<Places> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        let mean = |row: usize| self.rows[row].metrics[metric].mean;
        order.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)));
        Some(Places { best: *order.first()?, second: order.get(1).copied() })
    }
}

impl Columns {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Costs => &["training, s", "parameters", "candidates/s", "candidates/s, cached user"],
            Self::Validation => &["validation NDCG@10", "validation MRR", "best epoch"],
        }
    }

    fn cells(self, row: &Row) -> Vec<String> {
        let cells = match self {
            Self::Costs => row.costs.map(|costs| {
                let rate = |spread: Spread| HumanCount(spread.mean.round() as u64).to_string();
                let seconds = match costs.seconds.deviation {
                    Some(deviation) => format!("{:.0} ± {deviation:.0}", costs.seconds.mean),
                    None => format!("{:.0}", costs.seconds.mean),
                };
                let parameters = HumanCount(costs.parameters as u64).to_string();
                vec![seconds, parameters, rate(costs.candidates_per_second), rate(costs.cached_user)]
            }),
            Self::Validation => row.validation.zip(row.costs).map(|(validation, costs)| {
                let of = |name: &str| Metrics::NAMES.iter().position(|&other| other == name);
                let metric = |name: &str| of(name).map_or_else(String::new, |metric| value(validation[metric]));
                vec![metric("NDCG@10"), metric("MRR"), format!("{:.1}", costs.best_epoch.mean)]
            }),
        };
        cells.unwrap_or_else(|| vec![String::new(); self.names().len()])
    }
}

fn significance_table(comparisons: &[Comparison]) -> String {
    let mut table = "| | row | other | difference | t | p, t-test | p, signed-rank | users |\n".to_owned();
    table += "|---|---|---|---|---|---|---|---|\n";
    for Comparison { metric, row, other, difference, users, t, wilcoxon } in comparisons {
        let p = |test: &Option<PairedTest>| match test {
            Some(PairedTest { p, .. }) if *p < 1e-12 => "< 1e-12".to_owned(),
            Some(PairedTest { p, .. }) if *p < SIGNIFICANT => format!("{p:.1e}"),
            Some(PairedTest { p, .. }) => format!("{p:.3}"),
            None => "–".into(),
        };
        let statistic = t.map_or_else(|| "–".into(), |test| format!("{:.2}", test.statistic));
        table += &format!(
            "| {metric} | {row} | {other} | {difference:+.4} | {statistic} | {} | {} | {users} |\n",
            p(t),
            p(wilcoxon)
        );
    }
    table
}

/// "0.2544 ± 0.0012"
fn value(Spread { mean, deviation }: Spread) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.4} ± {deviation:.4}"),
        None => format!("{mean:.4}"),
    }
}

/// Mean and deviation; empty where there is none.
fn numbers(spread: Option<Spread>) -> [String; 2] {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    [number(spread.map(|spread| spread.mean)), number(spread.and_then(|spread| spread.deviation))]
}

fn csv_text(lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = csv::Writer::from_writer(vec![]);
    for line in lines {
        writer.write_record(line).expect("memory takes everything");
    }
    String::from_utf8(writer.into_inner().expect("memory takes everything")).expect("made of strings")
}
