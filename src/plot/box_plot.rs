//! Box plots: distributions beside each other.

use plotters::{
    prelude::DrawingBackend,
    style::{BLACK, Color},
};

use super::{
    Axis, PlotError,
    axis::Scale,
    canvas::{BOLD, Canvas, THIN, WIDTH},
    frame::{Frame, Sample},
};

/// Half the width of a box, in boxes.
const HALF: f64 = 0.22;

/// A box per distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxPlot {
    /// What tells the boxes apart.
    pub x: String,
    /// What is distributed.
    pub y: Axis,
    /// From left to right, with their names.
    pub boxes: Vec<(String, BoxSummary)>,
}

/// What a box shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxSummary {
    /// The lower whisker's end.
    pub low: f64,
    /// A quarter lies below.
    pub lower_quartile: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub upper_quartile: f64,
    /// The upper whisker's end.
    pub high: f64,
}

impl BoxSummary {
    /// From low to high.
    pub fn values(&self) -> [f64; 5] {
        [self.low, self.lower_quartile, self.median, self.upper_quartile, self.high]
    }
}

impl BoxPlot {
    pub(super) fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), PlotError> {
        if self.boxes.is_empty() {
            return Err(PlotError::Data("a box plot needs a box".into()));
        }
        if let Some((name, _)) = self.boxes.iter().find(|(_, summary)| !summary.values().is_sorted()) {
            return Err(PlotError::Data(format!("box {name:?} is not in order")));
        }
        let widths = self.boxes.iter().map(|(name, _)| canvas.width(name)).collect::<Result<Vec<_>, _>>()?;
        // Names too long to stand beside each other move to the legend.
        let fits = widths.iter().all(|&width| width < WIDTH as i32 * 4 / 5 / self.boxes.len() as i32);
        let names = self.boxes.iter().zip(1..).map(|((name, _), n)| if fits { name.clone() } else { n.to_string() });
        let x = Scale::places(&self.x, names);
        let legend: Vec<String> = if fits {
            vec![]
        } else {
            self.boxes.iter().zip(1..).map(|((name, _), n)| format!("{n}: {name}")).collect()
        };
        let y = self.y.scale(self.boxes.iter().flat_map(|(_, summary)| summary.values()))?;
        let place = Frame {
            x: &x,
            y: &y,
            right: None,
            legend: legend.iter().map(|name| (name.as_str(), Sample::Area)).collect(),
        }
        .draw(canvas)?;
        for (n, (_, summary)) in self.boxes.iter().enumerate() {
            let at = n as f64;
            let (left, middle, right) = (place.x(at - HALF), place.x(at), place.x(at + HALF));
            let (cap_left, cap_right) = (place.x(at - HALF / 2.0), place.x(at + HALF / 2.0));
            let [low, lower, median, upper, high] = summary.values().map(|value| place.y(value));
            let ink = BLACK.stroke_width(THIN);
            canvas.line([(middle, low), (middle, lower)], ink)?;
            canvas.line([(middle, upper), (middle, high)], ink)?;
            canvas.line([(cap_left, low), (cap_right, low)], ink)?;
            canvas.line([(cap_left, high), (cap_right, high)], ink)?;
            canvas.fill([(left, upper), (right, lower)], n)?;
            canvas.outline([(left, upper), (right, lower)], n)?;
            canvas.line([(left, median), (right, median)], BLACK.stroke_width(BOLD))?;
        }
        Ok(())
    }
}
