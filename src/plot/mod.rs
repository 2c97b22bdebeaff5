//! Figures as a paper prints them: histograms, box plots, bars, lines with error bars, each as SVG and PNG.
//!
//! A [`Figure`] is plain data; [`Figure::write`] draws it, the same for both formats. One size, readable at half the
//! width of a page: 1050 pixels stand for 3.5 inches at 300 dots each. The font is part of the program, so that a
//! picture made on a bare server looks like any other. In SVG text stays text, in the reader's sans-serif.
//!
//! ```no_run
//! use sesrec::plot::{Axis, Figure, LineChart, LinePoint, LineSeries, Side};
//!
//! let point = |mean, deviation| Some(LinePoint { mean, deviation });
//! let ndcg = LineSeries { name: "NDCG@10".into(), side: Side::Left, points: vec![point(0.31, 0.002), point(0.33, 0.001)] };
//! let chart = LineChart {
//!     x: "weight α of the alignment loss".into(),
//!     ticks: vec!["0".into(), "0.1".into()],
//!     left: Axis::of("NDCG@10"),
//!     right: None,
//!     series: vec![ndcg],
//! };
//! Figure::Lines(chart).write("results".as_ref(), "alpha")?; // results/alpha.svg, results/alpha.png
//! # Ok::<(), sesrec::plot::PlotError>(())
//! ```

mod axis;
mod bars;
mod box_plot;
mod canvas;
mod figure;
mod frame;
mod histogram;
mod lines;
#[cfg(test)]
mod tests;

pub use axis::Axis;
pub use bars::{BarSegment, Bars};
pub use box_plot::{BoxPlot, BoxSummary};
pub use figure::{Figure, PlotError};
pub use histogram::{Histogram, HistogramSeries};
pub use lines::{LineChart, LinePoint, LineSeries, Side};
