//! Lines with error bars over settings.

use plotters::{prelude::DrawingBackend, style::Color};

use super::{
    Axis, PlotError,
    axis::Scale,
    canvas::{Canvas, Point, THIN, bold, colour},
    frame::{Frame, Sample},
};

/// Half the width of an error bar's caps, in pixels.
const CAP: i32 = 12;

/// How measures depend on a setting.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// What is set.
    pub x: String,
    /// To what, evenly spaced: values of a study are seldom spaced evenly themselves.
    pub ticks: Vec<String>,
    /// The axis of most series.
    pub left: Axis,
    /// A second one, for measures of another size.
    pub right: Option<Axis>,
    /// What is measured.
    pub series: Vec<LineSeries>,
}

/// One of a chart's lines.
#[derive(Debug, Clone, PartialEq)]
pub struct LineSeries {
    /// As the legend calls it.
    pub name: String,
    /// Which axis it is read from.
    pub side: Side,
    /// One per tick; a missing one interrupts the line.
    pub points: Vec<Option<LinePoint>>,
}

/// A y axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The first.
    #[default]
    Left,
    /// The second.
    Right,
}

/// A point with its error bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinePoint {
    /// Where the point is.
    pub mean: f64,
    /// How far the bar reaches to either side; 0 draws none.
    pub deviation: f64,
}

impl LineChart {
    pub(super) fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), PlotError> {
        self.check()?;
        let x = Scale::places(&self.x, self.ticks.iter().cloned());
        let y = self.left.scale(self.reach(Side::Left))?;
        let right = self.right.as_ref().map(|axis| axis.scale(self.reach(Side::Right))).transpose()?;
        let legend = self.series.iter().map(|series| (series.name.as_str(), Sample::Line)).collect();
        let place = Frame { x: &x, y: &y, right: right.as_ref(), legend }.draw(canvas)?;
        for (n, series) in self.series.iter().enumerate() {
            let height = |value: f64| match series.side {
                Side::Left => place.y(value),
                Side::Right => place.right_y(value),
            };
            let points: Vec<Option<Point>> = series
                .points
                .iter()
                .enumerate()
                .map(|(tick, point)| point.map(|point| (place.x(tick as f64), height(point.mean))))
                .collect();
            for run in points.split(Option::is_none).filter(|run| run.len() > 1) {
                canvas.line(run.iter().flatten().copied().collect::<Vec<Point>>(), bold(n))?;
            }
            for (at, point) in points.iter().zip(&series.points).filter_map(|(at, point)| Some(((*at)?, (*point)?))) {
                if point.deviation > 0.0 {
                    let style = colour(n).stroke_width(THIN + 1);
                    let (low, high) = (height(point.mean - point.deviation), height(point.mean + point.deviation));
                    canvas.line([(at.0, low), (at.0, high)], style)?;
                    canvas.line([(at.0 - CAP, low), (at.0 + CAP, low)], style)?;
                    canvas.line([(at.0 - CAP, high), (at.0 + CAP, high)], style)?;
                }
                canvas.marker(at, n)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), PlotError> {
        let wrong = |message: String| Err(PlotError::Data(message));
        if self.ticks.is_empty() || self.series.is_empty() {
            return wrong("a line chart needs ticks and a series".into());
        }
        for LineSeries { name, side, points } in &self.series {
            if points.len() != self.ticks.len() {
                return wrong(format!("series {name:?} has {} points for {} ticks", points.len(), self.ticks.len()));
            }
            if *side == Side::Right && self.right.is_none() {
                return wrong(format!("series {name:?} is read from the right, where there is no axis"));
            }
            if points.iter().flatten().any(|point| point.deviation.is_nan() || point.deviation < 0.0) {
                return wrong(format!("series {name:?} has a deviation that is none"));
            }
        }
        Ok(())
    }

    /// How far a side's series reach with their error bars.
    fn reach(&self, side: Side) -> impl Iterator<Item = f64> {
        let series = self.series.iter().filter(move |series| series.side == side);
        let points = series.flat_map(|series| series.points.iter().flatten());
        points.flat_map(|point| [point.mean - point.deviation, point.mean + point.deviation])
    }
}
