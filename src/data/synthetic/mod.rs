//! Synthetic logs in KuaiSAR's layout whose truth is known: for trying everything out, and for measuring whether a
//! model finds what was planted.
//!
//! What is planted:
//! - **Items** belong to topics, topics to categories; topics, items within a topic, and queries are popular by Zipf.
//! - **Users** have interests, each a topic: shared by search and recommendation, only in recommendation, or only in
//!   search. Interests *drift*: now and then one gives way to a new topic, and recent ones weigh more. A new shared
//!   interest shows in a search first; recommendation clicks on it follow, so that searches foretell them before the
//!   recommendation history can.
//! - **Searches** are 57 % spontaneous, 43 % passive (set off by a recommendation just clicked); 23 % of the spontaneous
//!   ones are about interests that recommendation doesn't know (the paper's Fig. 1b). A search makes its topic *hot*:
//!   the next clicks are likely on it.
//! - **Noise**: clicks out of the blue, shown items and results without a click, searches without a click, foreign words.
//!
//! `truth.csv` says for every click and search what it was: `similar` (a shared interest), `dissimilar` (an interest of
//! one side only) or `none` (noise), where it came from, and its topic. The importer doesn't read it.
//!
//! Users are simulated one after another, each from a random stream of its own: memory is bounded by the items, and the
//! same options give the same bytes.

mod logs;
mod options;
mod summary;
mod truth;
mod user;
mod world;
mod write;

pub use options::SyntheticOptions;
pub use summary::Summary;
pub use truth::{TRUTH_FILE, Truth};
pub use user::Label as TruthLabel;
pub use write::write;
