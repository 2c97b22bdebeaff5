//! catalogue_io
