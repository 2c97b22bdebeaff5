//! A model's tensors: their list, their initial values, their check, and finding them by name.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::ModelError;
use crate::nn::{BatchNorm, Initial, LayerNorm, Linear, Parameters, all_finite, values};

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its values come from.
    pub role: Role,
}

/// Where the values of a tensor come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// 32-bit floats that the optimizer moves, from these initial values.
    Learned(Initial),
    /// 32-bit floats that training sets by itself, from this value: the running statistics of batch normalisation,
    /// weights that are [fitted](super::TrainableModel::fit_held_out).
    Statistic(f32),
    /// Rows (u32) that the model's `Architecture::tables` were built with: neighbours in a graph, the
    /// queries of an item.
    Table,
    /// The same, as many of them as there are: the shape's first dimension is not fixed.
    List,
}

impl Role {
    fn dtype(self) -> DType {
        match self {
            Self::Learned(_) | Self::Statistic(_) => DType::F32,
            Self::Table | Self::List => DType::U32,
        }
    }
}

/// Collects a model's tensors.
#[derive(Debug, Default)]
pub struct ParameterList(Vec<Parameter>);

impl ParameterList {
    /// One that learns.
    pub fn add(&mut self, name: String, shape: &[usize], initial: Initial) {
        self.push(name, shape, Role::Learned(initial));
    }

    /// One that learns from Xavier normal values.
    pub fn xavier(&mut self, name: String, shape: &[usize]) {
        self.add(name, shape, Initial::XavierNormal);
    }

    /// `{name}.weight [outputs, inputs]`, Xavier normal, and `{name}.bias [outputs]`, zero.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.linear_from(name, outputs, inputs, Initial::XavierNormal);
    }

    /// As [`linear`](Self::linear), with other initial weights.
    pub fn linear_from(&mut self, name: &str, outputs: usize, inputs: usize, weights: Initial) {
        self.add(format!("{name}.weight"), &[outputs, inputs], weights);
        self.add(format!("{name}.bias"), &[outputs], Initial::Constant(0.0));
    }

    /// `{name}.weight [d]`, one, and `{name}.bias [d]`, zero.
    pub fn norm(&mut self, name: &str, d: usize) {
        self.add(format!("{name}.weight"), &[d], Initial::Constant(1.0));
        self.add(format!("{name}.bias"), &[d], Initial::Constant(0.0));
    }

    /// Batch normalisation: `{name}.weight [c]`, one, `{name}.bias [c]`, zero, and the running statistics
    /// `{name}.running_mean [c]` and `{name}.running_var [c]`.
    pub fn batch_norm(&mut self, name: &str, c: usize) {
        self.norm(name, c);
        self.statistic(format!("{name}.running_mean"), &[c], 0.0);
        self.statistic(format!("{name}.running_var"), &[c], 1.0);
    }

    /// One that training sets by itself, from this value.
    pub fn statistic(&mut self, name: String, shape: &[usize], value: f32) {
        self.push(name, shape, Role::Statistic(value));
    }

    /// Weights that are [fitted](super::TrainableModel::fit_held_out), from zero.
    pub fn fitted(&mut self, name: String, shape: &[usize]) {
        self.statistic(name, shape, 0.0);
    }

    /// A table of rows.
    pub fn table(&mut self, name: String, shape: &[usize]) {
        self.push(name, shape, Role::Table);
    }

    /// A list of rows `[any number, width]`.
    pub fn list(&mut self, name: String, width: usize) {
        self.push(name, &[0, width], Role::List);
    }

    /// All of them.
    pub fn into_parameters(self) -> Vec<Parameter> {
        self.0
    }

    fn push(&mut self, name: String, shape: &[usize], role: Role) {
        self.0.push(Parameter { name, shape: shape.to_vec(), role });
    }
}

/// New values of all that isn't a table; equal seeds give equal ones.
///
/// # Errors
/// If a tensor can't be made.
pub fn initialise(parameters: &[Parameter], seed: u64) -> Result<HashMap<String, Tensor>, ModelError> {
    let tensors = parameters.iter().filter_map(|Parameter { name, shape, role }| {
        let tensor = match role {
            Role::Learned(initial) => initial.tensor(name, shape, seed),
            Role::Statistic(value) => Initial::Constant(*value).tensor(name, shape, seed),
            Role::Table | Role::List => return None,
        };
        Some(tensor.map(|tensor| (name.clone(), tensor)).map_err(ModelError::from))
    });
    tensors.collect()
}

