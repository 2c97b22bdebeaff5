//! Users encoded on the host and copied to the GPU, candidates scored there.

use candle_core::{Device, Result, Tensor};

use super::{
    super::{
        Network, SesRecConfig,
        counts::Counts,
        cpu::HostEncoder,
        explain,
        first_layer::FirstLayer,
        state::{EncodedUser, Interests, SideState},
    },
    kernels::{self, Hidden, Kernels, Pooling},
    on_device::OnDevice,
    plan::{Plan, SideOnDevice, UserOnDevice},
    precision::with_products,
};
use crate::{
    data::UserFeatures,
    domain::{HistoryWeights, ItemAttention},
    model::{ModelError, ScoreRequest, UserState},
    nn::{Matrix, RowZero, gather_rows, project},
};

type DeviceUser = EncodedUser<OnDevice>;

/// A trained SESRec of which a GPU has what scoring needs.
pub(in crate::model::sesrec) struct CudaRanker {
    device: Device,
    host: HostEncoder,
    kernels: Kernels,
    /// TF32 in the prediction layers.
    reduced: bool,
    /// Rows of the item tables.
    items: usize,
    pooling: Pooling,
    /// The items' share of the first prediction layer `[items, h]`.
    item_blocks: OnDevice,
    /// The interests' share of its weights `[sets · padded d, h]`.
    interest_weights: Tensor,
    /// Between the first and the last layer.
    hidden: Vec<Hidden>,
    last_weights: OnDevice,
    last_bias: OnDevice,
    item_bias: Option<OnDevice>,
    counts: Counts,
}

impl CudaRanker {
    /// What the kernels can do; beyond it tensor operations have to.
    pub(in crate::model::sesrec) fn supports(config: &SesRecConfig) -> bool {
        kernels::padded(config.hidden_dim).is_some() && config.mlp.len() >= 2
    }

    /// Of a network on the device, and of the same one on the host.
    pub(in crate::model::sesrec) fn new(network: &mut Network, on_host: &Network, reduced: bool) -> Result<Self> {
        let device = network.device().clone();
        let d = network.config.hidden_dim;
        let Some(padded) = kernels::padded(d) else {
            candle_core::bail!("hidden_dim {d} is too large for the kernels")
        };
        let wide = |table: &Tensor| OnDevice::new(table.pad_with_zeros(1, 0, padded - d)?.contiguous()?);
        let flat = |tensor: &Tensor| OnDevice::new(tensor.flatten_all()?.force_contiguous()?);
        let layers = &network.head.layers;
        let first = layers[0].weight(); // [h, 2·3d | u | d]
        let (h, columns) = (first.dim(0)?, FirstLayer::new(&network.config));
        let poolings = network.config.interest_extraction.poolings();
        let item_weights = columns.candidate().of(first)?;
        let (embedded, rec_keys, src_keys, item_blocks) = with_products(false, || {
            let embedded = network.embeddings.precompute_items()?;
            let (rec_keys, src_keys) = (network.rec.pooling.keys(&embedded)?, network.src.pooling.keys(&embedded)?);
            let item_blocks = project(&embedded, &item_weights)?;
            Ok((embedded, rec_keys, src_keys, item_blocks))
        })?;
        let interest_weights = columns.interests().of(first)?.reshape((h, 2 * poolings, d))?;
        let interest_weights = interest_weights.pad_with_zeros(2, 0, padded - d)?.reshape((h, ()))?.t()?;
        let last = &layers[layers.len() - 1];
        let hidden = layers[1..layers.len() - 1].iter().map(|layer| {
            Ok::<_, candle_core::Error>(Hidden {
                weights: layer.weight().t()?.contiguous()?,
                bias: flat(layer.bias())?,
            })
        });
        Ok(Self {
            host: HostEncoder::without_item_table(on_host)?,
            kernels: Kernels::load(&device, padded)?,
            reduced,
            items: embedded.dim(0)?,
            pooling: Pooling {
                padded,
                poolings,
                rec_keys: wide(&rec_keys)?,
                src_keys: wide(&src_keys)?,
                matching: network.matching.as_ref().map(flat).transpose()?,
                inner_products: match &network.inner_products {
                    Some(weights) => Some((wide(&embedded)?, flat(weights)?)),
                    None => None,
                },
            },
            item_blocks: OnDevice::new(item_blocks.contiguous()?)?,
            interest_weights: interest_weights.contiguous()?,
            hidden: hidden.collect::<Result<_>>()?,
            last_weights: flat(last.weight())?,
            last_bias: flat(last.bias())?,
            item_bias: network.item_bias.as_ref().map(flat).transpose()?,
            counts: on_host.counts.clone(),
            device,
        })
    }

    pub(in crate::model::sesrec) fn encode(
        &self,
        users: &[&UserFeatures],
    ) -> std::result::Result<Vec<UserState>, ModelError> {
        let states = self.host.encode(users)?.into_iter().map(|user| {
            let user = self.upload(user)?;
            let bytes = user.bytes();
            Ok(UserState::new(user, bytes))
        });
        states.collect()
    }

