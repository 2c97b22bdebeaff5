//! What all figures share: size, font, colours, strokes.

use std::sync::OnceLock;

use plotters::{
    coord::Shift,
    drawing::DrawingArea,
    element::{Circle, PathElement, Polygon, Rectangle},
    prelude::DrawingBackend,
    style::{
        Color, FontStyle, FontTransform, IntoTextStyle, RGBColor, ShapeStyle, TextStyle, WHITE, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::PlotError;

pub(super) const WIDTH: u32 = 1050;
pub(super) const HEIGHT: u32 = 720;
/// 300 dots per inch.
pub(super) const PIXELS_PER_METRE: u32 = 11_811;
/// Strokes of data, and of everything else.
pub(super) const BOLD: u32 = 4;
pub(super) const THIN: u32 = 2;
/// From line to line of text.
pub(super) const LINE: i32 = 48;
/// Size of letters in pixels: some 8 points in print.
const EM: f64 = 33.0;

/// Okabe and Ito's colours: told apart by every eye, and by their lightness in grey print.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// A pixel, counted from the top left corner.
pub(super) type Point = (i32, i32);

/// The `n`-th series' colour.
pub(super) fn colour(n: usize) -> RGBColor {
    COLOURS[n % COLOURS.len()]
}

/// Makes the font known to the drawing library, once.
fn load_font() -> Result<(), PlotError> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let load = || register_font("sans-serif", FontStyle::Normal, include_bytes!("font/DejaVuSans-subset.ttf")).is_ok();
    if *LOADED.get_or_init(load) { Ok(()) } else { Err(PlotError::Draw("the font can't be read".into())) }
}

/// What one file format needs for text to look like that of the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lettering {
    /// The drawing library's size.
    size: f64,
    /// How far text has to be lowered for digits to be centred, in pixels.
    drop: i32,
}

impl Lettering {
    /// The library writes SVG with letters of size / 1.24, centred on half their x-height.
    pub const SVG: Self = Self { size: EM * 1.24, drop: 3 };
    /// The library takes the size for the font's whole height, 1.164 of its letters, and puts the base line too high.
    pub const BITMAP: Self = Self { size: EM * 1.164, drop: 8 };
}

/// Where a figure is drawn.
pub(super) struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    lettering: Lettering,
}

impl<B: DrawingBackend> Canvas<B> {
    /// An empty one.
    pub fn new(area: DrawingArea<B, Shift>, lettering: Lettering) -> Result<Self, PlotError> {
        load_font()?;
        area.fill(&WHITE)?;
        Ok(Self { area, lettering })
    }

    /// A line through points.
    pub fn line(&self, points: impl Into<Vec<Point>>, style: ShapeStyle) -> Result<(), PlotError> {
        Ok(self.area.draw(&PathElement::new(points.into(), style))?)
    }

    /// A see-through rectangle in the `n`-th series' colour.
    pub fn fill(&self, corners: [Point; 2], n: usize) -> Result<(), PlotError> {
        Ok(self.area.draw(&Rectangle::new(corners, colour(n).mix(0.35).filled()))?)
    }

    /// A rectangle's outline in the `n`-th series' colour.
    pub fn outline(&self, [(left, top), (right, bottom)]: [Point; 2], n: usize) -> Result<(), PlotError> {
        let style = bold(n);
        self.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], style)?;
        // Over the notch that remains at the first corner.
        self.line([(left - BOLD as i32 / 2, top), (right, top)], style)
    }

    /// A point of the `n`-th series; of another shape for each, since colours alone don't survive a grey print.
    pub fn marker(&self, (x, y): Point, n: usize) -> Result<(), PlotError> {
        const RADIUS: i32 = 11;
        let style = colour(n).filled();
        let corners: &[Point] = match n % 4 {
            0 => return Ok(self.area.draw(&Circle::new((x, y), RADIUS, style))?),
            1 => &[(-1, -1), (1, -1), (1, 1), (-1, 1)],
            2 => &[(0, -1), (1, 1), (-1, 1)],
            _ => &[(0, -1), (1, 0), (0, 1), (-1, 0)],
        };
        let corners: Vec<Point> = corners.iter().map(|&(dx, dy)| (x + dx * RADIUS, y + dy * RADIUS)).collect();
        Ok(self.area.draw(&Polygon::new(corners, style))?)
    }

    /// Text that begins, ends or has its middle at `x`; `y` is its middle.
    pub fn write(&self, text: &str, (x, y): Point, anchor: HPos) -> Result<(), PlotError> {
        let style = self.style().pos(Pos::new(anchor, VPos::Center));
        Ok(self.area.draw_text(text, &style, (x, y + self.lettering.drop))?)
    }

    /// Text that reads upwards around a point.
    pub fn write_upwards(&self, text: &str, (x, y): Point) -> Result<(), PlotError> {
        let style = self.style().transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Center));
        Ok(self.area.draw_text(text, &style, (x + self.lettering.drop, y))?)
    }

    /// How wide text is.
    pub fn width(&self, text: &str) -> Result<i32, PlotError> {
        // Measured at the size of the bitmap's letters, so that both formats are laid out alike.
        let style = ("sans-serif", Lettering::BITMAP.size).into_text_style(&self.area);
        Ok(self.area.estimate_text_size(text, &style)?.0 as i32)
    }

    /// Text that is no wider than `room`: cut short where it would be.
    pub fn fitted(&self, text: &str, room: i32) -> Result<String, PlotError> {
        let (mut fitted, mut left) = (text.to_owned(), text.to_owned());
        while self.width(&fitted)? > room && left.pop().is_some() {
            fitted = format!("{}…", left.trim_end());
        }
        Ok(fitted)
    }

    /// Ends the drawing.
    pub fn finish(self) -> Result<(), PlotError> {
        Ok(self.area.present()?)
    }

    fn style(&self) -> TextStyle<'static> {
        ("sans-serif", self.lettering.size).into_text_style(&self.area)
    }
}

/// A stroke that carries data, in the `n`-th series' colour.
pub(super) fn bold(n: usize) -> ShapeStyle {
    colour(n).stroke_width(BOLD)
}
