//! Stacked bars: wholes beside each other, and what they are made of.

use plotters::prelude::DrawingBackend;

use super::{
    Axis, PlotError,
    axis::Scale,
    canvas::Canvas,
    frame::{Frame, Sample},
};

/// Half the width of a bar, in bars.
const HALF: f64 = 0.25;

/// A bar per whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What tells the bars apart.
    pub x: String,
    /// What the heights are.
    pub y: Axis,
    /// The bars' names, from left to right.
    pub bars: Vec<String>,
    /// What they are made of, from below.
    pub segments: Vec<BarSegment>,
}

/// A part of every bar.
#[derive(Debug, Clone, PartialEq)]
pub struct BarSegment {
    /// As the legend calls it.
    pub name: String,
    /// How high it is in each bar.
    pub heights: Vec<f64>,
}

impl Bars {
    pub(super) fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), PlotError> {
        let count = self.bars.len();
        if count == 0 || self.segments.is_empty() {
            return Err(PlotError::Data("bars need names and segments".into()));
        }
        for BarSegment { name, heights } in &self.segments {
            if heights.len() != count || heights.iter().any(|height| !height.is_finite() || *height < 0.0) {
                return Err(PlotError::Data(format!("segment {name:?} needs {count} heights that are not negative")));
            }
        }
        let whole = |bar: usize| self.segments.iter().map(|segment| segment.heights[bar]).sum::<f64>();
        let x = Scale::places(&self.x, self.bars.iter().cloned());
        let y = self.y.scale((0..count).map(whole).chain([0.0]))?;
        let legend = self.segments.iter().map(|segment| (segment.name.as_str(), Sample::Area)).collect();
        let place = Frame { x: &x, y: &y, right: None, legend }.draw(canvas)?;
        for bar in 0..count {
            let (left, right) = (place.x(bar as f64 - HALF), place.x(bar as f64 + HALF));
            let mut below = 0.0;
            for (n, segment) in self.segments.iter().enumerate() {
                let above = below + segment.heights[bar];
                let corners = [(left, place.y(above)), (right, place.y(below))];
                // A part that is not there has no outline either.
                if segment.heights[bar] > 0.0 {
                    canvas.fill(corners, n)?;
                    canvas.outline(corners, n)?;
                }
                below = above;
            }
        }
        Ok(())
    }
}
