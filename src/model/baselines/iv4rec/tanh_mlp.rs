//! What the treatment and both gates are made of.

use candle_core::{Result, Tensor};

use crate::{
    model::{ModelError, ParameterList, Weights},
    nn::{Dropout, Linear, tanh},
};

/// Linear layers with tanh after each, the last included, and dropout after that.
#[derive(Debug, Clone)]
pub(super) struct TanhMlp(Vec<Linear>);

impl TanhMlp {
    pub(super) fn parameters(list: &mut ParameterList, name: &str, sizes: &[usize]) {
        for (n, layer) in sizes.windows(2).enumerate() {
            list.linear(&format!("{name}.linear_{}", n + 1), layer[1], layer[0]);
        }
    }

    pub(super) fn new(weights: &Weights<'_>, name: &str, layers: usize) -> std::result::Result<Self, ModelError> {
        (1..=layers)
            .map(|n| weights.linear(&format!("{name}.linear_{n}")))
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }

    pub(super) fn forward(&self, x: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| dropout.apply(&tanh(&layer.forward(&x)?)?))
    }

    pub(super) fn squares(&self) -> Result<Tensor> {
        let parts = self.0.iter().flat_map(|layer| [layer.weight(), layer.bias()]);
        let squares = parts.map(|part| part.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        Tensor::stack(&squares, 0)?.sum_all()
    }
}
