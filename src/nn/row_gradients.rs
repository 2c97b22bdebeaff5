//! Gradients of tables, collected from all of their lookups: in one piece, where candle's backward pass would make a
//! whole gradient for each lookup and add them up; or by row: what a training step costs then depends on the rows that
//! its batch looked up, not on how many the table has.

use std::{cell::RefCell, collections::HashMap};

use candle_core::{D, Result, Tensor, TensorId, backprop::GradStore};

use super::{
    host,
    vector::{self, vectorized},
};

/// Gradients of a loss by parameter.
#[derive(Debug)]
pub struct Gradients {
    dense: GradStore,
    looked_up: HashMap<TensorId, TableGradient>,
}

impl From<GradStore> for Gradients {
    fn from(dense: GradStore) -> Self {
        Self { dense, looked_up: HashMap::new() }
    }
}

/// How the gradient of what was looked up is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Of the whole table.
    Whole,
    /// Of the rows that were looked up.
    Rows,
}

/// What lookups brought to a table.
#[derive(Debug)]
pub(super) enum TableGradient {
    /// As long as the table.
    Whole(Vec<f32>),
    /// Zero but for some rows.
    Rows(RowGradient),
}

impl TableGradient {
    /// Adds it to a dense one `[table's rows, d]`.
    pub(super) fn add_to(&self, dense: &mut [f32]) {
        match self {
            Self::Whole(values) => vector::add_scaled(dense, values, 1.0),
            Self::Rows(rows) => rows.add_to(dense),
        }
    }
}

impl Gradients {
    /// Runs the backward pass of `loss`, and collects what lookups bring to one of `tables`. On devices other than the
    /// CPU all gradients are candle's.
    pub fn collect<'a>(loss: &Tensor, tables: impl IntoIterator<Item = &'a Tensor>, keep: Keep) -> Result<Self> {
        let tables = tables.into_iter().map(|table| (table.id(), None)).collect();
        let collection = Collection::begin(Collecting { keep, tables });
        let dense = loss.backward()?;
        Ok(Self { dense, looked_up: collection.end() })
    }

    /// What reached a parameter in other ways than by lookups.
    pub(super) fn dense(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.dense.get(parameter)
    }

    /// What lookups brought to it.
    pub(super) fn looked_up(&self, parameter: &Tensor) -> Option<&TableGradient> {
        self.looked_up.get(&parameter.id())
    }
}

/// A table's gradient: zero but for these rows.
#[derive(Debug, Default)]
pub(super) struct RowGradient {
    rows: Vec<u32>,
    values: Vec<f32>,
    places: hashbrown::HashMap<u32, usize>,
}

impl RowGradient {
    /// Distinct rows.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// `[rows, d]`.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    fn add_to(&self, dense: &mut [f32]) {
        let d = self.values.len().checked_div(self.rows.len()).unwrap_or(0);
        for (&row, values) in self.rows.iter().zip(self.values.chunks_exact(d.max(1))) {
            vector::add_scaled(&mut dense[row as usize * d..(row as usize + 1) * d], values, 1.0);
        }
    }
}

/// Where a lookup's gradient goes to.
pub(super) trait Destination {
    /// The gradient of a row of width `d`, to be added to.
    fn row(&mut self, row: u32, d: usize) -> &mut [f32];
}

/// All rows.
impl Destination for Vec<f32> {
    #[inline(always)]
    fn row(&mut self, row: u32, d: usize) -> &mut [f32] {
        &mut self[row as usize * d..(row as usize + 1) * d]
    }
}

impl Destination for RowGradient {
    #[inline(always)]
    fn row(&mut self, row: u32, d: usize) -> &mut [f32] {
        let next = self.rows.len();
        let place = *self.places.entry(row).or_insert(next);
        if place == next {
            self.rows.push(row);
            self.values.resize((next + 1) * d, 0.0);
        }
        &mut self.values[place * d..(place + 1) * d]
    }
}

/// An operator that looks rows of a table up.
pub(super) trait Scatter {
    /// Adds what `values`, the gradient of the result, are for every looked-up row of width `d`. Inlined, to be
    /// compiled for the machine's widest vectors.
    fn scatter(&self, values: &[f32], d: usize, destination: &mut impl Destination);
}

