//! Parity of the baselines' cores with reference implementations: scores, intermediates, gradients.
//!
//! `SESREC_GOLDEN_BASELINES` names the folders (default `../shared/golden_baselines`).

mod beauty;
mod dien;
mod din;
mod fixture;
mod fmlp;
mod gru4rec;
mod iv4rec;
mod jsr;
mod nrhub;
mod query_seqrec;
mod sasrec;
mod sizes;
#[path = "../support/skip.rs"]
mod skip;
mod srjgraph;
mod stamp;
mod towers;
