//! A model's named tensors.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor, Var};

/// A model's tensors by name, in the order of the names: the same in every run, so that seeds mean the same.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    learned: BTreeMap<String, Var>,
    fixed: BTreeMap<String, Var>,
}

impl Parameters {
    /// Makes every tensor trainable (a copy of it).
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        Self::partly_fixed(tensors, |_| false)
    }

    /// Copies of the tensors, trainable but for those that `is_fixed`: running statistics and fitted weights, which the
    /// model itself writes, and tables of rows.
    pub fn partly_fixed(tensors: &HashMap<String, Tensor>, is_fixed: impl Fn(&str) -> bool) -> Result<Self> {
        let mut parameters = Self::default();
        for (name, tensor) in tensors {
            let side = if is_fixed(name) { &mut parameters.fixed } else { &mut parameters.learned };
            side.insert(name.clone(), Var::from_tensor(&tensor.copy()?)?);
        }
        Ok(parameters)
    }

    /// What gradients move, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.learned.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Everything that a bundle holds, by name: what is learned, then what is not.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.learned.iter().chain(&self.fixed).map(|(name, var)| (name.as_str(), var))
    }

    /// One of those that learn.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.learned.get(name)
    }

    /// The present values of everything, detached from any graph and from later steps.
    pub fn snapshot(&self) -> Result<HashMap<String, Tensor>> {
        self.all().map(|(name, var)| Ok((name.to_owned(), var.as_detached_tensor().copy()?))).collect()
    }

    /// How many numbers are learned.
    pub fn count(&self) -> usize {
        self.learned.values().map(|var| var.elem_count()).sum()
    }
}
