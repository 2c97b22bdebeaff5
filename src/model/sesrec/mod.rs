//! SESRec.
