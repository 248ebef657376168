"""PERSCEN as one would first write it: equation by equation, one row per pair, autograd throughout.

It reads its weights from a :class:`Perscen` of the same settings, so that both have one parameter
set, and covers the paper's model with the options that change an equation. What it shares with the
product are the settings and the weights, no computation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from perscen.data.batches import ItemBatch, Packed, UserBatch
from perscen.models.perscen import Perscen
from perscen.schema import TowerSchema


def user_vectors(model: Perscen, users: UserBatch) -> tuple[Tensor, Tensor]:
    """Return ``e_hat_us`` of every row and the quantiser's loss, eqs. (2)-(15)."""
    config = model.config
    pooled = {
        "history": _pool(model, users.history),
        "shown": _pool(model, users.shown),
    }
    nodes = _nodes(
        model.user_fields, model.schema.user, users.categorical_BF, users.dense_BF, users.bags
    )
    nodes += [pooled[name] for name in model._sequences]
    if config.user_scenario:
        nodes.append(model.scenario_SD[users.scenario_B])
    nodes = torch.stack(nodes, dim=1)
    hidden = _interaction(model.user_interaction, nodes, config)
    p_hat, loss = _preference(model, users)
    fused = _fusion(model.user_fusion, hidden, p_hat, config)
    return fused, loss


def item_vectors(model: Perscen, items: ItemBatch, scenario: Tensor) -> Tensor:
    """Return ``e_hat_vs``; ``items`` has one row per pair."""
    nodes = _nodes(
        model.item_fields, model.schema.item, items.categorical_BF, items.dense_BF, items.bags
    )
    hidden = _interaction(model.item_interaction, torch.stack(nodes, dim=1), model.config)
    if model.config.item_tower.scenario_aware:
        own = model.config.item_tower.share_scenario_encoder
        encode = (model.user_preference if own else model.item_preference).encode_scenario
        p_hat = model.item_preference.fuse(encode(model.scenario_SD[scenario]))
    else:
        p_hat = model.item_preference.vector_1W.repeat(len(scenario), 1)
    return _fusion(model.item_fusion, hidden, p_hat, model.config)


def _nodes(
    fields, tower: TowerSchema, categorical: Tensor, dense: Tensor, bags: tuple[Packed, ...]
) -> list[Tensor]:
    """Eq. (2)."""
    nodes = []
    for column, field in enumerate(tower.categorical):
        if field.name in fields.names:
            raw = categorical[:, column]
            rows = torch.where(raw > 0, raw + fields.table.starts[field.name], 0)
            nodes.append(F.embedding(rows, fields.table.weight_RD))
    kept = [k for k, name in enumerate(tower.dense) if name in fields.names]
    for k, weight in zip(kept, getattr(fields, "dense_FD", ()), strict=True):
        nodes.append(dense[:, k, None].to(weight) * weight)
    for position, field in fields._bags:
        nodes.append(_mean(fields.table, fields.table.starts[field.name], bags[position]))
    return nodes


def _pool(model: Perscen, packed: Packed) -> Tensor:
    table = model.item_fields.table
    return _mean(table, table.starts["item_id"], packed)


def _mean(table, start: int, packed: Packed) -> Tensor:
    """The mean over the real positions of a padded array; nothing gives zero."""
    lengths = packed.offsets_B1.diff()
    padded = torch.zeros(len(lengths), int(lengths.max()) if len(lengths) else 0, dtype=torch.int64)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    padded[real] = torch.where(packed.values_V > 0, packed.values_V + start, 0)
    total = (F.embedding(padded, table.weight_RD) * (padded > 0)[..., None]).sum(dim=1)
    return total / (padded > 0).sum(dim=1, keepdim=True).clamp(min=1)


def _interaction(interaction, nodes: Tensor, config) -> list[Tensor]:
    B, N, d = nodes.shape
    if config.interaction == "mlp":
        hidden = [nodes.reshape(B, N * d)]
        for layer in interaction.layers:
            hidden.append(torch.relu(layer(hidden[-1])))
        return hidden
    first = _first_order(interaction.graph, nodes, config)
    orders = [refine(first, config.graph)]
    power = first
    for _ in range(1, config.gnn.layers):
        if config.graph.power == "same":
            orders.append(orders[0])
        elif config.graph.power == "raw":
            power = power @ first
            orders.append(refine(power, config.graph))
        else:
            scaled = min_max(orders[-1] @ orders[0]) * (orders[0] != 0).to(nodes)
            orders.append((scaled + scaled.transpose(1, 2)) / 2)
    hidden = [nodes]
    for layer, adjacency in enumerate(orders):
        weight = interaction.message_LDD[0 if config.gnn.share_weights else layer]
        summed = adjacency @ (nodes @ weight.T)
        if config.gnn.activation != "none" and layer < config.gnn.layers - 1:
            summed = F.leaky_relu(summed)
        hidden.append(hidden[-1] * summed)
    return [h.reshape(B, N * d) for h in hidden]


