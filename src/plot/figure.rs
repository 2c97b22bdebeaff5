//! Any figure, and the two files that it becomes.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use plotters::{
    backend::{BitMapBackend, SVGBackend},
    drawing::{DrawingAreaErrorKind, IntoDrawingArea},
    prelude::DrawingBackend,
};

use super::{
    Bars, BoxPlot, Histogram, LineChart,
    canvas::{Canvas, HEIGHT, Lettering, PIXELS_PER_METRE, WIDTH},
};

/// Why a figure can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Data that no picture can show.
    #[error("figure: {0}")]
    Data(String),
    /// The drawing library's error.
    #[error("figure: {0}")]
    Draw(String),
    /// A file can't be written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

impl PlotError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// A picture yet to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// How often values fall into bins, by series.
    Histogram(Histogram),
    /// Distributions beside each other.
    Boxes(BoxPlot),
    /// Wholes and their parts.
    Bars(Bars),
    /// Means with error bars over settings.
    Lines(LineChart),
}

impl Figure {
    /// Writes `dir/name.svg` and `dir/name.png`; the same figure gives the same bytes.
    ///
    /// # Errors
    /// If there is nothing to show, a number is not finite, or a file can't be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<[PathBuf; 2], PlotError> {
        let svg = dir.join(format!("{name}.svg"));
        fs::write(&svg, self.svg()?).map_err(PlotError::io(&svg))?;
        let png = dir.join(format!("{name}.png"));
        let pixels = self.pixels()?;
        encode(&pixels, &png).map_err(PlotError::io(&png))?;
        Ok([svg, png])
    }

    /// As SVG.
    pub(super) fn svg(&self) -> Result<String, PlotError> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        self.draw(Canvas::new(area, Lettering::SVG)?)?;
        Ok(svg)
    }

    /// As pixels: rows of red, green, blue.
    pub(super) fn pixels(&self) -> Result<Vec<u8>, PlotError> {
        let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
        let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, HEIGHT)).into_drawing_area();
        self.draw(Canvas::new(area, Lettering::BITMAP)?)?;
        Ok(pixels)
    }

    fn draw<B: DrawingBackend>(&self, canvas: Canvas<B>) -> Result<(), PlotError> {
        match self {
            Self::Histogram(histogram) => histogram.draw(&canvas),
            Self::Boxes(boxes) => boxes.draw(&canvas),
            Self::Bars(bars) => bars.draw(&canvas),
            Self::Lines(lines) => lines.draw(&canvas),
        }?;
        canvas.finish()
    }
}

fn encode(pixels: &[u8], path: &Path) -> io::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let density = PIXELS_PER_METRE;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: density, yppu: density, unit: png::Unit::Meter }));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(())
}
