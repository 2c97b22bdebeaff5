//! `model.safetensors`, read from front to end once: what goes by is summed up and put where it stays. And written so
//! that whom the directory's other files are for can read it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use candle_core::{Device, Tensor};
use safetensors::{Dtype, tensor::Metadata};

use super::BundleError;
use crate::data::FileChecksum;

/// Bytes that are read together: they stay in the second-level cache while they are summed up and copied.
const PIECE: usize = 1 << 18;

/// The format's own bound on the length of its header.
const LONGEST_HEADER: u64 = 100_000_000;

/// Writes tensors, with the permissions that any new file gets here. By itself the library makes a file for nobody but
/// its owner: a bundle that was trained by one user could not be served by another.
pub(crate) fn write(tensors: &HashMap<String, Tensor>, path: &Path) -> io::Result<()> {
    let permissions = File::create(path)?.metadata()?.permissions();
    candle_core::safetensors::save(tensors, path).map_err(io::Error::other)?;
    fs::set_permissions(path, permissions)
}

/// The file's tensors in host memory, and its checksum.
///
/// # Errors
/// If it can't be read, or is no safetensors file from front to end.
pub(super) fn read(path: &Path) -> Result<(HashMap<String, Tensor>, FileChecksum), BundleError> {
    let wrong = |message: String| BundleError::Format { path: path.to_owned(), message };
    let file = File::open(path).map_err(BundleError::io(path))?;
    let length = file.metadata().map_err(BundleError::io(path))?.len();
    let mut file = Summed { file, hasher: blake3::Hasher::new() };
    let mut header_length = [0; 8];
    file.fill(&mut header_length).map_err(BundleError::io(path))?;
    let header_length = u64::from_le_bytes(header_length);
    if header_length > LONGEST_HEADER.min(length) {
        return Err(wrong(format!("is no safetensors file: a header of {header_length} bytes in {length}")));
    }
    let mut header = vec![0; header_length as usize];
    file.fill(&mut header).map_err(BundleError::io(path))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| wrong(format!("the header of the safetensors: {error}")))?;
    let expected = 8 + header_length + metadata.data_len() as u64;
    if length != expected {
        return Err(wrong(format!("has {length} bytes where its header says {expected}")));
    }
    let mut tensors = HashMap::new();
    // In the order of the file.
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let tensor = file.tensor(info.dtype, &info.shape, info.data_offsets.1 - info.data_offsets.0);
        tensors.insert(name, tensor.map_err(BundleError::io(path))?);
    }
    Ok((tensors, file.checksum()))
}

/// A file whose bytes are summed up as they are read.
struct Summed {
    file: File,
    hasher: blake3::Hasher,
}

impl Summed {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Calls `each` with so many bytes, in pieces of whole words but for the last.
    fn pieces(&mut self, bytes: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut piece = vec![0; PIECE.min(bytes)];
        let mut left = bytes;
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            self.fill(piece)?;
            each(piece);
            left -= piece.len();
        }
        Ok(())
    }

    /// So many bytes as words of four.
    fn words<T>(&mut self, bytes: usize, word: impl Fn([u8; 4]) -> T) -> io::Result<Vec<T>> {
        let mut words = Vec::with_capacity(bytes / 4);
        self.pieces(bytes, |piece| words.extend(piece.as_chunks().0.iter().map(|&bytes| word(bytes))))?;
        Ok(words)
    }

    fn tensor(&mut self, dtype: Dtype, shape: &[usize], bytes: usize) -> io::Result<Tensor> {
        let device = &Device::Cpu;
        let tensor = match dtype {
            Dtype::F32 => Tensor::from_vec(self.words(bytes, f32::from_le_bytes)?, shape, device),
            Dtype::U32 => Tensor::from_vec(self.words(bytes, u32::from_le_bytes)?, shape, device),
            // No model has others; read, so that they can be refused by name.
            dtype => {
                let mut values = Vec::with_capacity(bytes);
                self.pieces(bytes, |piece| values.extend_from_slice(piece))?;
                dtype.try_into().and_then(|dtype| Tensor::from_raw_buffer(&values, dtype, shape, device))
            }
        };
        tensor.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    fn checksum(self) -> FileChecksum {
        FileChecksum::from(self.hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tensors: &HashMap<String, Tensor>) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(tensors, &path).unwrap();
        (directory, path)
    }

    #[test]
    fn reads_what_candle_writes_and_sums_it_up() {
        let device = &Device::Cpu;
        let tensors = HashMap::from([
            // More than a piece, and no multiple of it.
            ("long".to_owned(), Tensor::randn(0f32, 1f32, (70_001, 3), device).unwrap()),
            ("rows".to_owned(), Tensor::new(&[[1u32, 2], [3, u32::MAX]], device).unwrap()),
            ("scalar".to_owned(), Tensor::new(0.5f32, device).unwrap()),
            ("empty".to_owned(), Tensor::zeros((0, 4), candle_core::DType::F32, device).unwrap()),
            ("half".to_owned(), Tensor::new(&[1f32, -2.5], device).unwrap().to_dtype(candle_core::DType::F16).unwrap()),
        ]);
        let (_directory, path) = written(&tensors);
        let (read, checksum) = read(&path).unwrap();
        assert_eq!(checksum, FileChecksum::of(&path).unwrap());
        assert_eq!(read.len(), tensors.len());
        for (name, tensor) in &tensors {
            let found = &read[name];
            assert_eq!((found.shape(), found.dtype()), (tensor.shape(), tensor.dtype()), "{name}");
            let values = |tensor: &Tensor| {
                let flat = tensor.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap();
                flat.to_vec1::<f64>().unwrap()
            };
            assert_eq!(values(found), values(tensor), "{name}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let (_directory, path) = written(&HashMap::from([("x".into(), Tensor::new(1f32, &Device::Cpu).unwrap())]));
        let whole = std::fs::read(&path).unwrap();
        let with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path).unwrap_err().to_string()
        };
        for (bytes, message) in [
            (&whole[..whole.len() - 1], "bytes where its header says"),
            (&[&whole[..], b"more"].concat(), "bytes where its header says"),
            (&[&[0xff; 8][..], &whole[8..]].concat(), "is no safetensors file"),
            (&[&whole[..9], b"?", &whole[10..]].concat(), "the header of the safetensors"),
            (&whole[..3], "failed to fill whole buffer"),
        ] {
            let error = with(bytes);
            assert!(error.contains("model.safetensors: ") && error.contains(message), "{error}");
        }
    }
}
