//! The trainer on a matrix factorisation: small enough to train in milliseconds, and a second model behind the traits.

mod factorisation;
mod failures;
mod learning;
mod refit;
mod resuming;
mod runs;
