//! Histograms: series over the same bins, seen through each other.

use plotters::prelude::DrawingBackend;

use super::{
    Axis, PlotError,
    canvas::{Canvas, Point, bold},
    frame::{Frame, Sample},
};

/// How often values fall into bins.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What is binned.
    pub x: Axis,
    /// What the heights are.
    pub y: Axis,
    /// The bins' borders, ascending: one more than there are bins.
    pub edges: Vec<f64>,
    /// What is compared.
    pub series: Vec<HistogramSeries>,
}

/// One of a histogram's series.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSeries {
    /// As the legend calls it.
    pub name: String,
    /// A height per bin.
    pub heights: Vec<f64>,
}

impl Histogram {
    pub(super) fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), PlotError> {
        let bins = self.edges.len().saturating_sub(1);
        if bins == 0 || self.series.is_empty() || !self.edges.is_sorted() {
            return Err(PlotError::Data("a histogram needs ascending bins and a series".into()));
        }
        if let Some(series) = self.series.iter().find(|series| series.heights.len() != bins) {
            let message = format!("series {:?} has {} heights for {bins} bins", series.name, series.heights.len());
            return Err(PlotError::Data(message));
        }
        let ends = [self.edges[0], self.edges[bins]];
        let x = Axis { range: self.x.range.or(Some(ends.into())), ..self.x.clone() }.scale([])?;
        let y = self.y.scale(self.series.iter().flat_map(|series| series.heights.iter().copied()).chain([0.0]))?;
        let legend = self.series.iter().map(|series| (series.name.as_str(), Sample::Area)).collect();
        let place = Frame { x: &x, y: &y, right: None, legend }.draw(canvas)?;
        let bars = |series: &HistogramSeries| -> Vec<[Point; 2]> {
            let edges = self.edges.windows(2).zip(&series.heights);
            edges
                .map(|(edge, &height)| [(place.x(edge[0]), place.y(height)), (place.x(edge[1]), place.y(0.0))])
                .collect()
        };
        for (n, series) in self.series.iter().enumerate() {
            for bar in bars(series) {
                canvas.fill(bar, n)?;
            }
        }
        // Outlines over all areas, so that none is hidden.
        for (n, series) in self.series.iter().enumerate() {
            let bars = bars(series);
            let (first, last) = (bars[0][0].0, bars[bins - 1][1]);
            let steps = bars.iter().flat_map(|&[(left, top), (right, _)]| [(left, top), (right, top)]);
            let outline: Vec<Point> = [(first, last.1)].into_iter().chain(steps).chain([last]).collect();
            canvas.line(outline, bold(n))?;
        }
        Ok(())
    }
}
