"""Edge attribution: EAP and EAP-IG on GPT-2-shaped models, as rivals of CircuitLasso on planted circuits.

    score(u -> v) = sum over tokens of (what u writes on the counterfactual prompt - on the base prompt) . d metric / d (what v reads)

Syed et al. 2023 (arXiv 2310.10348) with the gradient on the base prompt; Hanna et al. 2024 (arXiv 2403.17806, EAP-IG inputs) with its mean
over points on the line between the token embeddings of the two prompts. The metric is the logit of target minus that of foil. A head reads
three times (query, key, value), and its edges count together.

Gradients are taken where activity enters a projection; the way back from there through projection and layer norm to the stream is linear
and short, and is taken once for all points. So the cost is little more than that of the passes.
"""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from mctrace_nb.circuits import Circuit
from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.memory import keep_freed_memory
from mctrace_nb.nodes import Nodes

POINTS = 5
TOGETHER = 2 ** 20  # numbers in the residual streams of one pass


class _Written:
    """Keeps what components write in a pass: of each layer the heads' outputs before their projection, and the MLP's output."""

    def __init__(self, body):
        self.write, self.handles = {}, []
        for number, block in enumerate(body.h):
            self.handles.append(block.attn.c_proj.register_forward_pre_hook(lambda _, args, number=number: self._keep((number, "attn"), args[0])))
            self.handles.append(block.mlp.register_forward_hook(lambda _, __, out, number=number: self._keep((number, "mlp"), out)))

    def _keep(self, place, said: torch.Tensor) -> None:
        self.write[place] = said.flatten(0, 1)

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()


class _Read(_Written):
    """Calls `back(place, stream, read, gradient)` during a backward pass, for every place where the stream is read through a layer norm: while
    its numbers are still at hand, and without keeping them."""

    def __init__(self, body, back):
        self.handles, self.back, self.stream = [], back, {}
        for number, block in enumerate(body.h):
            self._watch((number, "attn"), block.ln_1, block.attn.c_attn)
            self._watch((number, "mlp"), block.ln_2, block.ln_2)
        self._watch("answer", body.ln_f, body.ln_f)

    def _watch(self, place, norm, reader) -> None:
        def enters(_, args):
            self.stream[place] = args[0].detach()

        def leaves(_, __, read):
            told = read.detach()
            read.register_hook(lambda gradient: self.back(place, *(x.flatten(0, 1) for x in (self.stream.pop(place), told, gradient))))

        self.handles += [norm.register_forward_pre_hook(enters), reader.register_forward_hook(leaves)]


def _check(model: LanguageModel, base: Sequence, counterfactual: Sequence) -> None:
    if model.model.config.model_type != "gpt2":
        raise InputError(f"{model.name!r} is of family {model.model.config.model_type!r}; edge attribution is there for GPT-2-shaped models only")
    lengths = {len(p) for p in (*base, *counterfactual)}
    if len(lengths) != 1 or len(base) != len(counterfactual):
        raise InputError(f"edge attribution needs pairs of prompts of one length, not of {sorted(lengths)} tokens")


