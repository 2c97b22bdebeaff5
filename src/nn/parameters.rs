//! Named trainable tensors.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor, Var};

/// Trainable tensors by name, in the order of the names: the same in every run, so that seeds mean the same.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
}

impl Parameters {
    /// Makes every tensor trainable (a copy of it).
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let vars = tensors.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(&tensor.copy()?)?)));
        Ok(Self { vars: vars.collect::<Result<_>>()? })
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.vars.get(name)
    }

    /// Their present values, detached from any graph and from later steps.
    pub fn snapshot(&self) -> Result<HashMap<String, Tensor>> {
        self.vars.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?))).collect()
    }

    /// How many numbers they hold.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }
}
