"""SESRec (shared spec) in PyTorch, for one user: the history is encoded once, candidates are scored against it."""

import sys

import torch
from torch import nn


def table(weights, name):
    return nn.Parameter(weights[name], requires_grad=False)


def linear(weights, name):
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def layer_norm(weights, name, eps):
    weight = weights[f"{name}.weight"]
    layer = nn.LayerNorm(weight.shape[0], eps=eps)
    layer.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})
    return layer


class Block(nn.Module):
    """Post-norm Transformer block; attention as in torch.nn.MultiheadAttention."""

    def __init__(self, weights, name, heads, eps):
        super().__init__()
        attention = f"{name}.multi_head_attention"
        projections = f"{attention}.multi_head_attention"
        in_weight = weights[f"{projections}.in_proj_weight"]
        self.in_proj = nn.Linear(in_weight.shape[1], in_weight.shape[0])
        self.in_proj.load_state_dict({"weight": in_weight, "bias": weights[f"{projections}.in_proj_bias"]})
        self.out_proj = linear(weights, f"{projections}.out_proj")
        self.attention_norm = layer_norm(weights, f"{attention}.LayerNorm", eps)
        self.dense_1 = linear(weights, f"{name}.feed_forward.dense_1")
        self.dense_2 = linear(weights, f"{name}.feed_forward.dense_2")
        self.norm = layer_norm(weights, f"{name}.feed_forward.LayerNorm", eps)
        self.heads = heads

    def forward(self, x):  # [L, d]
        length, d = x.shape
        q, k, v = self.in_proj(x).view(length, 3, self.heads, d // self.heads).permute(1, 2, 0, 3)  # [H, L, d/H]
        scores = q @ k.transpose(1, 2) * (d // self.heads) ** -0.5  # [H, L, L]
        context = torch.softmax(scores, -1) @ v  # [H, L, d/H]
        h = self.attention_norm(x + self.out_proj(context.transpose(0, 1).reshape(length, d)))
        hidden = nn.functional.leaky_relu(self.dense_1(h), 0.01)
        return self.norm(h + self.dense_2(hidden))


class SesRec(nn.Module):
    def __init__(self, weights, config, item_attributes, user_attributes):
        super().__init__()
        names = [attribute["name"] for attribute in config["item_attributes"]]
        self.items = nn.ParameterList([table(weights, f"query_item_feat.item_feat.item_{n}_emb.weight") for n in names])
        rows = torch.arange(self.items[0].shape[0])
        self.register_buffer("item_rows", torch.stack([rows if n == "id" else item_attributes[n] for n in names]))
        names = [attribute["name"] for attribute in config["user_attributes"]]
        self.users = nn.ParameterList([table(weights, f"user_feat.user_{n}_emb.weight") for n in names])
        rows = torch.arange(self.users[0].shape[0])
        self.register_buffer("user_rows", torch.stack([rows if n == "id" else user_attributes[n] for n in names]))
        self.item_trans = linear(weights, "query_item_feat.item_trans")
        self.queries = table(weights, "query_item_feat.query_id_emb.weight")
        self.words = table(weights, "query_item_feat.query_word_segs_emb.weight")
        self.query_trans = linear(weights, "query_item_feat.query_trans")
        self.sources = table(weights, "query_item_feat.query_search_source_emb.weight")
        eps, heads = config.get("layer_norm_eps", 1e-8), config["num_heads"]
        blocks = range(config.get("num_blocks", 1))
        for side in ["rec", "src"]:
            layer = f"{side}_his_transformer_layer.layer"
            setattr(self, f"{side}_positions", table(weights, f"{side}_pos_emb.pe.weight"))
            setattr(self, f"{side}_blocks", nn.Sequential(*[Block(weights, f"{layer}.{n}", heads, eps) for n in blocks]))
            setattr(self, f"{side}_w", nn.Parameter(weights[f"{side}_his_att_pooling.W"][0], requires_grad=False))
        for name in ["W1", "Wq", "Wd"]:
            setattr(self, name, table(weights, f"interest_contrast.co_att.{name}"))
        layers = [linear(weights, f"fc_layer.fc.{3 * n}") for n in range(len(config["mlp"]))]
        self.first, self.rest = layers[0], nn.ModuleList(layers[1:])

    def item_vectors(self, rows):
        parts = [weight[self.item_rows[n][rows]] for n, weight in enumerate(self.items)]
        return self.item_trans(torch.cat(parts, -1))

    def encode(self, *inputs):
        return self.encode_with(self.item_vectors, *inputs)

    def encode_with(self, item_vectors, user, recommendations, queries, words, sources, clicks):
        """[], [Lr], [Ls], [Ls, W], [Ls], [Ls, K] rows; 0 pads words and clicks."""
        rec = item_vectors(recommendations) + self.rec_positions[: recommendations.shape[0]]
        rec = self.rec_blocks(rec)  # [Lr, d]
        known = (words != 0).unsqueeze(-1).float()
        means = (self.words[words] * known).sum(1) / known.sum(1).clamp(min=1.0)
        query = self.query_trans(torch.cat([self.queries[queries], means], -1))
        clicked = (clicks != 0).unsqueeze(-1).float()
        clicked_means = (item_vectors(clicks) * clicked).sum(1) / clicked.sum(1).clamp(min=1.0)
        src = query + self.sources[sources] + clicked_means + self.src_positions[: queries.shape[0]]
        src = self.src_blocks(src)  # [Ls, d]
        affinity = torch.tanh(rec @ self.W1 @ src.T)  # [Lr, Ls]
        rec_weights = torch.softmax(affinity @ (src @ self.Wd.T).squeeze(1), 0)
        # A row times the matrix: ONNX Runtime 1.32 gets the transposed matrix times a vector wrong.
        src_weights = torch.softmax(((rec @ self.Wq.T).T @ affinity).squeeze(0), 0)
        attributes = [weight[self.user_rows[n][user]] for n, weight in enumerate(self.users)]
        return rec, self.sets(rec_weights), src, self.sets(src_weights), torch.cat(attributes, -1)

    @staticmethod
    def sets(weights):
        """[3, L]: all events, the similar and the dissimilar ones; an empty set falls back to all."""
        similar = weights >= 1.0 / weights.shape[0]
        both = torch.stack([torch.ones_like(similar), similar, ~similar])
        return both | ~both.any(1, keepdim=True)

    @staticmethod
    def pool(keys, encoded, sets):  # [C, d], [L, d], [3, L]
        scores = keys @ encoded.T  # [C, L]
        masked = scores.unsqueeze(1).masked_fill(~sets.unsqueeze(0), -1e12)  # [C, 3, L]
        return (torch.softmax(masked, -1) @ encoded).flatten(1)  # [C, 3d]

    def score(self, rec, rec_sets, src, src_sets, user, candidates):
        items = self.item_vectors(candidates)  # [C, d]
        interests = [self.pool(items @ self.rec_w.T, rec, rec_sets), self.pool(items @ self.src_w.T, src, src_sets)]
        x = torch.cat([*interests, user.expand(items.shape[0], -1), items], -1)
        x = self.first(x)
        for layer in self.rest:
            x = layer(torch.relu(x))
        return torch.sigmoid(x.squeeze(-1))

    def forward(self, user, recommendations, queries, words, sources, clicks, candidates):
        # By name, not `*inputs`: an exported graph has these inputs.
        return self.score(*self.encode(user, recommendations, queries, words, sources, clicks), candidates)


class WithItemTables(nn.Module):
    """The same with what sesrec has in its item table: what depends on the item alone is precomputed, for candidates and
    for items of the history, and the first layer is split by its inputs, so that the user's share is encoded, too."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        with torch.no_grad():
            items = torch.cat([model.item_vectors(rows) for rows in torch.arange(model.item_rows.shape[1]).split(4096)])
            d = items.shape[1]
            weight = model.first.weight
            interests, user, item = weight.split([6 * d, weight.shape[1] - 7 * d, d], 1)
            self.register_buffer("items", items)
            self.register_buffer("rec_keys", items @ model.rec_w.T)
            self.register_buffer("src_keys", items @ model.src_w.T)
            self.register_buffer("item_blocks", items @ item.T)
            self.register_buffer("interests", interests.T.contiguous())
            self.register_buffer("user", user.contiguous())

    def encode(self, *inputs):
        *sides, user = self.model.encode_with(lambda rows: self.items[rows], *inputs)
        return *sides, nn.functional.linear(user, self.user, self.model.first.bias)

    def score(self, rec, rec_sets, src, src_sets, user_block, candidates):
        model = self.model
        pooled = [model.pool(self.rec_keys[candidates], rec, rec_sets), model.pool(self.src_keys[candidates], src, src_sets)]
        x = torch.addmm(self.item_blocks[candidates] + user_block, torch.cat(pooled, -1), self.interests)
        for layer in model.rest:
            x = layer(torch.relu(x))
        return torch.sigmoid(x.squeeze(-1))

    def forward(self, user, recommendations, queries, words, sources, clicks, candidates):
        return self.score(*self.encode(user, recommendations, queries, words, sources, clicks), candidates)


def history(case, limits):
    """The inputs of `encode`, from the case that the peer binary wrote."""

    def padded(rows, length):
        return rows + [0] * (length - len(rows))

    searches = case["searches"]
    return (
        torch.tensor(case["user"]),
        torch.tensor(case["recommendations"]),
        torch.tensor([search["query"] for search in searches]),
        torch.tensor([padded(search["words"], limits["max_query_words"]) for search in searches]),
        torch.tensor([search["source"] for search in searches]),
        torch.tensor([padded(search["clicks"], limits["max_clicked_items"]) for search in searches]),
    )


def difference(name, scores, expected, tolerance):
    """The largest one. Ends the program where it is above the tolerance, or no number: `max` keeps NaN, and no comparison
    with NaN holds."""
    if scores.shape != expected.shape:
        sys.exit(f"{name}: scores {list(scores.shape)} instead of {list(expected.shape)}")
    far = (scores - expected).abs().max().item()
    if not far <= tolerance:
        sys.exit(f"{name}: scores of {len(expected)} candidates differ by {far}, more than {tolerance}")
    return far
