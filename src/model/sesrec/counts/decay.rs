//! How counts fade with the age of what is counted.

/// How much less an older event counts, per event: the whole history, and what it was about lately.
pub(super) const DECAYS: [f32; 2] = [1.0, 0.5];

/// How much each of so many events counts by each of the [`DECAYS`], the newest first: together 1, so that long
/// histories have no larger sums than short ones.
pub(super) fn by_age(events: usize) -> impl Iterator<Item = [f32; DECAYS.len()]> {
    let faded = |counts: &[f32; DECAYS.len()]| Some(std::array::from_fn(|decay| counts[decay] * DECAYS[decay]));
    let by_age = std::iter::successors(Some([1.0; DECAYS.len()]), faded).take(events);
    let totals = by_age
        .clone()
        .fold([0.0; DECAYS.len()], |totals, counts| std::array::from_fn(|decay| totals[decay] + counts[decay]));
    by_age.map(move |counts| std::array::from_fn(|decay| counts[decay] / totals[decay]))
}

/// Their weighted sum.
pub(super) fn weighted(counts: [f32; DECAYS.len()], weights: &[f32]) -> f32 {
    counts.iter().zip(weights).map(|(count, weight)| count * weight).sum()
}
