//! kuaisar
