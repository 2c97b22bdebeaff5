//! What the kernels are told of a batch: which candidates are whose, in tiles of one request each.

/// Candidates of a tile, as in `kernels.cu`.
pub(super) const TILE: usize = 64;

/// Candidates that are scored together at most: what they take in between, 3 kB each at Kuaishou's dimensions, stays
/// below a gigabyte.
const MAX_CANDIDATES: usize = 1 << 18;

/// Words of a request and of a tile, as in `kernels.cu`.
const REQUEST_WORDS: usize = 10;
const TILE_WORDS: usize = 4;

/// One side of an encoded user.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SideOnDevice {
    /// The address of the encoded events.
    pub(super) encoded: u64,
    /// How many there are.
    pub(super) events: u32,
    /// How many of them, the first ones, are similar; all where the sets are not told apart.
    pub(super) similar: u32,
}

/// An encoded user.
#[derive(Debug, Clone, Copy)]
pub(super) struct UserOnDevice {
    /// Recommendation side, search side.
    pub(super) sides: [SideOnDevice; 2],
    /// The address of the user's share of the first layer.
    pub(super) user_block: u64,
}

/// A batch in the kernels' terms: requests, tiles and items, in this order, as one piece of memory to copy.
#[derive(Debug, Default)]
pub(super) struct Plan {
    requests: Vec<u32>,
    tiles: Vec<u32>,
    items: Vec<u32>,
}

impl Plan {
    /// As many as it takes for these users' candidates, which stay in order.
    pub(super) fn of<'a>(lists: impl Iterator<Item = (UserOnDevice, &'a [u32])>) -> Vec<Self> {
        Self::within(MAX_CANDIDATES, lists)
    }

    fn within<'a>(most: usize, lists: impl Iterator<Item = (UserOnDevice, &'a [u32])>) -> Vec<Self> {
        let mut plans = vec![];
        let mut plan = Self::default();
        for (user, mut items) in lists {
            while !items.is_empty() {
                let (now, later) = items.split_at(items.len().min(most - plan.items.len()));
                plan.push(user, now);
                items = later;
                if plan.items.len() == most {
                    plans.push(std::mem::take(&mut plan));
                }
            }
        }
        plans.extend((!plan.items.is_empty()).then_some(plan));
        plans
    }

    fn push(&mut self, user: UserOnDevice, items: &[u32]) {
        let request = (self.requests.len() / REQUEST_WORDS) as u32;
        let [rec, src] = user.sides;
        for address in [rec.encoded, src.encoded, user.user_block] {
            self.requests.extend([address as u32, (address >> 32) as u32]); // little-endian, as the device
        }
        self.requests.extend([rec.events, src.events, rec.similar, src.similar]);
        for tile in items.chunks(TILE) {
            self.tiles.extend([request, self.items.len() as u32, tile.len() as u32, 0]);
            self.items.extend_from_slice(tile);
        }
    }

    /// Candidates.
    pub(super) fn candidates(&self) -> usize {
        self.items.len()
    }

    /// Tiles.
    pub(super) fn tiles(&self) -> usize {
        self.tiles.len() / TILE_WORDS
    }

    /// Where tiles and items begin, in words.
    pub(super) fn offsets(&self) -> (usize, usize) {
        (self.requests.len(), self.requests.len() + self.tiles.len())
    }

    /// All of it.
    pub(super) fn words(&self) -> Vec<u32> {
        [&self.requests[..], &self.tiles, &self.items].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_in_one_tile_of_its_request() {
        let user = |n: u64| UserOnDevice { sides: [SideOnDevice::default(); 2], user_block: n << 32 | n };
        let lists: Vec<Vec<u32>> = [130, 0, 1, 64, 300].iter().map(|&n| (0..n).collect()).collect();
        for most in [1, 64, 100, 1000] {
            let plans = Plan::within(most, lists.iter().enumerate().map(|(n, list)| (user(n as u64), &list[..])));
            let mut found = vec![vec![]; lists.len()];
            for plan in &plans {
                assert!(plan.candidates() <= most && plan.candidates() > 0);
                let (tiles, items) = plan.offsets();
                let words = plan.words();
                for tile in words[tiles..items].chunks(TILE_WORDS) {
                    let [request, start, count, _] = *tile else { panic!("{tile:?}") };
                    assert!((1..=TILE).contains(&(count as usize)));
                    let owner = words[request as usize * REQUEST_WORDS + 4] as usize;
                    assert_eq!(words[request as usize * REQUEST_WORDS + 5] as usize, owner);
                    found[owner].extend_from_slice(&words[items..][start as usize..][..count as usize]);
                }
            }
            assert_eq!(found, lists);
        }
    }
}
