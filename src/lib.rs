//! `sesrec`: a ranking service for products that have both search and recommendation.
//!
//! A request's way: [`service`] turns protobuf into [`domain`] values and checks them once → [`history`] loads the
//! user's searches and recommendations (memory, embedded, Redis) → [`data::Featurizer`] turns them into embedding rows
//! → [`engine`] admits the request, encodes the user unless that is cached, and scores all candidates in micro-batches
//! on the device's own thread → [`model`] computes (SESRec, in candle) → [`service`] orders and answers.
//!
//! A model's way: [`data`] imports logs → [`train`] learns → [`eval`] measures → [`model::Bundle`] is written, and
//! served. [`experiment`] does that for whole grids and compares, [`analysis`] looks inside. [`nn`] has the layers,
//! [`cli`] the commands, [`telemetry`] metrics and logs; [`table`] and [`plot`] show results, [`secrets`] hides what is
//! not to be shown.
//!
//! Dependencies point one way: `service` → `engine` → `model` → `nn`; `domain` is below all.

pub mod analysis;
pub mod cli;
pub mod config;
pub mod data;
pub mod domain;
pub mod engine;
pub mod eval;
pub mod experiment;
pub mod failures;
mod files;
pub mod history;
pub mod model;
pub mod nn;
pub mod plot;
pub mod proto;
pub mod secrets;
pub mod service;
pub mod table;
pub mod telemetry;
pub mod train;
mod units;