def _first_order(graph, nodes: Tensor, config) -> Tensor:
    """Eq. (4), one node after the other."""
    B, N, d = nodes.shape
    flat = nodes.reshape(B, N * d)
    if config.graph.source == "shared":
        return graph.adjacency_1NN.repeat(B, 1, 1)
    rows = []
    for m in range(N):
        if config.graph.share_mlp:
            onehot = F.one_hot(torch.tensor(m), N).to(nodes)
            hidden = torch.relu(graph.first(flat) + onehot @ graph.onehot_NH)
            rows.append(graph.third(torch.relu(graph.second(hidden))))
        else:
            own = slice(m * N, (m + 1) * N)
            hidden = torch.relu(flat @ graph.first_weight[:, own] + graph.first_bias[own])
            hidden = torch.relu(hidden @ graph.second_weight_NHH[m] + graph.second_bias_N1H[m])
            rows.append(hidden @ graph.third_weight_NHN[m] + graph.third_bias_N1N[m])
    return torch.stack(rows, dim=1)


def min_max(A: Tensor) -> Tensor:
    """Scale each user's entries to [0, 1]."""
    low = A.amin(dim=(1, 2), keepdim=True)
    return (A - low) / (A.amax(dim=(1, 2), keepdim=True) - low + 1e-8)


def refine(A: Tensor, graph) -> Tensor:
    """The default options: unit diagonal, the largest of all entries, symmetric."""
    assert graph.self_loop == "one"
    assert graph.sparsify == "global_topk"
    B, N, _ = A.shape
    scaled = min_max(A)
    eye = torch.eye(N).to(A)
    keep = max(0, int(graph.keep_ratio * N * N) - N)
    off_diagonal = scaled.detach().masked_fill(eye.bool(), -1).reshape(B, N * N)
    order = off_diagonal.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    mask = torch.zeros(B, N * N).to(A).scatter_(1, order, 1).view(B, N, N)
    sparse = scaled * mask + eye
    return (sparse + sparse.transpose(1, 2)) / 2


def _preference(model: Perscen, users: UserBatch) -> tuple[Tensor, Tensor]:
    """Eqs. (7)-(12)."""
    side, vq = model.user_preference, model.config.vq
    p_s = side.encode_scenario(model.scenario_SD[users.scenario_B])
    if model.config.pref.sequence == "none":
        return side.fuse(p_s), p_s.new_zeros(())
    z = side.project(_pool(model, users.spec_history))
    p, loss = z, z.new_zeros(())
    if vq.codebook_size:
        codes = side.quantise.codes_KZ
        c = codes[torch.cdist(z, codes).argmin(dim=1)]
        loss = (z.detach() - c).pow(2).sum(1).mean() + vq.beta * (z - c.detach()).pow(2).sum(
            1
        ).mean()
        quantised = {
            "ste": z + (c - z).detach(),
            "residual_only": c.detach(),
            "literal": c,
        }[vq.gradient]
        p = z + quantised
    return side.fuse(torch.cat([p, p_s], dim=1)), loss


def _fusion(fusion, hidden: list[Tensor], p_hat: Tensor, config) -> Tensor:
    """Eqs. (13)-(15) as the paper has them: one matrix over ``[h, g]``, one over ``p_hat``."""
    if config.fusion == "direct_concat":
        whole = torch.cat([fusion.hidden.weight, fusion.preference.weight], dim=1)
        return torch.cat([hidden[-1], p_hat], dim=1) @ whole.T
    if config.fusion == "direct":
        g = fusion.hidden(hidden[-1])
    elif config.fusion == "gru":
        g = fusion.start(hidden[0])
        for cell, h in zip(fusion.cells, hidden[1:], strict=True):
            g = cell(torch.cat([h, p_hat], dim=1), g)
    else:
        g = hidden[0]
        for layer in range(config.gnn.layers):
            of_h, of_g = fusion.hidden[layer], fusion.state[layer]
            r1, r3 = torch.cat([of_h.weight, of_g.weight], dim=1).chunk(2)
            r2, r4 = fusion.preference[layer].weight.chunk(2)
            b1, b3 = of_h.bias.chunk(2) if of_h.bias is not None else (0, 0)
            h_g = torch.cat([hidden[layer + 1], g], dim=1)
            g = (h_g @ r1.T + p_hat @ r2.T + b1) * torch.sigmoid(h_g @ r3.T + p_hat @ r4.T + b3)
    gate = fusion.gate
    w_o = torch.cat([gate.state.weight, gate.preference.weight], dim=1)
    logit = torch.cat([g, p_hat], dim=1) @ w_o.T
    alpha = torch.sigmoid(logit if gate.state.bias is None else logit + gate.state.bias)
    e_hat = alpha * g + (1 - alpha) * p_hat
    out = getattr(fusion, "out", None)
    return e_hat if out is None else out(e_hat)
