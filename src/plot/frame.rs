//! The frame around the data: axes with ticks and labels, faint lines across, the legend above.

use plotters::{
    prelude::DrawingBackend,
    style::{BLACK, Color, RGBColor, text_anchor::HPos},
};

use super::{
    PlotError,
    axis::Scale,
    canvas::{Canvas, HEIGHT, LINE, THIN, WIDTH, bold},
};

const MARGIN: i32 = 14;
const TICK: i32 = 9;
const GAP: i32 = 8;
const GRID: RGBColor = RGBColor(222, 222, 222);
/// Length of a legend's sample.
const SAMPLE: i32 = 54;

/// How a legend shows a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    Area,
    Line,
}

/// The axes of a figure, and where data lies between them.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub x: &'a Scale,
    pub y: &'a Scale,
    /// A second y axis, on the right.
    pub right: Option<&'a Scale>,
    pub legend: Vec<(&'a str, Sample)>,
}

/// A drawn frame.
#[derive(Debug)]
pub(super) struct Place<'a> {
    frame: Frame<'a>,
    left: i32,
    end: i32,
    top: i32,
    bottom: i32,
}

impl<'a> Frame<'a> {
    /// Draws everything but the data.
    pub fn draw<B: DrawingBackend>(self, canvas: &Canvas<B>) -> Result<Place<'a>, PlotError> {
        let widest = |scale: &Scale| -> Result<i32, PlotError> {
            let widths = scale.ticks.iter().map(|tick| canvas.width(&tick.label)).collect::<Result<Vec<_>, _>>()?;
            Ok(widths.into_iter().max().unwrap_or(0))
        };
        let beside = |scale: &Scale| Ok::<_, PlotError>(MARGIN + LINE + GAP + widest(scale)? + GAP + TICK);
        let (left, right) = (beside(self.y)?, self.right.map_or(Ok(MARGIN), beside)?);
        // The last label of the x axis may reach beyond it.
        let overhang = self.x.ticks.last().map_or(Ok(0), |tick| {
            let room = (1.0 - self.x.share(tick.at)) * f64::from(WIDTH as i32 - left - right);
            canvas.width(&tick.label).map(|width| (width / 2 - room as i32).max(0))
        })?;
        let rows = self.legend_rows(canvas)?;
        let place = Place {
            left,
            end: WIDTH as i32 - right.max(MARGIN + overhang),
            top: MARGIN + LINE / 2 + rows.len() as i32 * LINE,
            bottom: HEIGHT as i32 - MARGIN - 2 * LINE - TICK,
            frame: self,
        };
        place.draw_legend(canvas, &rows)?;
        place.draw_axes(canvas)?;
        Ok(place)
    }

    /// The legend's entries with their places, as many in a row as fit.
    fn legend_rows<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<Vec<Vec<(usize, i32)>>, PlotError> {
        let room = WIDTH as i32 - 2 * MARGIN;
        let (mut rows, mut x) = (Vec::<Vec<(usize, i32)>>::new(), room);
        for (n, (name, _)) in self.legend.iter().enumerate() {
            let entry = SAMPLE + GAP + canvas.width(name)? + 3 * GAP;
            if x + entry > room {
                rows.push(vec![]);
                x = 0;
            }
            if let Some(row) = rows.last_mut() {
                row.push((n, x));
            }
            x += entry;
        }
        Ok(rows)
    }
}

impl Place<'_> {
    /// The pixel of an x value.
    pub fn x(&self, value: f64) -> i32 {
        self.left + (self.frame.x.share(value) * f64::from(self.end - self.left)).round() as i32
    }

    /// The pixel of a y value.
    pub fn y(&self, value: f64) -> i32 {
        self.height(self.frame.y, value)
    }

    /// The pixel of a value of the right axis; of the left one where there is no other.
    pub fn right_y(&self, value: f64) -> i32 {
        self.height(self.frame.right.unwrap_or(self.frame.y), value)
    }

    fn height(&self, scale: &Scale, value: f64) -> i32 {
        self.bottom - (scale.share(value) * f64::from(self.bottom - self.top)).round() as i32
    }

    fn draw_axes<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), PlotError> {
        let Self { ref frame, left, end, top, bottom } = *self;
        let ink = BLACK.stroke_width(THIN);
        for tick in &frame.y.ticks {
            let y = self.y(tick.at);
            canvas.line([(left, y), (end, y)], GRID.stroke_width(THIN))?;
            canvas.line([(left - TICK, y), (left, y)], ink)?;
            canvas.write(&tick.label, (left - TICK - GAP, y), HPos::Right)?;
        }
        for tick in &frame.x.ticks {
            let x = self.x(tick.at);
            canvas.line([(x, bottom), (x, bottom + TICK)], ink)?;
            canvas.write(&tick.label, (x, bottom + TICK + LINE / 2), HPos::Center)?;
        }
        if let Some(right) = frame.right {
            for tick in &right.ticks {
                let y = self.right_y(tick.at);
                canvas.line([(end, y), (end + TICK, y)], ink)?;
                canvas.write(&tick.label, (end + TICK + GAP, y), HPos::Left)?;
            }
            canvas.write_upwards(&right.label, (WIDTH as i32 - MARGIN - LINE / 2, (top + bottom) / 2))?;
        }
        canvas.line([(left, top), (left, bottom), (end, bottom), (end, top), (left, top)], ink)?;
        let below = (i32::midpoint(left, end), HEIGHT as i32 - MARGIN - LINE / 2);
        canvas.write(&frame.x.label, below, HPos::Center)?;
        canvas.write_upwards(&frame.y.label, (MARGIN + LINE / 2, (top + bottom) / 2))
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<B>, rows: &[Vec<(usize, i32)>]) -> Result<(), PlotError> {
        for (row, entries) in rows.iter().enumerate() {
            let middle = MARGIN + LINE / 2 + row as i32 * LINE;
            // A single row stands over the data.
            let shift = if rows.len() == 1 { self.left } else { MARGIN };
            for &(n, x) in entries {
                let (name, sample) = self.frame.legend[n];
                let x = x + shift.min(WIDTH as i32 - MARGIN - self.row_width(canvas, entries)?);
                match sample {
                    Sample::Area => {
                        let corners = [(x, middle - LINE / 4), (x + SAMPLE, middle + LINE / 4)];
                        canvas.fill(corners, n)?;
                        canvas.outline(corners, n)?;
                    }
                    Sample::Line => {
                        canvas.line([(x, middle), (x + SAMPLE, middle)], bold(n))?;
                        canvas.marker((x + SAMPLE / 2, middle), n)?;
                    }
                }
                canvas.write(name, (x + SAMPLE + GAP, middle), HPos::Left)?;
            }
        }
        Ok(())
    }

    fn row_width<B: DrawingBackend>(&self, canvas: &Canvas<B>, entries: &[(usize, i32)]) -> Result<i32, PlotError> {
        let Some(&(n, x)) = entries.last() else { return Ok(0) };
        Ok(x + SAMPLE + GAP + canvas.width(self.frame.legend[n].0)?)
    }
}
