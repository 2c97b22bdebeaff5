//! Parity of the baselines' cores with reference implementations: scores, intermediates, gradients.
//!
//! `SESREC_GOLDEN_BASELINES` names the folders (default `../shared/golden_baselines`).

mod fixture;
mod fmlp;
mod gru4rec;
mod sasrec;
mod stamp;
mod towers;
