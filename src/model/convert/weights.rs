//! State dicts: safetensors, or pickled by PyTorch.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use candle_core::{DType, Device, Tensor, pickle};

use super::ConvertError;

/// Where a training script may keep the state dict inside what it pickles.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "model_state_dict"];
/// What wrappers such as DataParallel and torch.compile put before every name.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// How the zip archives begin that torch.save writes since PyTorch 1.6.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// The tensors of a file as 32-bit floats, by name. By its ending the file is safetensors, else a pickled state dict,
/// bare or inside a dictionary; a prefix that all names share is removed.
///
/// # Errors
/// Names the file that can't be read or holds no state dict.
pub fn read_weights(path: &Path) -> Result<HashMap<String, Tensor>, ConvertError> {
    let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
        candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| ConvertError::file(path, error))?
    } else {
        pickled(path)?
    };
    let tensors = tensors.into_iter().map(|(name, tensor)| {
        let tensor = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.contiguous());
        Ok((name, tensor.map_err(|error| ConvertError::file(path, error))?))
    });
    Ok(without_prefixes(tensors.collect::<Result<_, ConvertError>>()?))
}

fn pickled(path: &Path) -> Result<HashMap<String, Tensor>, ConvertError> {
    if !is_zip(path).map_err(|error| ConvertError::file(path, error))? {
        let message = "is no PyTorch checkpoint, which is a zip archive: save model.state_dict() with torch.save of \
                       PyTorch 1.6 or newer. The name of a safetensors file ends in .safetensors";
        return Err(ConvertError::file(path, message));
    }
    let keys = std::iter::once(None).chain(WRAPPERS.map(Some));
    for key in keys {
        match pickle::read_all_with_key(path, key) {
            Ok(tensors) if !tensors.is_empty() => return Ok(tensors.into_iter().collect()),
            // A missing key is an error, too; the last attempt's result decides.
            Err(error) if key.is_none() => {
                let message = format!("can't be read as a PyTorch checkpoint ({error}): save or copy it again");
                return Err(ConvertError::file(path, message));
            }
            _ => {}
        }
    }
    Err(ConvertError::file(
        path,
        format!("holds no state dict, neither itself nor under {WRAPPERS:?}; save model.state_dict() with torch.save"),
    ))
}

fn is_zip(path: &Path) -> io::Result<bool> {
    let mut beginning = [0; ZIP.len()];
    match File::open(path)?.read_exact(&mut beginning) {
        Ok(()) => Ok(beginning == ZIP),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn without_prefixes(mut tensors: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    while let Some(prefix) = PREFIXES.iter().find(|prefix| {
        !tensors.is_empty()
            && tensors.keys().all(|name| name.strip_prefix(**prefix).is_some_and(|rest| !rest.is_empty()))
    }) {
        tensors = tensors.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkpoint_is_called_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.pth");
        let refused = || read_weights(&path).unwrap_err().to_string();
        assert!(refused().contains("model.pth: No such file"), "{}", refused());
        for text in ["", "no weights at all"] {
            std::fs::write(&path, text).unwrap();
            assert!(refused().contains("model.pth: is no PyTorch checkpoint"), "{}", refused());
            assert!(refused().contains("torch.save") && refused().contains(".safetensors"), "{}", refused());
        }
        // The beginning of one.
        std::fs::write(&path, ZIP).unwrap();
        assert!(refused().contains("can't be read as a PyTorch checkpoint"), "{}", refused());
    }
}