/// Copies of the tensors on a device, of which those that learn are variables.
///
/// # Errors
/// If the device can't hold them.
pub fn variables(
    parameters: &[Parameter],
    tensors: &HashMap<String, Tensor>,
    device: &Device,
) -> Result<Parameters, ModelError> {
    let fixed = |name: &str| parameters.iter().any(|p| p.name == name && !matches!(p.role, Role::Learned(_)));
    Ok(Parameters::partly_fixed(&on_device(tensors, device)?, fixed)?)
}

/// Checks that the tensors are these.
///
/// # Errors
/// Names the first that is missing, unexpected, of another shape or type, or not finite.
pub fn check(parameters: &[Parameter], tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
    for Parameter { name, shape, role } in parameters {
        let fail = |message: String| Err(ModelError::Weights { name: name.clone(), message });
        let Some(tensor) = tensors.get(name) else { return fail(format!("is missing; expected shape {shape:?}")) };
        let free = usize::from(*role == Role::List).min(tensor.rank());
        if tensor.rank() != shape.len() || tensor.dims()[free..] != shape[free..] {
            let expected = match role {
                Role::List => format!("any number of rows, {} wide", shape[1]),
                _ => format!("{shape:?}"),
            };
            return fail(format!("has shape {:?}; the configuration makes it {expected}", tensor.dims()));
        }
        if tensor.dtype() != role.dtype() {
            return fail(format!("has type {:?}; expected {:?}", tensor.dtype(), role.dtype()));
        }
        if tensor.dtype() == DType::F32 {
            let tensor = tensor.contiguous()?.to_device(&Device::Cpu)?;
            let values = values(&tensor)?;
            if !all_finite(&values) {
                let position = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
                return fail(format!("is not finite at element {position}: {}", values[position]));
            }
        }
    }
    let mut unexpected: Vec<&String> =
        tensors.keys().filter(|name| parameters.iter().all(|parameter| parameter.name != **name)).collect();
    unexpected.sort();
    match unexpected.first() {
        Some(name) => Err(ModelError::Weights {
            name: (*name).clone(),
            message: "is not part of a model with this configuration".into(),
        }),
        None => Ok(()),
    }
}

/// Tensors by name: trainable variables, or what a bundle holds.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a>(&'a HashMap<String, Tensor>);

impl<'a> Weights<'a> {
    /// Over tensors on one device.
    pub fn new(tensors: &'a HashMap<String, Tensor>) -> Self {
        Self(tensors)
    }

    /// A tensor.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn get(&self, name: &str) -> Result<Tensor, ModelError> {
        self.0.get(name).cloned().ok_or_else(|| ModelError::Weights { name: name.into(), message: "is missing".into() })
    }

    /// `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// As [`Self::get`], for either.
    pub fn linear(&self, name: &str) -> Result<Linear, ModelError> {
        Ok(Linear::new(self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?))
    }

    /// What [`ParameterList::batch_norm`] lists.
    ///
    /// # Errors
    /// As [`Self::get`], for any of them.
    pub fn batch_norm(&self, name: &str, eps: f64) -> Result<BatchNorm, ModelError> {
        Ok(BatchNorm {
            weight: self.get(&format!("{name}.weight"))?,
            bias: self.get(&format!("{name}.bias"))?,
            running_mean: self.get(&format!("{name}.running_mean"))?,
            running_variance: self.get(&format!("{name}.running_var"))?,
            eps,
        })
    }

    /// `{name}.weight` and `{name}.bias` of a layer norm.
    ///
    /// # Errors
    /// As [`Self::get`], for either.
    pub fn layer_norm(&self, name: &str, eps: f64) -> Result<LayerNorm, ModelError> {
        Ok(LayerNorm::new(self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?, eps))
    }
}

/// Copies of the tensors on a device, detached from any graph.
pub(super) fn on_device(
    tensors: &HashMap<String, Tensor>,
    device: &Device,
) -> Result<HashMap<String, Tensor>, ModelError> {
    tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.detach().to_device(device)?))).collect()
}

/// A time as two rows of a table, which holds numbers of 32 bits.
pub fn time_words(time: i64) -> [u32; 2] {
    let time = time.cast_unsigned();
    [(time >> 32) as u32, time as u32]
}

/// The time of [`time_words`].
pub fn time_from_words([high, low]: [u32; 2]) -> i64 {
    ((u64::from(high) << 32) | u64::from(low)).cast_signed()
}
