use candle_core::{Device, Tensor};
use sesrec::{
    model::baselines::{PositionSide, SasRec, SasRecConfig},
    nn::{Dropout, RowZero, gather_rows, newest},
};

use crate::{
    fixture::Fixture,
    towers::{LENGTH, NAMES, USERS, compare_scores, inputs, network},
};

#[test]
fn padded_on_the_left() {
    sasrec("sasrec", PositionSide::Left);
}

#[test]
fn padded_on_the_right() {
    sasrec("sasrec_right", PositionSide::Right);
}

fn sasrec(folder: &str, side: PositionSide) {
    let Some(golden) = Fixture::open(folder, NAMES) else { return };
    let sasrec = network(&golden, &SasRecConfig { positions: side, ..SasRecConfig::new(inputs()) });
    let real = golden.flags("mask_rec");
    let lengths: Vec<usize> = real.chunks(LENGTH).map(|row| row.iter().filter(|&&real| real).count()).collect();
    let layout = Layout { side, lengths: &lengths };
    let x = golden.variable("x_rec");
    let (embedded, blocks) = sasrec.forward(&layout.to_the_left(&x), &lengths, &mut Dropout::off()).unwrap();
    golden.compare_where("emb_ln", &layout.as_in_the_folder(&embedded), &real);
    for (n, block) in blocks.iter().enumerate() {
        golden.compare_where(&format!("attn_out_layer{n}"), &layout.as_in_the_folder(&block.attended), &real);
        golden.compare_where(&format!("hidden_layer{n}"), &layout.as_in_the_folder(&block.output), &real);
        let heads = block.attention.dim(1).unwrap();
        // Attention of a real position, per head.
        let real: Vec<bool> = real.chunks(LENGTH).flat_map(|row| row.repeat(heads)).collect();
        golden.compare_where(&format!("attn_probs_layer{n}"), &layout.attention(&block.attention), &real);
    }
    let states = &blocks.last().unwrap().output;
    // Without any event the reference attends to padding.
    let comparable: Vec<bool> = lengths.iter().map(|&n| n > 0).collect();
    assert_eq!(comparable.iter().filter(|&&real| real).count(), USERS - 1);
    compare_scores(&golden, &newest(states, &lengths).unwrap(), &[("x_rec", &x)], &comparable);

    let [next, sampled] = ["x_pos", "x_neg"].map(|name| layout.to_the_left(&golden.input(name)));
    let loss = SasRec::next_item_loss(states, &next, &sampled, &lengths).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &[("x_rec", &x)]);
    golden.all_compared(&[]);
}

/// Where the folder has its events; the network has them on the left.
struct Layout<'a> {
    side: PositionSide,
    lengths: &'a [usize],
}

impl Layout<'_> {
    /// How much padding lies before a user's events.
    fn padding(&self, user: usize) -> usize {
        match self.side {
            PositionSide::Left => LENGTH - self.lengths[user],
            PositionSide::Right => 0,
        }
    }

    /// `[B, L, d]` by places of each user's positions.
    fn moved(&self, x: &Tensor, place: impl Fn(usize, usize) -> usize) -> Tensor {
        let (users, length, d) = x.dims3().unwrap();
        let rows: Vec<u32> = (0..users * length)
            .map(|n| ((n / length) * length + place(n % length, self.padding(n / length)) % length) as u32)
            .collect();
        let flat = x.reshape((users * length, d)).unwrap();
        gather_rows(&flat, &rows, RowZero::Learns).unwrap().reshape((users, length, d)).unwrap()
    }

    fn to_the_left(&self, x: &Tensor) -> Tensor {
        self.moved(x, |position, padding| position + padding)
    }

    fn as_in_the_folder(&self, x: &Tensor) -> Tensor {
        self.moved(x, |position, padding| position + LENGTH - padding)
    }

    /// `[B, H, L, L]`, positions and those that they attend to.
    fn attention(&self, attention: &Tensor) -> Tensor {
        let (users, heads, length, _) = attention.dims4().unwrap();
        let values = attention.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut moved = vec![0.0_f32; values.len()];
        for (row, values) in values.chunks(length).enumerate() {
            let padding = self.padding(row / (heads * length));
            let (block, query) = (row / length * length, row % length);
            for (key, &value) in values.iter().enumerate() {
                if query + padding < length && key + padding < length {
                    moved[(block + query + padding) * length + key + padding] = value;
                }
            }
        }
        Tensor::from_vec(moved, (users, heads, length, length), &Device::Cpu).unwrap()
    }
}
