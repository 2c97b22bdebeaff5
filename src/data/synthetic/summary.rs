//! What came of it, in numbers.

use std::fmt;

use indicatif::HumanCount;

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Users.
    pub users: u64,
    /// Items.
    pub items: u64,
    /// Topics.
    pub topics: u64,
    /// Clicked recommendations.
    pub clicks: u64,
    /// Recommendations that were shown and not clicked.
    pub unclicked: u64,
    /// Searches.
    pub searches: u64,
    /// Shown search results, clicked or not.
    pub results: u64,
    /// Searches that were not set off by a recommendation.
    pub spontaneous: u64,
    /// Spontaneous searches about interests that recommendation doesn't know.
    pub dissimilar: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(
            f,
            "{} users, {} items in {} topics",
            HumanCount(self.users),
            HumanCount(self.items),
            HumanCount(self.topics)
        )?;
        writeln!(
            f,
            "{} recommendations clicked, {} shown and not clicked",
            HumanCount(self.clicks),
            HumanCount(self.unclicked)
        )?;
        write!(
            f,
            "{} searches ({} shown results): {:.1} % spontaneous, {:.1} % passive; {:.1} % of the spontaneous ones dissimilar",
            HumanCount(self.searches),
            HumanCount(self.results),
            share(self.spontaneous, self.searches),
            share(self.searches - self.spontaneous, self.searches),
            share(self.dissimilar, self.spontaneous)
        )
    }
}
