//! Which device computes.

use std::{fmt, str::FromStr};

use candle_core::Device;

/// `--device auto|cpu|cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is a usable one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device, or an error.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device. `auto` probes: a cuda build on a machine without a GPU falls back to the CPU.
    ///
    /// # Errors
    /// If the CUDA device that was asked for can't be opened; in a build without the `cuda` feature, none can.
    pub fn open(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => open_cuda(ordinal),
            Self::Auto if !candle_core::utils::cuda_is_available() => Ok(Device::Cpu),
            Self::Auto => Ok(open_cuda(0).unwrap_or_else(|error| {
                tracing::warn!(%error, "no usable CUDA device: using the CPU");
                Device::Cpu
            })),
        }
    }
}

/// With one stream for all threads: candle's default is a stream per thread, and a model is loaded by another thread
/// than the one that computes.
fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
    if !candle_core::utils::cuda_is_available() {
        candle_core::bail!(
            "this program was built without CUDA: build it with `cargo build --release --features cuda`, or compute \
             with --device cpu"
        );
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        one_stream::prepare(cuda, ordinal)?;
    }
    Ok(device)
}

#[cfg(feature = "cuda")]
mod one_stream {
    //! What makes small kernels cheap where everything goes to one stream.
    #![allow(unsafe_code)] // The driver's interface.

    use candle_core::cuda_backend::{
        CudaDevice, WrapErr,
        cudarc::driver::{result, sys::CUmemPool_attribute},
    };

    /// Freed memory that the process keeps; what is beyond goes back to the driver at the next synchronisation.
    const KEPT_BYTES: u64 = 2 << 30;

    pub(super) fn prepare(cuda: &CudaDevice, ordinal: usize) -> candle_core::Result<()> {
        let ordinal = i32::try_from(ordinal).map_err(candle_core::Error::wrap)?;
        let mut kept = KEPT_BYTES;
        // SAFETY: the device exists, since it was opened; the attribute is a 64-bit number that is read during the
        // call.
        unsafe {
            let pool = result::device::get_default_mem_pool(result::device::get(ordinal).w()?).w()?;
            let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()).w()?;
        }
        // SAFETY: events would order the uses of a tensor on several streams; all of ours go to one.
        unsafe { cuda.disable_event_tracking() };
        Ok(())
    }
}

/// A device's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What all processes together use of it.
    pub used: u64,
    /// What the device has.
    pub total: u64,
}

/// Of a device that has memory of its own, as its driver says it now.
pub fn device_memory(device: &Device) -> Option<DeviceMemory> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let (free, total) = device.cuda_stream().context().mem_get_info().ok()?;
            Some(DeviceMemory { used: total.saturating_sub(free) as u64, total: total as u64 })
        }
        _ => None,
    }
}

/// "cpu" or "cuda:N".
pub fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(choice: &str) -> Result<Self, String> {
        match choice {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => {
                let ordinal = choice.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
                ordinal.map(Self::Cuda).ok_or_else(|| format!("{choice:?} is none of: auto, cpu, cuda:N"))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_cuda_says_which_build_has_it() {
        let refused = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
        assert!(refused.contains("--features cuda") && refused.contains("--device cpu"), "{refused}");
        assert!(matches!(DeviceChoice::Auto.open().unwrap(), Device::Cpu));
    }
}
