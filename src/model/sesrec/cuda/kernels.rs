//! Launches of the kernels in `kernels.cu`. All of them go to the device's one stream, in order, so that a tensor that
//! is dropped here is freed after what was launched before.
#![allow(unsafe_code)] // A launch is unsafe: nothing checks arguments against the kernel. Each says why its own fit.

use candle_core::{
    DType, Device, Result, Tensor,
    cuda_backend::{
        CudaDevice, WrapErr,
        cudarc::{
            driver::{CudaFunction, LaunchConfig, PushKernelArg, sys::CUfunction_attribute_enum as FunctionAttribute},
            nvrtc::Ptx,
        },
    },
};

use super::{
    on_device::{OnDevice, address},
    plan::{Plan, TILE},
};

/// Machine code for the GPU that was built for, and PTX for others.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sesrec-kernels.fatbin"));

/// Widths there are kernels for.
const WIDTHS: [usize; 5] = [32, 48, 64, 96, 128];
/// As in `kernels.cu`.
const EVENTS: usize = 32;
const POOL_THREADS: u32 = 128;
const WARP: u32 = 32;
/// Threads of the other kernels: four warps and more hide each other's waits.
const THREADS: u32 = 256;

/// d as the kernels have it; `None` if it is too large for them.
pub(super) fn padded(d: usize) -> Option<usize> {
    WIDTHS.into_iter().find(|&width| d <= width)
}

fn address_or_null(values: Option<&OnDevice>) -> u64 {
    values.map_or(0, |values| values.address)
}

/// The loaded kernels.
pub(super) struct Kernels {
    device: Device,
    cuda: CudaDevice,
    pool: CudaFunction,
    first_layer: CudaFunction,
    bias_relu: CudaFunction,
    last_layer: CudaFunction,
}

/// What pooling reads besides users.
pub(super) struct Pooling {
    /// d, rounded up.
    pub(super) padded: usize,
    /// 3, or 1 without multi-interest extraction.
    pub(super) poolings: usize,
    /// `W_r E(i)` and `W_s E(i)` by item row `[items, padded]`.
    pub(super) rec_keys: OnDevice,
    pub(super) src_keys: OnDevice,
    /// `[2 · poolings]`.
    pub(super) matching: Option<OnDevice>,
    /// E `[items, padded]` and the weights `[2 · poolings]`.
    pub(super) inner_products: Option<(OnDevice, OnDevice)>,
}

/// A prediction layer between the first and the last.
pub(super) struct Hidden {
    /// `[in, out]`.
    pub(super) weights: Tensor,
    /// `[out]`.
    pub(super) bias: OnDevice,
}

/// A [`Plan`] on the device.
pub(super) struct UploadedPlan {
    _words: Tensor,
    requests: u64,
    tiles: u64,
    items: u64,
    tile_count: u32,
    candidates: u32,
}

