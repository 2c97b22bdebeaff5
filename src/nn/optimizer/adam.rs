//! The optimizer: its parameters with their moments, a step of all of them, and how it is saved and continued.

use std::{collections::HashMap, sync::Mutex};

use candle_core::{DType, Tensor};

use super::{
    OptimizerError,
    gradient::{Gradient, host_slice},
    step::{Constants, HostStep, device_step},
};
use crate::nn::{Gradients, Parameters, row_gradients::Keep};

/// Adam's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Times the weight, added to its gradient; also where the gradient is zero, as for the rows of an embedding table
    /// that a batch doesn't use.
    pub l2: f64,
    /// Rows of tables that a step doesn't look up stay as they are, moments and all (`torch.optim.SparseAdam`); without
    /// it they go on moving by their moments, and every step passes over all of them. On the CPU only.
    pub lazy: bool,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, l2: 0.0, lazy: false }
    }
}

/// The optimizer of a model's parameters (Kingma & Ba 2015, algorithm 1, with bias correction).
#[derive(Debug)]
pub struct Adam {
    parameters: Parameters,
    moments: Vec<Moments>,
    options: AdamOptions,
    step: u64,
}

/// First and second moment of one parameter.
#[derive(Debug)]
enum Moments {
    Host { first: Vec<f32>, second: Vec<f32> },
    Device { first: Tensor, second: Tensor },
}

impl Adam {
    /// With moments of zero.
    ///
    /// # Errors
    /// If a parameter is not of 32-bit floats.
    pub fn new(parameters: &Parameters, options: AdamOptions) -> Result<Self, OptimizerError> {
        let moments = parameters
            .iter()
            .map(|(name, var)| {
                if var.dtype() != DType::F32 {
                    return Err(OptimizerError::State(format!("parameter {name} is {:?}, not f32", var.dtype())));
                }
                Ok(if var.device().is_cpu() {
                    Moments::Host { first: vec![0.0; var.elem_count()], second: vec![0.0; var.elem_count()] }
                } else {
                    let zeros = || Tensor::zeros(var.shape(), DType::F32, var.device());
                    Moments::Device { first: zeros()?, second: zeros()? }
                })
            })
            .collect::<Result<_, OptimizerError>>()?;
        Ok(Self { parameters: parameters.clone(), moments, options, step: 0 })
    }

