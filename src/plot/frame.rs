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
    /// As the legend has room for them.
    names: Vec<String>,
    /// The labels of the y axes, left and right, in lines.
    labels: [Vec<String>; 2],
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
        let beside = |scale: &Scale, label: &[String]| -> Result<i32, PlotError> {
            Ok(MARGIN + label.len() as i32 * LINE + GAP + widest(scale)? + GAP + TICK)
        };
        let names = self.names(canvas)?;
        let rows = legend_rows(canvas, &names)?;
        let below_legend = MARGIN + rows.len() as i32 * LINE;
        let label = |scale: &Scale| upright_lines(canvas, &scale.label, HEIGHT as i32 - MARGIN - below_legend - GAP);
        let labels = [label(self.y)?, self.right.map_or(Ok(vec![]), label)?];
        let left = beside(self.y, &labels[0])?;
        let right = self.right.map_or(Ok(MARGIN), |scale| beside(scale, &labels[1]))?;
        // The last label of the x axis may reach beyond it.
        let overhang = self.x.ticks.last().map_or(Ok(0), |tick| {
            let room = (1.0 - self.x.share(tick.at)) * f64::from(WIDTH as i32 - left - right);
            canvas.width(&tick.label).map(|width| (width / 2 - room as i32).max(0))
        })?;
        let place = Place {
            left,
            end: WIDTH as i32 - right.max(MARGIN + overhang),
            top: below_legend + LINE / 2,
            bottom: HEIGHT as i32 - MARGIN - 2 * LINE - TICK,
            names,
            labels,
            frame: self,
        };
        place.draw_legend(canvas, &rows)?;
        place.draw_axes(canvas)?;
        Ok(place)
    }

    /// The legend's names, each short enough for a row.
    fn names<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<Vec<String>, PlotError> {
        let room = WIDTH as i32 - 2 * MARGIN - SAMPLE - GAP;
        self.legend.iter().map(|(name, _)| canvas.fitted(name, room)).collect()
    }
}

/// The legend's entries with their places, as many in a row as fit.
fn legend_rows<B: DrawingBackend>(canvas: &Canvas<B>, names: &[String]) -> Result<Vec<Vec<(usize, i32)>>, PlotError> {
    let room = WIDTH as i32 - 2 * MARGIN;
    let (mut rows, mut x) = (Vec::<Vec<(usize, i32)>>::new(), room);
    for (n, name) in names.iter().enumerate() {
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

/// A label beside an axis that is `room` long at most: as it is, or on two lines, divided where both are shortest.
fn upright_lines<B: DrawingBackend>(canvas: &Canvas<B>, label: &str, room: i32) -> Result<Vec<String>, PlotError> {
    if canvas.width(label)? <= room {
        return Ok(vec![label.to_owned()]);
    }
    let longer = |&(at, _): &(usize, &str)| at.max(label.len() - at);
    let lines = match label.match_indices(' ').min_by_key(longer) {
        Some((at, _)) => vec![&label[..at], &label[at + 1..]],
        None => vec![label],
    };
    lines.into_iter().map(|line| canvas.fitted(line, room)).collect()
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
        let Self { ref frame, ref labels, left, end, top, bottom, .. } = *self;
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
        }
        canvas.line([(left, top), (left, bottom), (end, bottom), (end, top), (left, top)], ink)?;
        let below = (i32::midpoint(left, end), HEIGHT as i32 - MARGIN - LINE / 2);
        canvas.write(&frame.x.label, below, HPos::Center)?;
        let [on_left, on_right] = labels;
        let first = [MARGIN, WIDTH as i32 - MARGIN - on_right.len() as i32 * LINE];
        for (lines, first) in [on_left, on_right].into_iter().zip(first) {
            for (line, n) in lines.iter().zip(0..) {
                canvas.write_upwards(line, (first + n * LINE + LINE / 2, self.middle(canvas.width(line)?)))?;
            }
        }
        Ok(())
    }

    /// Where the middle of an upright label is that is so long: beside the axis' middle, unless it would reach into the
    /// legend or out of the picture.
    fn middle(&self, length: i32) -> i32 {
        let (half, below_legend) = (length / 2, self.top - LINE / 2);
        i32::midpoint(self.top, self.bottom).min(HEIGHT as i32 - MARGIN - half).max(below_legend + GAP + half)
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<B>, rows: &[Vec<(usize, i32)>]) -> Result<(), PlotError> {
        for (row, entries) in rows.iter().enumerate() {
            let middle = MARGIN + LINE / 2 + row as i32 * LINE;
            // A single row stands over the data.
            let shift = if rows.len() == 1 { self.left } else { MARGIN };
            for &(n, x) in entries {
                let (name, (_, sample)) = (&self.names[n], self.frame.legend[n]);
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
        Ok(x + SAMPLE + GAP + canvas.width(&self.names[n])?)
    }
}
