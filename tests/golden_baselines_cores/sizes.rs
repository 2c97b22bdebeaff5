//! The specification's parameter counts, of everything but the input layer.

use sesrec::model::{
    InputConfig, ParameterList, QueryFeatures, Role, TableConfig,
    baselines::{Baseline, DienConfig, DinConfig, Iv4RecConfig, NrhubConfig},
};

use crate::towers::inputs_of;

fn learned<B: Baseline>(config: &B) -> usize {
    let mut list = ParameterList::default();
    config.parameters(&mut list);
    let learned = list.into_parameters().into_iter().filter(|p| matches!(p.role, Role::Learned(_)));
    learned.map(|p| p.shape.iter().product::<usize>()).sum()
}

#[test]
fn defaults_have_the_specifications_sizes() {
    let inputs = inputs_of(32, 32);
    let din = learned(&DinConfig::new(inputs.clone()));
    assert_eq!(din, 45_906);
    // 63,603 with the attention's last bias, which softmax doesn't see.
    assert_eq!(learned(&DienConfig::new(inputs.clone())), 63_602);
    let table = TableConfig { rows: 9, dim: 16 };
    let query_features = Some(QueryFeatures { id: table, search_source: None, word_segs: table });
    let inputs = InputConfig { query_features, ..inputs };
    assert_eq!(learned(&NrhubConfig::new(inputs.clone())), 53_800);
    let iv4rec = Iv4RecConfig { instruments: 1, ..Iv4RecConfig::new(inputs) };
    assert_eq!(learned(&iv4rec) - din, 208_322);
}