impl Kernels {
    pub(super) fn load(device: &Device, padded: usize) -> Result<Self> {
        let cuda = device.as_cuda_device()?.clone();
        let module = cuda.cuda_stream().context().load_module(Ptx::from_binary(IMAGE.to_vec())).w()?;
        let function = |name: &str| module.load_function(name).w();
        let pool = function(&format!("pool_{padded}"))?;
        let shared = i32::try_from(shared_bytes(padded)).expect("some kilobytes");
        pool.set_attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared).w()?;
        Ok(Self {
            pool,
            first_layer: function("first_layer")?,
            bias_relu: function("bias_relu")?,
            last_layer: function("last_layer")?,
            device: device.clone(),
            cuda,
        })
    }

    pub(super) fn upload(&self, plan: &Plan) -> Result<UploadedPlan> {
        let words = plan.words();
        let length = words.len();
        let words = Tensor::from_vec(words, length, &self.device)?;
        let at = address(&words)?;
        let (tiles, items) = plan.offsets();
        let word = size_of::<u32>() as u64;
        Ok(UploadedPlan {
            _words: words,
            requests: at,
            tiles: at + tiles as u64 * word,
            items: at + items as u64 * word,
            tile_count: plan.tiles() as u32,
            candidates: plan.candidates() as u32,
        })
    }

    /// `[C, 2 · poolings · padded]`, and what matching and inner products add `[2, C]`, if the model has either.
    pub(super) fn pool(&self, plan: &UploadedPlan, pooling: &Pooling) -> Result<(Tensor, Option<Tensor>)> {
        let width = 2 * pooling.poolings * pooling.padded;
        let interests = self.uninitialised((plan.candidates as usize, width))?;
        let has_further = pooling.matching.is_some() || pooling.inner_products.is_some();
        let further = has_further.then(|| self.uninitialised((2, plan.candidates as usize))).transpose()?;
        let inner = pooling.inner_products.as_ref();
        let (embedded, inner) = (inner.map(|(embedded, _)| embedded), inner.map(|(_, weights)| weights));
        let (embedded, inner) = (address_or_null(embedded), address_or_null(inner));
        let matching = address_or_null(pooling.matching.as_ref());
        let poolings = pooling.poolings as u32;
        let (out, further_out) = (address(&interests)?, further.as_ref().map(address).transpose()?.unwrap_or(0));
        let stream = self.cuda.cuda_stream();
        let mut launch = stream.launch_builder(&self.pool);
        launch.arg(&plan.tiles).arg(&plan.requests).arg(&plan.items);
        launch.arg(&pooling.rec_keys.address).arg(&pooling.src_keys.address).arg(&embedded);
        launch.arg(&matching).arg(&inner).arg(&poolings).arg(&plan.candidates).arg(&out).arg(&further_out);
        let config = LaunchConfig {
            grid_dim: (plan.tile_count, 2, 1),
            block_dim: (POOL_THREADS, 1, 1),
            shared_mem_bytes: shared_bytes(pooling.padded) as u32,
        };
        // SAFETY: tiles stay within the plan's candidates, items within the tables (the ranker checks), users'
        // encodings are of this width; `out` and `further_out` have a row for each candidate.
        unsafe { launch.launch(config) }.w()?;
        Ok((interests, further))
    }

    /// `x [C, h]` with the interests' share becomes the first layer's output.
    pub(super) fn first_layer(&self, plan: &UploadedPlan, item_blocks: &OnDevice, x: &Tensor) -> Result<()> {
        let (h, x) = (x.dim(1)? as u32, address(x)?);
        let stream = self.cuda.cuda_stream();
        let mut launch = stream.launch_builder(&self.first_layer);
        launch.arg(&plan.tiles).arg(&plan.requests).arg(&plan.items).arg(&item_blocks.address).arg(&h).arg(&x);
        let config =
            LaunchConfig { grid_dim: (plan.tile_count, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: x, the users' and the items' shares have h columns, x a row for each candidate.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }

    /// `x [C, h]` becomes relu(x + bias).
    pub(super) fn bias_relu(&self, bias: &OnDevice, x: &Tensor) -> Result<()> {
        let (h, values, x) = (x.dim(1)? as u32, x.elem_count() as u64, address(x)?);
        let stream = self.cuda.cuda_stream();
        let mut launch = stream.launch_builder(&self.bias_relu);
        launch.arg(&bias.address).arg(&h).arg(&values).arg(&x);
        // SAFETY: x has `values` values in rows of h, bias h.
        unsafe { launch.launch(spread(values)) }.w()?;
        Ok(())
    }

    /// Scores `[C]` from the last hidden layer's output, that layer's bias if it is still to be added, the last layer's
    /// weights and bias, the items' bias, and what pooling added.
    pub(super) fn last_layer(
        &self,
        plan: &UploadedPlan,
        (x, bias): (&Tensor, Option<&OnDevice>),
        (weights, last_bias, item_bias): (&OnDevice, &OnDevice, Option<&OnDevice>),
        further: Option<&Tensor>,
    ) -> Result<Tensor> {
        let scores = self.uninitialised(plan.candidates as usize)?;
        let (h, x, out) = (x.dim(1)? as u32, address(x)?, address(&scores)?);
        let (bias, item_bias) = (address_or_null(bias), address_or_null(item_bias));
        let further = further.map(address).transpose()?.unwrap_or(0);
        let stream = self.cuda.cuda_stream();
        let mut launch = stream.launch_builder(&self.last_layer);
        launch.arg(&x).arg(&bias).arg(&weights.address).arg(&last_bias.address).arg(&plan.items).arg(&item_bias);
        launch.arg(&further).arg(&h).arg(&plan.candidates).arg(&out);
        // SAFETY: x, the bias and the weights have h columns, x, `further` and `out` an entry for each candidate.
        unsafe { launch.launch(spread(u64::from(plan.candidates) * u64::from(WARP))) }.w()?;
        Ok(scores)
    }

    fn uninitialised(&self, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        // SAFETY: the launch that this is made for writes every value.
        unsafe { Tensor::empty(shape, DType::F32, &self.device) }
    }
}

fn spread(threads: u64) -> LaunchConfig {
    let blocks = threads.div_ceil(u64::from(THREADS)) as u32;
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// Of a pooling block: keys, events both ways round, and attention, with their paddings.
fn shared_bytes(padded: usize) -> usize {
    const PAD: usize = 4;
    (padded * (TILE + PAD) + padded * (EVENTS + PAD) + EVENTS * (TILE + PAD) + EVENTS * padded) * size_of::<f32>()
}