    /// One copy per user: both sides' encodings, padded, then the user's share of the first layer.
    fn upload(&self, user: EncodedUser<Matrix>) -> Result<DeviceUser> {
        let padded = self.pooling.padded;
        let mut values = vec![];
        let mut rows = |side: &SideState<Matrix>| {
            let Some(interests) = &side.interests else { return 0 };
            let encoded = &interests.encoded;
            for row in 0..encoded.rows() {
                values.extend_from_slice(&encoded.row(row)[..encoded.columns()]);
                values.resize(values.len().next_multiple_of(padded), 0.0);
            }
            encoded.rows()
        };
        let (rec, src) = (rows(&user.rec), rows(&user.src));
        values.extend_from_slice(&user.user_block.row(0)[..user.user_block.columns()]);
        let (length, h) = (values.len(), user.user_block.columns());
        let uploaded = Tensor::from_vec(values, length, &self.device)?;
        let part = |first: usize, rows: usize, columns: usize| {
            OnDevice::new(uploaded.narrow(0, first, rows * columns)?.reshape((rows, columns))?)
        };
        let side = |side: SideState<Matrix>, first: usize| {
            let interests = match side.interests {
                Some(Interests { encoded, sets }) => {
                    Some(Interests { encoded: part(first * padded, encoded.rows(), padded)?, sets })
                }
                None => None,
            };
            Ok::<_, candle_core::Error>(SideState { events: side.events, interests })
        };
        Ok(EncodedUser {
            rec: side(user.rec, 0)?,
            src: side(user.src, rec)?,
            user_block: part((rec + src) * padded, 1, h)?,
            counts: user.counts,
        })
    }

    pub(in crate::model::sesrec) fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        let rows = self.items as u32;
        if let Some(row) = requests.iter().filter_map(|request| request.items.iter().max()).find(|&&row| row >= rows) {
            candle_core::bail!("row {row} of a table with {rows} rows") // on the device it would be everybody's error
        }
        let mut scores = Vec::with_capacity(requests.iter().map(|request| request.items.len()).sum());
        let lists = requests.iter().map(|request| (on_device(request.state.get()), request.items));
        let counted = self.counted(requests);
        for plan in Plan::of(lists) {
            let own = counted.as_ref().map(|logits| &logits[scores.len()..][..plan.candidates()]);
            scores.extend(self.score_planned(&plan, own)?);
        }
        Ok(ScoreRequest::split(requests, &scores))
    }

    /// What is added to every candidate for what is counted, if the model has any of it: looking it up is for the host.
    fn counted(&self, requests: &[ScoreRequest<'_>]) -> Option<Vec<f32>> {
        if self.counts.is_empty() {
            return None;
        }
        let logits = requests.iter().flat_map(|request| {
            let mut logits = vec![0.0; request.items.len()];
            self.counts.add(&request.state.get::<DeviceUser>().counts, request.items, &mut logits);
            logits
        });
        Some(logits.collect())
    }

    fn score_planned(&self, plan: &Plan, counted: Option<&[f32]>) -> Result<Vec<f32>> {
        let plan = self.kernels.upload(plan)?;
        let (interests, mut further) = self.kernels.pool(&plan, &self.pooling)?;
        if let Some(counted) = counted {
            let counted = Tensor::from_slice(counted, (1, counted.len()), &self.device)?.pad_with_zeros(0, 0, 1)?;
            further = Some(if let Some(further) = further { (further + counted)? } else { counted });
        }
        let product = |x: &Tensor, weights: &Tensor| with_products(self.reduced, || x.matmul(weights));
        let mut x = product(&interests, &self.interest_weights)?;
        self.kernels.first_layer(&plan, &self.item_blocks, &x)?;
        let mut bias = None;
        for hidden in &self.hidden {
            if let Some(bias) = bias.replace(&hidden.bias) {
                self.kernels.bias_relu(bias, &x)?;
            }
            x = product(&x, &hidden.weights)?;
        }
        let last = (&self.last_weights, &self.last_bias, self.item_bias.as_ref());
        self.kernels.last_layer(&plan, (&x, bias), last, further.as_ref())?.to_vec1()
    }

    pub(in crate::model::sesrec) fn explain(
        &self,
        state: &UserState,
        items: &[u32],
    ) -> Result<(HistoryWeights, Vec<ItemAttention>)> {
        let user = state.get::<DeviceUser>();
        if items.is_empty() {
            return Ok(explain::without_items(&user.rec, &user.src));
        }
        let sides = [(&user.rec, &self.pooling.rec_keys), (&user.src, &self.pooling.src_keys)];
        let sides = sides.map(|(side, keys)| {
            let interests = side
                .interests
                .as_ref()
                .map(|Interests { encoded, sets }| Interests { encoded: encoded.tensor.clone(), sets: sets.clone() });
            let side = SideState { events: side.events.clone(), interests };
            Ok((side, gather_rows(&keys.tensor, items, RowZero::Learns)?))
        });
        with_products(false, || explain::attention(sides))
    }
}

/// Where a user's values are.
fn on_device(user: &DeviceUser) -> UserOnDevice {
    let side = |side: &SideState<OnDevice>| {
        side.interests.as_ref().map_or(SideOnDevice::default(), |Interests { encoded, sets }| {
            let events = side.events.len() as u32;
            SideOnDevice { encoded: encoded.address, events, similar: sets.similar().map_or(events, |n| n as u32) }
        })
    };
    UserOnDevice { sides: [side(&user.rec), side(&user.src)], user_block: user.user_block.address }
}
