//! Whether long work shows how far it is.

/// For imports and other work on files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// Say nothing.
    #[default]
    Hidden,
    /// Bars on stderr, where that is a terminal.
    Bars,
}