def edge_attribution(model: LanguageModel, base: Sequence[Sequence[int]], counterfactual: Sequence[Sequence[int]], target: Sequence[int],
                     foil: Sequence[int], points: int = POINTS) -> Circuit:
    """EAP-IG with so many points, or EAP with points=0 (the gradient on the base prompt), of pairs of prompts of one length.

    target, foil: `(n,)` words. Returns a `Circuit` with the size of each edge's score, summed over prompts and divided by their number
    (logits). Work a pair: 2 rows forwarded for what is written, and max(1, points) forwarded and back-propagated. Raises InputError for
    another family than GPT-2, prompts of several lengths, or points below 0.

        >>> pairs = [(e.base, e.counterfactual, e.target[0], e.foil[0]) for e in task.search]
        >>> circuit = mct.edge_attribution(model, *map(list, zip(*pairs)))
        >>> circuit.to_frame(0.2).head(2).round(2)
           source  target  strength  reach
        0   embed  L0.mlp      8.49   3.95
        1  L0.mlp    L1H2      5.30   3.95
    """
    _check(model, base, counterfactual)
    if points < 0:
        raise InputError(f"points={points} is out of range; give 0 for EAP, or the number of points of EAP-IG")
    nodes, body = Nodes.of(model, ("head_output", "mlp_block")), model.model.transformer
    total = sum(_scores(model, body, nodes, *part, points) for part in _parts(model, points, base, counterfactual, target, foil))
    strength = total.abs().cpu().double().numpy() / (len(base) * max(1, points))
    found, column = np.zeros((len(nodes),) * 2), 0
    for node, (kind, unit) in enumerate(zip(nodes.kinds[1:], nodes.units[1:]), 1):
        found[:-1, node] = strength[:, column]
        column += 1
    allowed = nodes.allowed.numpy()
    return Circuit(nodes.labels, found * allowed, allowed, "eap-ig" if points else "eap",
                   dict(points=points, forwards=len(base) * (2 + max(1, points)), backwards=len(base) * max(1, points)))


