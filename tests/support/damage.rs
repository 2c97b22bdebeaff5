//! Bytes that are almost right, or not at all.

use proptest::prelude::*;

/// Random bytes, or one of `seeds` with some of its bytes changed, taken out or added, or without its end.
pub fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    let damaged = (prop::sample::select(seeds), prop::collection::vec(damage, 0..8));
    let damaged = damaged.prop_map(|(mut bytes, damages)| {
        for (place, byte, kind) in damages {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => drop(bytes.remove(place)),
                2 => bytes.insert(place, byte),
                _ => bytes.truncate(place),
            }
        }
        bytes
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..300), 3 => damaged]
}
