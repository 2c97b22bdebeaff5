//! What the metrics port says.

/// The value of a series.
pub fn value(page: &str, series: &str) -> f64 {
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no series {series} in\n{page}")).parse().unwrap()
}
