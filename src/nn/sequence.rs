//! Sequences of different lengths, padded on the right.

use candle_core::{Device, Result, Tensor};

use super::{Mask, RowZero, gather_rows};

/// The newest of `states [B, L, k]`, at position `lengths[b] - 1`: `[B, k]`, zero where the length is 0.
pub fn newest(states: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let (users, length, _) = states.dims3()?;
    let rows: Vec<u32> = (0..users).map(|user| (user * length + lengths[user].max(1) - 1) as u32).collect();
    let newest = gather_rows(states, &rows, RowZero::Learns)?;
    zero_where_empty(&newest, lengths)
}

/// `x [B, k]`, zero in the rows whose length is 0.
pub fn zero_where_empty(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    if lengths.iter().all(|&n| n > 0) {
        return Ok(x.clone());
    }
    let real: Vec<f32> = lengths.iter().map(|&n| f32::from(u8::from(n > 0))).collect();
    x.broadcast_mul(&Tensor::from_vec(real, (lengths.len(), 1), x.device())?)
}

/// `[B, L, 1]`: 1 at real positions, else 0.
pub fn real_positions(lengths: &[usize], length: usize, device: &Device) -> Result<Tensor> {
    Mask::prefixes(lengths, length).tensor(device)?.unsqueeze(2)
}
