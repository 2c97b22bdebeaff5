//! Items that a user did not click: sampled for training, fixed for evaluation.
