//! For tests: an own operator is what candle's operators compose, and so are its gradients.

use candle_core::{Result, Tensor, Var};

/// The largest difference; infinite where there is no number, which candle's `max_all` passes over.
pub(super) fn far(a: &Tensor, b: &Tensor) -> Result<f32> {
    let differences = (a - b)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(differences.into_iter().fold(0.0, |far, x| if x.is_nan() { f32::INFINITY } else { far.max(x.abs()) }))
}

/// Fails unless both results are alike, and the gradients that a random weighting of them gives each variable; a
/// variable that one of them gives no gradient must get none of the other.
pub(super) fn assert_alike(own: &Tensor, composed: &Tensor, variables: &[&Var]) -> Result<()> {
    assert_eq!(own.shape(), composed.shape());
    let weights = Tensor::randn(0f32, 1f32, own.shape(), own.device())?;
    let results = |out: &Tensor| -> Result<Vec<Option<Vec<f32>>>> {
        let gradients = (out * &weights)?.sum_all()?.backward()?;
        let of_variables = variables.iter().map(|variable| gradients.get(variable));
        let all = std::iter::once(Some(out)).chain(of_variables);
        all.map(|values| values.map(|values| values.flatten_all()?.to_vec1()).transpose()).collect()
    };
    for (n, (own, composed)) in results(own)?.iter().zip(results(composed)?).enumerate() {
        let what = if n == 0 { "the result".into() } else { format!("the gradient of variable {}", n - 1) };
        let (Some(own), Some(composed)) = (own, &composed) else {
            assert_eq!(own.is_some(), composed.is_some(), "{what} is there");
            continue;
        };
        assert_eq!(own.len(), composed.len(), "{what}");
        // Sums of many terms lose digits against their largest, not against themselves.
        let largest = composed.iter().fold(0.1_f32, |largest, x| largest.max(x.abs()));
        for (own, composed) in own.iter().zip(composed) {
            assert!((own - composed).abs() < 2e-5 * largest, "{what}: {own} and {composed} of up to {largest}");
        }
    }
    Ok(())
}
