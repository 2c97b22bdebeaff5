//! One folder of golden values, under the names of the core that is compared with it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{D, DType, Device, Tensor, Var, backprop::GradStore};
use sesrec::model::{ModelError, Parameter, ParameterList, Role, Weights};

use crate::skip::skipped;

/// Where the golden values are: `SESREC_GOLDEN_BASELINES`, or `../shared/golden_baselines` where that exists; nothing,
/// said aloud, where it doesn't.
pub fn root() -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("SESREC_GOLDEN_BASELINES") {
        return Some(root.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden_baselines");
    if !root.exists() {
        skipped(&format!("no golden values at {} (set SESREC_GOLDEN_BASELINES)", root.display()));
        return None;
    }
    Some(root)
}

/// How the reference calls and lays out tensors: `(its prefix, our prefix)`, the first that fits.
pub type Names = &'static [(&'static str, &'static str)];

/// A folder.
pub struct Fixture {
    names: Names,
    weights: HashMap<String, Var>,
    inputs: HashMap<String, Tensor>,
    outputs: HashMap<String, Tensor>,
    gradients: HashMap<String, Tensor>,
    compared: RefCell<BTreeSet<String>>,
}

impl Fixture {
    /// A folder by its name, if there are golden values at all.
    ///
    /// # Panics
    /// If there are, but not this folder.
    pub fn open(name: &str, names: Names) -> Option<Self> {
        let dir = root()?.join(name);
        println!("{}", dir.display());
        let load = |file: &str| {
            let tensors = candle_core::safetensors::load(dir.join(file), &Device::Cpu);
            tensors.unwrap_or_else(|error| panic!("{}: {file}: {error}", dir.display()))
        };
        let weights = load("weights.safetensors").into_iter().filter_map(|(name, tensor)| {
            let (name, tensor) = ours(names, &name, tensor)?;
            Some((name, Var::from_tensor(&tensor).unwrap()))
        });
        Some(Self {
            names,
            weights: weights.collect(),
            inputs: load("inputs.safetensors"),
            outputs: load("outputs.safetensors"),
            // A released model has none.
            gradients: if dir.join("gradients.safetensors").exists() {
                load("gradients.safetensors")
            } else {
                HashMap::new()
            },
            compared: RefCell::default(),
        })
    }

    /// A core over the folder's weights, which have to be those that it lists; what learns has golden gradients.
    pub fn build<T>(
        &self,
        parameters: impl FnOnce(&mut ParameterList),
        new: impl FnOnce(&Weights<'_>) -> Result<T, ModelError>,
    ) -> T {
        let mut list = ParameterList::default();
        parameters(&mut list);
        let list = list.into_parameters();
        // Rows of a catalogue: a core's folder has vectors in their place.
        let (tables, list): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|p| matches!(p.role, Role::Table | Role::List));
        let listed: BTreeMap<&str, &[usize]> = list.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        let given: BTreeMap<&str, &[usize]> =
            self.weights.iter().map(|(name, var)| (name.as_str(), var.dims())).collect();
        assert_eq!(listed, given, "the core's tensors and the folder's");
        let golden = self.gradients.iter().filter_map(|(name, gradient)| {
            let name = name.split_once("::").map_or(name.as_str(), |(_, name)| name);
            Some(ours(self.names, name, gradient.clone())?.0)
        });
        let learned = list.iter().filter(|Parameter { role, .. }| matches!(role, Role::Learned(_)));
        let learned: BTreeSet<String> = learned.map(|parameter| parameter.name.clone()).collect();
        assert_eq!(learned, golden.collect(), "what learns and what has golden gradients");
        let weights = self.weights.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let tables = tables.into_iter().map(|p| (p.name, Tensor::zeros(p.shape, DType::U32, &Device::Cpu).unwrap()));
        let tensors = weights.chain(tables).collect();
        new(&Weights::new(&tensors)).unwrap()
    }

    /// An input.
    pub fn input(&self, name: &str) -> Tensor {
        self.inputs[name].clone()
    }

    /// What the reference computed.
    pub fn output(&self, name: &str) -> Tensor {
        self.outputs[name].clone()
    }

    /// An input whose gradient is golden too.
    pub fn variable(&self, name: &str) -> Var {
        Var::from_tensor(&self.inputs[name]).unwrap()
    }

    /// Integers.
    pub fn rows(&self, name: &str) -> Vec<i64> {
        self.inputs[name].to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A mask's flags.
    pub fn flags(&self, name: &str) -> Vec<bool> {
        self.rows(name).into_iter().map(|flag| flag != 0).collect()
    }

    /// The lengths of a mask `[B, L]` of prefixes.
    pub fn lengths(&self, mask: &str) -> Vec<usize> {
        let length = self.inputs[mask].dim(D::Minus1).unwrap();
        let flags = self.flags(mask);
        let lengths = flags.chunks(length).map(|row| {
            let real = row.iter().filter(|&&real| real).count();
            assert!(row[..real].iter().all(|&real| real), "{mask} is padded on the right");
            real
        });
        lengths.collect()
    }

    /// Within 1e-5, absolute and relative.
    #[track_caller]
    pub fn compare(&self, name: &str, ours: &Tensor) {
        let all = vec![true; ours.elem_count()];
        self.compare_where(name, ours, &all);
    }

    /// The same, of the blocks for which `keep` (leading positions, in order) is true.
    #[track_caller]
    pub fn compare_where(&self, name: &str, ours: &Tensor, keep: &[bool]) {
        self.compared.borrow_mut().insert(name.to_owned());
        let golden = &self.outputs[name];
        assert_eq!(ours.elem_count(), golden.elem_count(), "{name}: {:?} and {:?}", ours.shape(), golden.shape());
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (ours, golden) = (values(ours), values(golden));
        let (block, mut worst) = (golden.len() / keep.len(), 0.0_f32);
        for (n, (ours, golden)) in ours.iter().zip(&golden).enumerate().filter(|(n, _)| keep[n / block]) {
            let far = (ours - golden).abs();
            worst = worst.max(far);
            assert!(far <= 1e-5 + 1e-5 * golden.abs(), "{name}[{n}]: {ours} and {golden}");
        }
        println!("  {name}: {worst:.1e}");
    }

    /// That every output was compared, but those given. (S, the seeded sum, follows from the logits.)
    #[track_caller]
    pub fn all_compared(&self, but: &[&str]) {
        let compared = self.compared.borrow();
        let left: BTreeSet<&str> =
            self.outputs.keys().map(String::as_str).filter(|name| *name != "S" && !compared.contains(*name)).collect();
        assert_eq!(left, but.iter().copied().collect(), "outputs that were not compared");
    }

    /// Every golden gradient with this prefix: 1e-4 of the tensor's norm + 1e-5.
    #[track_caller]
    pub fn compare_gradients(&self, prefix: &str, gradients: &GradStore, inputs: &[(&str, &Var)]) {
        let inputs: HashMap<&str, &Var> = inputs.iter().copied().collect();
        let (mut compared, mut worst) = (0, 0.0_f64);
        for (name, golden) in &self.gradients {
            let Some(name) = name.strip_prefix(prefix).filter(|name| !name.contains("::")) else { continue };
            let (golden, var) = match name.strip_prefix("input.") {
                Some(input) => (golden.clone(), inputs.get(input).copied()),
                None => {
                    let Some((name, golden)) = ours(self.names, name, golden.clone()) else { continue };
                    (golden, self.weights.get(&name))
                }
            };
            let var = var.unwrap_or_else(|| panic!("{name} is nowhere"));
            let zeros = golden.zeros_like().unwrap();
            let ours = gradients.get(var).unwrap_or(&zeros);
            let norm = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
            let (far, size) = (norm(&(ours - &golden).unwrap()), norm(&golden));
            assert!(far <= 1e-4 * size + 1e-5, "gradient of {name}: {far:e} away, norm {size:e}");
            worst = worst.max(far / (size + 1e-3));
            compared += 1;
        }
        assert!(compared > 0, "no golden gradients {prefix:?}");
        println!("  {compared} gradients {prefix:?}: {worst:.1e}");
    }
}

/// A reference's tensor as ours is called and laid out; `None` for what the core compared doesn't have.
fn ours(names: Names, name: &str, tensor: Tensor) -> Option<(String, Tensor)> {
    let (theirs, ours) = names.iter().find(|(theirs, _)| name.starts_with(theirs))?;
    let tail = &name[theirs.len()..];
    // Keras keeps [in, out].
    let keras = name.ends_with("kernel") || name.contains("kernels.") || name.contains("W_") || name.ends_with(".fw");
    let tensor = if keras && tensor.rank() == 2 { tensor.t().unwrap().contiguous().unwrap() } else { tensor };
    // A vector with dimensions of one around it; a convolution of width one.
    let tensor = match tensor.rank() {
        _ if name.ends_with("vq") => tensor.reshape((1, ())).unwrap(),
        _ if name.ends_with("alpha") => tensor.flatten_all().unwrap(),
        3 => tensor.squeeze(2).unwrap(),
        _ => tensor,
    };
    Some((format!("{ours}{tail}"), tensor))
}

/// `x [B, L, d]` with something else wherever `mask` says padding.
pub fn dirty(x: &Tensor, mask: &[bool]) -> Tensor {
    let padding: Vec<f32> = mask.iter().map(|&real| f32::from(u8::from(!real))).collect();
    let (users, length, _) = x.dims3().unwrap();
    let padding = Tensor::from_vec(padding, (users, length, 1), x.device()).unwrap();
    x.broadcast_add(&(padding * 7.0).unwrap()).unwrap()
}

/// Σ logits · seed.
pub fn seeded(logits: &Tensor, seed: &Tensor) -> Tensor {
    (logits * seed).unwrap().sum_all().unwrap()
}