def _parts(model: LanguageModel, points: int, *pairs) -> Iterator[tuple[torch.Tensor, ...]]:
    """Base, counterfactual, target and foil of so many pairs as fit into one pass, with the model's weights frozen meanwhile."""
    keep_freed_memory()
    tensors = [torch.as_tensor(np.asarray(p), device=model.device) for p in pairs]
    frozen = [p for p in model.model.parameters() if p.requires_grad]
    step = max(1, TOGETHER // (tensors[0].shape[1] * model.width * max(2, points)))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for part in torch.arange(len(tensors[0]), device=model.device).split(step):
            yield tuple(x[part] for x in tensors)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _line(model, body, base, counterfactual, target, foil, points: int) -> None:
    """Forward and backward along the line between the embeddings of pairs."""
    shares = [(i + 0.5) / points for i in range(points)] if points else [0.0]
    start, stop = body.wte(base), body.wte(counterfactual)
    line = torch.cat([torch.lerp(start, stop, share) for share in shares]).detach().requires_grad_()  # (P b, t, width)
    with torch.enable_grad():
        last = model.model.transformer(inputs_embeds=line, use_cache=False).last_hidden_state[:, -1]
        words = model.model.lm_head.weight[target] - model.model.lm_head.weight[foil]
        (last * words.repeat(len(shares), 1)).sum().backward()


def passes_alone(model: LanguageModel, base, counterfactual, target, foil, points: int = POINTS) -> None:
    """The forward and backward passes of `edge_attribution` and nothing else: what it costs at least."""
    body = model.model.transformer
    for part in _parts(model, points, base, counterfactual, target, foil):
        with torch.no_grad():
            body(input_ids=torch.cat([part[1], part[0]]), use_cache=False)
        _line(model, body, *part, points)


def _scores(model, body, nodes: Nodes, base, counterfactual, target, foil, points: int) -> torch.Tensor:
    """(nodes - 1, readers) sums over prompts; readers: query, key and value of each head, then each MLP, layer by layer, then the answer."""
    with _Written(body) as said, torch.no_grad():
        model.model.transformer(input_ids=torch.cat([counterfactual, base]), use_cache=False)
    difference = _written(model, body, said.write, body.wte(counterfactual) - body.wte(base))
    steps, found = torch.tensor(nodes.step), {}

    def back(place, stream, read, gradient) -> None:
        number, part = (len(body.h), "answer") if place == "answer" else place
        norm = body.ln_f if part == "answer" else body.h[number].ln_1 if part == "attn" else body.h[number].ln_2
        way = _way_back(stream, read, gradient, norm, max(1, points), body.h[number].attn.c_attn if part == "attn" else None, model.heads)
        earlier = int((steps < 2 * number + 1 + (part == "mlp")).sum())
        found[2 * number + (part == "mlp")] = nn.functional.pad(difference[:earlier] @ way.T, (0, 0, 0, len(difference) - earlier))

    with _Read(body, back):
        _line(model, body, base, counterfactual, target, foil, points)
    return torch.cat([found[place] for place in sorted(found)], 1)


def _written(model, body, write: dict, embeddings: torch.Tensor) -> torch.Tensor:
    """(nodes - 1, b t width) what each node writes more on the counterfactual prompts than on the base prompts."""
    heads, rows = model.heads, embeddings.flatten(0, 1)
    found = rows.new_empty(1 + len(body.h) * (heads + 1), *rows.shape)
    found[0] = rows
    for number, block in enumerate(body.h):
        z, mlp, first = write[number, "attn"], write[number, "mlp"], 1 + number * (heads + 1)
        z = (z[:len(rows)] - z[len(rows):]).unflatten(1, (heads, -1)).transpose(0, 1)  # (heads, b t, head width)
        torch.matmul(z, block.attn.c_proj.weight.unflatten(0, (heads, -1)), out=found[first:first + heads])
        torch.sub(mlp[:len(rows)], mlp[len(rows):], out=found[first + heads])
    return found.flatten(1)


def _weighted(x: torch.Tensor, weight: torch.Tensor, points: int) -> torch.Tensor:
    """(b t, w) the sum over points of x `(P b t, w)` times weight `(P b t, 1)`."""
    parts = list(zip(x.chunk(points), weight.chunk(points)))
    total = parts[0][0] * parts[0][1]
    for some, by in parts[1:]:
        total.addcmul_(some, by)
    return total


def _way_back(stream: torch.Tensor, read: torch.Tensor, gradient: torch.Tensor, norm, points: int, projection, heads: int) -> torch.Tensor:
    """(readers, b t width) the gradient of the metric with respect to what each reader of one layer norm reads of the stream, the sum over
    the points. projection: whose output was recorded, the queries, keys and values of the heads; None where the norm's own output was.

    With x the stream, s its standard deviation and n = (x - mean x) / s, a reader r = W' (gain n + shift) + b moves by
    `W' gain (d - mean d - n (n . d) / width) / s` where the stream moves by d.
    """
    width = stream.shape[-1]  # all (P b t, ...)
    normal = stream - stream.mean(-1, keepdim=True)
    inverse = (normal.square().mean(-1, keepdim=True) + norm.eps).rsqrt()  # (P b t, 1)
    normal *= inverse
    if projection is None:
        along = (gradient * normal) @ norm.weight[:, None] * (inverse / width)
        found = _weighted(gradient, inverse, points) * norm.weight - _weighted(normal, along, points)
        return (found - found.mean(-1, keepdim=True)).flatten()[None]
    n = width // heads
    weight = norm.weight[:, None] * projection.weight
    weight = (weight - weight.mean(0)).unflatten(1, (3, heads, n)).permute(2, 1, 3, 0).flatten(1, 2)  # (heads, 3 n, width)
    fixed = (norm.bias @ projection.weight + projection.bias).flatten()  # of what is read, this does not come from the stream
    sums = torch.eye(heads, dtype=read.dtype, device=read.device).repeat_interleave(n, 0).repeat(3, 1)  # (3 heads n, heads)
    along = (gradient * read) @ -sums  # (P b t, heads)
    if bool(fixed.any()):
        along += gradient @ (fixed[:, None] * sums)
    along *= inverse / width
    straight = _weighted(gradient, inverse, points)  # (b t, 3 heads n)
    straight = straight.unflatten(1, (3, heads, n)).permute(2, 0, 1, 3).flatten(2)  # (heads, b t, 3 n)
    bent = [x.unflatten(0, (points, -1)).transpose(0, 1).contiguous() for x in (along, normal)]  # (b t, P, ...)
    found = torch.baddbmm(torch.bmm(bent[0].transpose(1, 2), bent[1]).transpose(0, 1), straight, weight)  # (heads, b t, width)
    return found.flatten(1)