    /// Sets the step size of the steps to come.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.options.learning_rate = learning_rate;
    }

    /// The gradients of a loss as [`step`](Self::step) wants them: by row where it is lazy.
    pub fn backward(&self, loss: &Tensor) -> candle_core::Result<Gradients> {
        let keep = if self.options.lazy { Keep::Rows } else { Keep::Whole };
        Gradients::collect(loss, self.parameters.iter().map(|(_, var)| var.as_tensor()), keep)
    }

    /// Moves every parameter against its gradient.
    ///
    /// # Errors
    /// If a parameter has no gradient or one that is not finite; nothing is changed then.
    pub fn step(&mut self, gradients: &Gradients) -> Result<(), OptimizerError> {
        let gradients = Gradient::of_all(&self.parameters, gradients)?;
        self.step += 1;
        let constants = Constants::at_step(self.options, self.step);
        for (((_, var), moments), gradient) in self.parameters.iter().zip(&mut self.moments).zip(&gradients) {
            match moments {
                Moments::Host { first, second } => {
                    let moments = Mutex::new((first, second));
                    match gradient {
                        Gradient::Dense(gradient) => {
                            let (storage, layout) = gradient.storage_and_layout();
                            let gradient = host_slice(&storage, layout)?;
                            var.inplace_op1(&HostStep { constants, gradient, rows: None, moments })?;
                        }
                        Gradient::Whole(gradient) => {
                            var.inplace_op1(&HostStep { constants, gradient, rows: None, moments })?;
                        }
                        Gradient::Rows(of) => {
                            let (rows, gradient) = (Some(of.rows()), of.values());
                            var.inplace_op1(&HostStep { constants, gradient, rows, moments })?;
                        }
                    }
                }
                Moments::Device { first, second } => {
                    let Gradient::Dense(gradient) = gradient else { unreachable!("collected on the CPU only") };
                    device_step(constants, var, gradient, (first, second))?;
                }
            }
        }
        Ok(())
    }

    /// The moments and the number of steps as named tensors on the CPU, to be saved.
    pub fn state(&self) -> Result<HashMap<String, Tensor>, OptimizerError> {
        let cpu = &candle_core::Device::Cpu;
        let mut state = HashMap::from([("step".to_owned(), Tensor::new(self.step as i64, cpu)?)]);
        for ((name, var), moments) in self.parameters.iter().zip(&self.moments) {
            let (first, second) = match moments {
                Moments::Host { first, second } => {
                    (Tensor::from_slice(first, var.shape(), cpu)?, Tensor::from_slice(second, var.shape(), cpu)?)
                }
                Moments::Device { first, second } => (first.to_device(cpu)?, second.to_device(cpu)?),
            };
            state.insert(format!("first/{name}"), first);
            state.insert(format!("second/{name}"), second);
        }
        Ok(state)
    }

    /// Continues from what [`Self::state`] gave.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; the optimizer must not be used then.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<(), OptimizerError> {
        let tensor = |name: &str| state.get(name).ok_or_else(|| OptimizerError::State(format!("{name} is missing")));
        self.step = u64::try_from(tensor("step")?.to_scalar::<i64>()?)
            .map_err(|_| OptimizerError::State("step is negative".into()))?;
        for ((name, var), moments) in self.parameters.iter().zip(&mut self.moments) {
            let moment = |kind: &str| {
                let tensor = tensor(&format!("{kind}/{name}"))?;
                if tensor.shape() == var.shape() {
                    return Ok(tensor);
                }
                let (found, wanted) = (tensor.shape(), var.shape());
                Err(OptimizerError::State(format!("{kind}/{name} has shape {found:?}, the parameter {wanted:?}")))
            };
            match moments {
                Moments::Host { first, second } => {
                    *first = moment("first")?.flatten_all()?.to_vec1()?;
                    *second = moment("second")?.flatten_all()?.to_vec1()?;
                }
                Moments::Device { first, second } => {
                    *first = moment("first")?.to_device(var.device())?;
                    *second = moment("second")?.to_device(var.device())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var, backprop::GradStore};

    use super::{super::step::CHUNK, *};
    use crate::nn::{RowZero, alike::far, gather_rows};

    fn parameters(tensors: &[(&str, Tensor)]) -> Parameters {
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        Parameters::from_tensors(&tensors).unwrap()
    }

    /// ½‖x‖²: the gradient of every value is the value itself.
    fn half_square(parameters: &Parameters) -> GradStore {
        let losses = parameters.iter().map(|(_, var)| (var.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap());
        losses.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap()
    }

    #[test]
    fn follows_the_algorithm_in_double_precision_past_one_chunk() {
        let count = 2 * CHUNK + 17;
        let start: Vec<f32> = (0..count).map(|n| (n as f32 * 0.37).sin()).collect();
        let parameters = parameters(&[("x", Tensor::from_slice(&start, count, &Device::Cpu).unwrap())]);
        let options = AdamOptions { learning_rate: 0.05, l2: 0.1, ..AdamOptions::default() };
        let mut adam = Adam::new(&parameters, options).unwrap();
        let mut expected: Vec<(f64, f64, f64)> = start.iter().map(|&x| (f64::from(x), 0.0, 0.0)).collect();
        for step in 1..=5 {
            adam.step(&half_square(&parameters).into()).unwrap();
            for (x, m, v) in &mut expected {
                let g = *x + 0.1 * *x;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m, v) = (*m / (1.0 - 0.9f64.powi(step)), *v / (1.0 - 0.999f64.powi(step)));
                *x -= 0.05 * m / (v.sqrt() + 1e-8);
            }
        }
        let found: Vec<f32> = parameters.get("x").unwrap().to_vec1().unwrap();
        for (n, (found, (expected, ..))) in found.iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 2e-6, "value {n}: {found} instead of {expected}");
        }
    }

    #[test]
    fn tensor_operations_give_what_the_fused_pass_gives() {
        let start = Tensor::from_vec((0..40).map(|n| n as f32 / 7.0 - 2.0).collect(), (8, 5), &Device::Cpu).unwrap();
        let (fused, composed) = (parameters(&[("x", start.clone())]), Var::from_tensor(&start).unwrap());
        let options = AdamOptions { l2: 0.01, ..AdamOptions::default() };
        let mut adam = Adam::new(&fused, options).unwrap();
        let zeros = || start.zeros_like().unwrap();
        let (mut first, mut second) = (zeros(), zeros());
        for step in 1..=3 {
            adam.step(&half_square(&fused).into()).unwrap();
            let constants = Constants::at_step(options, step);
            let gradient = composed.as_detached_tensor().copy().unwrap();
            device_step(constants, &composed, &gradient, (&mut first, &mut second)).unwrap();
        }
        assert!(far(fused.get("x").unwrap().as_tensor(), composed.as_tensor()).unwrap() < 1e-6);
    }

    #[test]
    fn a_parameter_without_a_gradient_is_named_and_nothing_moves() {
        let tensor = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let parameters = parameters(&[("lost", tensor.clone()), ("kept", tensor)]);
        let kept = parameters.get("kept").unwrap();
        let gradients = kept.sum_all().unwrap().backward().unwrap();
        let error = Adam::new(&parameters, AdamOptions::default()).unwrap().step(&gradients.into()).unwrap_err();
        assert!(matches!(&error, OptimizerError::MissingGradient(name) if name == "lost"), "{error}");
        assert_eq!(kept.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_refused() {
        let parameters = parameters(&[("x", Tensor::new(&[1f32, 0.0], &Device::Cpu).unwrap())]);
        let var = parameters.get("x").unwrap();
        let mut adam = Adam::new(&parameters, AdamOptions::default()).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut gradients = half_square(&parameters);
            gradients.insert(var.as_tensor(), Tensor::new(&[0f32, bad], &Device::Cpu).unwrap());
            assert!(matches!(adam.step(&gradients.into()), Err(OptimizerError::NonFinite(name)) if name == "x"));
        }
        assert_eq!((adam.step, var.to_vec1::<f32>().unwrap()), (0, vec![1.0, 0.0]));
    }

    #[test]
    fn continues_exactly_from_a_saved_state() {
        let start = Tensor::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let (straight, resumed) = (parameters(&[("x", start.clone())]), parameters(&[("x", start)]));
        let mut adam = Adam::new(&straight, AdamOptions::default()).unwrap();
        (0..4).for_each(|_| adam.step(&half_square(&straight).into()).unwrap());
        let mut before = Adam::new(&resumed, AdamOptions::default()).unwrap();
        (0..2).for_each(|_| before.step(&half_square(&resumed).into()).unwrap());
        let mut after = Adam::new(&resumed, AdamOptions::default()).unwrap();
        after.restore(&before.state().unwrap()).unwrap();
        (0..2).for_each(|_| after.step(&half_square(&resumed).into()).unwrap());
        let values = |p: &Parameters| p.get("x").unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(values(&straight), values(&resumed));
        let error = after.restore(&HashMap::new()).unwrap_err();
        assert_eq!(error.to_string(), "optimizer state: step is missing");
    }

    /// Where every step looks up the same rows, lazy or not is one; a row that is not looked up moves by its moments or
    /// stays.
    #[test]
    fn lazy_steps_move_the_rows_that_were_looked_up() {
        let start = Tensor::from_vec((0..12).map(|n| n as f32 / 5.0 - 1.0).collect(), (4, 3), &Device::Cpu).unwrap();
        let table = |lazy, batches: &[&[u32]]| {
            let parameters = parameters(&[("x", start.clone())]);
            let mut adam = Adam::new(&parameters, AdamOptions { lazy, l2: 0.01, ..AdamOptions::default() }).unwrap();
            for ids in batches {
                let rows = gather_rows(parameters.get("x").unwrap(), ids, RowZero::Learns).unwrap();
                let gradients = adam.backward(&rows.sqr().unwrap().sum_all().unwrap()).unwrap();
                adam.step(&gradients).unwrap();
            }
            parameters.get("x").unwrap().to_vec2::<f32>().unwrap()
        };
        let same: [&[u32]; 3] = [&[2, 1, 2], &[1, 2], &[2, 1]];
        let (lazy, every) = (table(true, &same), table(false, &same));
        assert_eq!(lazy[1..3], every[1..3]);
        let start = start.to_vec2::<f32>().unwrap();
        assert_eq!((&lazy[0], &lazy[3]), (&start[0], &start[3]));
        assert_ne!(every[0], start[0], "moved by the regularisation");
        let changing: [&[u32]; 2] = [&[1], &[2]];
        let (lazy, every) = (table(true, &changing), table(false, &changing));
        assert_eq!(lazy[1], table(true, &changing[..1])[1]);
        assert_ne!(lazy[1], every[1], "moved by its moments");
    }
}
