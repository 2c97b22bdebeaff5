//! Axes: what they are called, where they begin and end, where their ticks lie.

use super::PlotError;

/// An axis of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What is measured, with its unit.
    pub label: String,
    /// From where to where; by the data where that is `None`.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// An axis that spans the data.
    pub fn of(label: &str) -> Self {
        Self { label: label.into(), range: None }
    }

    /// An axis with its ends given.
    pub fn between(label: &str, low: f64, high: f64) -> Self {
        Self { label: label.into(), range: Some((low, high)) }
    }

    /// The axis with ticks at round numbers. Where its ends are not given, they are the ticks around the data.
    pub(super) fn scale(&self, data: impl IntoIterator<Item = f64>) -> Result<Scale, PlotError> {
        let (low, high) = match self.range {
            Some(range) => range,
            None => data.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                // Infinite from then on, so that it is found below; `min` and `max` would lose a NaN.
                if value.is_nan() { (f64::NEG_INFINITY, f64::INFINITY) } else { (low.min(value), high.max(value)) }
            }),
        };
        if !(low.is_finite() && high.is_finite() && low <= high) {
            let what = format!("axis {:?}: there are no finite numbers to show ({low} to {high})", self.label);
            return Err(PlotError::Data(what));
        }
        // A single value gets some room.
        let spread = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
        let step = round_step(spread / 5.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let (first, last) = match self.range {
            Some(_) => ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor()),
            None => ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil()),
        };
        let count = (last - first).max(0.0) as usize;
        let ticks: Vec<Tick> = (0..=count)
            .map(|n| {
                let at = (first + n as f64) * step;
                Tick { at, label: number(at, decimals) }
            })
            .collect();
        let ends = match self.range {
            Some(range) => range,
            None if count == 0 => (first * step - step, first * step + step),
            None => (first * step, last * step),
        };
        Ok(Scale { label: self.label.clone(), low: ends.0, high: ends.1, ticks })
    }
}

/// An axis ready to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    pub label: String,
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<Tick>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub at: f64,
    pub label: String,
}

impl Scale {
    /// Named places 0, 1, ... side by side.
    pub fn places(label: &str, names: impl IntoIterator<Item = String>) -> Self {
        let ticks: Vec<Tick> = names.into_iter().zip(0u32..).map(|(label, n)| Tick { at: n.into(), label }).collect();
        Self { label: label.into(), low: -0.5, high: ticks.len() as f64 - 0.5, ticks }
    }

    /// Where a value lies between the ends: 0 at the lower, 1 at the upper; at an end if it is beyond.
    pub fn share(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// With a real minus sign, and none before zero.
fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers_around_the_data() {
        let scale = Axis::of("NDCG@10").scale([0.312, 0.355, 0.338]).unwrap();
        assert_eq!(labels(&scale), ["0.31", "0.32", "0.33", "0.34", "0.35", "0.36"]);
        assert_eq!((scale.low, scale.high), (0.31, 0.36));
        let scale = Axis::of("cosine").scale([-0.4, 0.9]).unwrap();
        assert_eq!(labels(&scale), ["−0.5", "0.0", "0.5", "1.0"]);
        let scale = Axis::between("share", 0.0, 1.0).scale([]).unwrap();
        assert_eq!(labels(&scale), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let scale = Axis::of("users").scale([0.0, 22_363.0]).unwrap();
        assert_eq!(labels(&scale), ["0", "5000", "10000", "15000", "20000", "25000"]);
    }

    #[test]
    fn a_single_value_has_room_and_nothing_to_show_is_an_error() {
        let scale = Axis::of("x").scale([0.25]).unwrap();
        assert!(scale.low < 0.25 && scale.high > 0.25, "{scale:?}");
        let scale = Axis::of("x").scale([0.0]).unwrap();
        assert!(scale.low < 0.0 && scale.high > 0.0, "{scale:?}");
        assert!(matches!(Axis::of("x").scale([]), Err(PlotError::Data(_))));
        assert!(matches!(Axis::of("x").scale([1.0, f64::NAN, 2.0]), Err(PlotError::Data(_))));
        assert!(matches!(Axis::of("x").scale([1.0, f64::INFINITY]), Err(PlotError::Data(_))));
    }
}
