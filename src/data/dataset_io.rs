//! dataset_io