/// The backward pass of a lookup in `table [.., d]`; `None` where its rows' gradients are collected.
pub(super) fn scattered(lookup: &impl Scatter, table: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
    let gradient = gradient.contiguous()?;
    let (storage, layout) = gradient.storage_and_layout();
    let (values, d) = (host::stored(&storage, layout)?, table.dim(D::Minus1)?);
    let collected = COLLECTING.with_borrow_mut(|collecting| {
        let Collecting { keep, tables } = collecting.as_mut()?;
        let collected = tables.get_mut(&table.id())?.get_or_insert_with(|| match keep {
            Keep::Whole => TableGradient::Whole(vec![0.0; table.elem_count()]),
            Keep::Rows => TableGradient::Rows(RowGradient::default()),
        });
        vectorized(
            #[inline(always)]
            || match collected {
                TableGradient::Whole(whole) => lookup.scatter(values, d, whole),
                TableGradient::Rows(rows) => lookup.scatter(values, d, rows),
            },
        );
        Some(())
    });
    if collected.is_some() {
        return Ok(None);
    }
    let mut dense = vec![0.0; table.elem_count()];
    vectorized(
        #[inline(always)]
        || lookup.scatter(values, d, &mut dense),
    );
    Ok(Some(Tensor::from_vec(dense, table.shape(), table.device())?))
}

thread_local! {
    /// The backward pass that is under way on this thread: candle gives its operators no context.
    static COLLECTING: RefCell<Option<Collecting>> = const { RefCell::new(None) };
}

struct Collecting {
    keep: Keep,
    /// `None` where nothing was looked up yet.
    tables: HashMap<TensorId, Option<TableGradient>>,
}

/// Collects until it is dropped, also where a backward pass fails.
struct Collection;

impl Collection {
    fn begin(collecting: Collecting) -> Self {
        COLLECTING.set(Some(collecting));
        Self
    }

    fn end(self) -> HashMap<TensorId, TableGradient> {
        let tables = COLLECTING.take().map(|collecting| collecting.tables).unwrap_or_default();
        tables.into_iter().filter_map(|(id, gradient)| Some((id, gradient?))).collect()
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        COLLECTING.set(None);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::{RowZero, gather_rows, mean_rows};

    fn table() -> Var {
        let values: Vec<f32> = (0..40).map(|n| (n as f32 * 0.7).sin()).collect();
        Var::from_tensor(&Tensor::from_vec(values, (10, 4), &Device::Cpu).unwrap()).unwrap()
    }

    /// Several lookups of some rows, of padding, and once the table as a whole.
    fn loss(table: &Tensor, dense: bool) -> Tensor {
        let looked_up = gather_rows(table, &[3, 0, 3, 7], RowZero::Frozen).unwrap();
        let means = mean_rows(table, &[7, 2, 0, 0, 0, 9], 3).unwrap();
        let sum = (looked_up.sqr().unwrap().sum_all().unwrap() + means.sqr().unwrap().sum_all().unwrap()).unwrap();
        if dense { (sum + table.sqr().unwrap().sum_all().unwrap()).unwrap() } else { sum }
    }

    #[test]
    fn what_is_collected_is_the_dense_gradient() {
        let table = table();
        let expected = loss(&table, false).backward().unwrap();
        let expected = expected.get(&table).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for keep in [Keep::Whole, Keep::Rows] {
            let gradients = Gradients::collect(&loss(&table, false), [table.as_tensor()], keep).unwrap();
            assert!(gradients.dense(&table).is_none());
            let collected = gradients.looked_up(&table).unwrap();
            if let TableGradient::Rows(rows) = collected {
                let mut sorted = rows.rows().to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, [2, 3, 7, 9], "padding learns nothing");
            }
            let mut found = vec![0.0; 40];
            collected.add_to(&mut found);
            assert_eq!(found, expected, "{keep:?}");
        }
    }

    #[test]
    fn other_ways_than_lookups_stay_dense_and_the_next_pass_is_free() {
        let table = table();
        let expected = loss(&table, true).backward().unwrap();
        let expected: Vec<f32> = expected.get(&table).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for keep in [Keep::Whole, Keep::Rows] {
            let gradients = Gradients::collect(&loss(&table, true), [table.as_tensor()], keep).unwrap();
            let mut found: Vec<f32> = gradients.dense(&table).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            gradients.looked_up(&table).unwrap().add_to(&mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}, {keep:?}");
            }
        }
        let expected = loss(&table, false).backward().unwrap();
        assert!(expected.get(&table).is_some(), "nothing is collected any more");
    }

    #[test]
    fn a_table_that_nothing_was_looked_up_in_has_no_gradient() {
        let (table, other) = (table(), table());
        let gradients = Gradients::collect(&loss(&table, false), [other.as_tensor()], Keep::Whole).unwrap();
        assert!(gradients.looked_up(&other).is_none() && gradients.dense(&table).is_some());
    }
}
