//! Where values lie on the device, for kernels, which are told addresses.

use candle_core::{DType, Result, Storage, Tensor, bail, cuda_backend::cudarc::driver::DevicePtr};

use super::super::state::Held;

/// Values on the device, and where.
#[derive(Debug, Clone)]
pub(super) struct OnDevice {
    pub(super) tensor: Tensor,
    pub(super) address: u64,
}

impl OnDevice {
    pub(super) fn new(tensor: Tensor) -> Result<Self> {
        let address = address(&tensor)?;
        Ok(Self { tensor, address })
    }
}

impl Held for OnDevice {
    fn bytes(&self) -> usize {
        self.tensor.bytes()
    }
}

/// Where a contiguous tensor's values begin on its device, f32 or u32.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor on {:?}, not on a GPU", tensor.device().location()) };
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("a tensor of {:?} is not contiguous", layout) };
    let stream = storage.device.cuda_stream();
    let (base, _still_used) = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream),
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream),
        other => bail!("a tensor of {other:?}"),
    };
    Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
}
