//! Rows as a figure: metrics over the values of a setting.

use super::Row;
use crate::{
    eval::Metrics,
    plot::{Axis, LineChart, LinePoint, LineSeries, Side},
};

/// NDCG@10 (left) and MRR (right) of the rows that vary `setting`, with error bars over seeds; nothing without any such
/// row.
pub fn line_chart(rows: &[Row], setting: &str, label: &str) -> Option<LineChart> {
    let value = |row: &Row| row.settings.iter().find(|(name, _)| name == setting).map(|(_, value)| value.clone());
    let (ticks, rows): (Vec<String>, Vec<&Row>) = rows.iter().filter_map(|row| Some((value(row)?, row))).unzip();
    if rows.is_empty() {
        return None;
    }
    let series = |name: &str, side: Side| {
        let metric = Metrics::NAMES.iter().position(|&other| other == name)?;
        let point = |row: &&Row| {
            let spread = row.metrics[metric];
            Some(LinePoint { mean: spread.mean, deviation: spread.deviation.unwrap_or(0.0) })
        };
        Some(LineSeries { name: name.to_owned(), side, points: rows.iter().map(point).collect() })
    };
    Some(LineChart {
        x: label.to_owned(),
        ticks,
        left: Axis::of("NDCG@10"),
        right: Some(Axis::of("MRR")),
        series: [series("NDCG@10", Side::Left), series("MRR", Side::Right)].into_iter().flatten().collect(),
    })
}
