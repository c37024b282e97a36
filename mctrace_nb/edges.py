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

from mctrace_nb.circuits import Circuit
from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.nodes import Nodes

POINTS = 5
TOGETHER = 2 ** 20  # numbers in the residual streams of one pass


class _Seen:
    """What hooks keep of one pass: the streams that enter layer norms, what is read there, and what components write."""

    def __init__(self, body):
        self.stream, self.read, self.write = {}, {}, {}
        self.handles = []
        for number, block in enumerate(body.h):
            self._keep(block.ln_1, self.stream, (number, "attn"), output=False)
            self._keep(block.attn.c_attn, self.read, (number, "attn"))
            self._keep(block.attn.c_proj, self.write, (number, "attn"), output=False)
            self._keep(block.ln_2, self.stream, (number, "mlp"), output=False)
            self._keep(block.ln_2, self.read, (number, "mlp"))
            self._keep(block.mlp, self.write, (number, "mlp"))
        self._keep(body.ln_f, self.stream, "answer", output=False)
        self._keep(body.ln_f, self.read, "answer")

    def _keep(self, module, where: dict, name, output: bool = True) -> None:
        def hook(_, args, out):
            where[name] = out if output else args[0]
            if output and out.requires_grad:
                out.retain_grad()

        self.handles.append(module.register_forward_hook(hook))

    def __enter__(self) -> "_Seen":
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()


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
    """
    _check(model, base, counterfactual)
    if points < 0:
        raise InputError(f"points={points} is out of range; give 0 for EAP, or the number of points of EAP-IG")
    nodes, body = Nodes.of(model, ("head_output", "mlp_block")), model.model.transformer
    total = sum(_scores(model, body, nodes, *part, points) for part in _parts(model, points, base, counterfactual, target, foil))
    strength = total.abs().cpu().double().numpy() / len(base)
    heads, n = model.heads, len(nodes)
    found, column = np.zeros((n, n)), 0
    for node, kind in enumerate(nodes.kinds[1:], 1):
        reads = 3 if kind == "head_output" else 1
        found[:-1, node] = strength[:, column:column + reads].sum(1)
        column += reads
    allowed = nodes.allowed.numpy()
    return Circuit(nodes.labels, found * allowed, allowed, "eap-ig" if points else "eap",
                   dict(points=points, forwards=len(base) * (2 + max(1, points)), backwards=len(base) * max(1, points), heads=heads))


def _parts(model: LanguageModel, points: int, *pairs) -> Iterator[tuple[torch.Tensor, ...]]:
    """Base, counterfactual, target and foil of so many pairs as fit into one pass, with the model's weights frozen meanwhile."""
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
    b, t = base.shape
    with _Seen(body) as seen, torch.no_grad():
        model.model.transformer(input_ids=torch.cat([counterfactual, base]), use_cache=False)
    difference = _written(model, body, seen, body.wte(counterfactual) - body.wte(base), b)
    with _Seen(body) as seen:
        _line(model, body, base, counterfactual, target, foil, points)
    back = []
    for number, block in enumerate(body.h):
        weight = block.attn.c_attn.weight.unflatten(1, (3, model.heads, -1))  # (width, 3, heads, head width)
        back.append(_way_back(seen, (number, "attn"), block.ln_1, weight.transpose(1, 2).flatten(1, 2), max(1, points)))
        back.append(_way_back(seen, (number, "mlp"), block.ln_2, None, max(1, points)))
    back.append(_way_back(seen, "answer", body.ln_f, None, max(1, points)))
    return difference.flatten(1) @ torch.cat(back).flatten(1).T


def _written(model, body, seen: _Seen, embeddings: torch.Tensor, b: int) -> torch.Tensor:
    """(nodes - 1, b, t, width) what each node writes more on the counterfactual prompts than on the base prompts."""
    found = [embeddings[None]]
    for number, block in enumerate(body.h):
        z = seen.write[number, "attn"]
        z = (z[:b] - z[b:]).unflatten(-1, (model.heads, -1))
        out = block.attn.c_proj.weight.unflatten(0, (model.heads, -1))  # (heads, head width, width)
        found.append(torch.einsum("bthd,hdw->hbtw", z, out))
        mlp = seen.write[number, "mlp"]
        found.append((mlp[:b] - mlp[b:])[None])
    return torch.cat(found)


def _way_back(seen: _Seen, place, norm, weight: torch.Tensor | None, points: int) -> torch.Tensor:
    """(readers, b, t, width) the gradient of the metric with respect to what each reader of one layer norm reads of the stream, the mean over
    the points. weight: (width, readers, n) of the projection that was recorded, None where the norm's own output was."""
    stream, read = seen.stream[place].detach(), seen.read[place]
    centred = stream - stream.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    normal, gradient = centred * inverse, read.grad * inverse  # (P b, t, ...)
    if weight is None:
        flow = (gradient * norm.weight)[None]
        along = (flow * normal).mean(-1)[..., None]  # (1, P b, t, 1)
        found = (flow - along * normal).unflatten(1, (points, -1)).mean(1)
        return found - found.mean(-1, keepdim=True)
    _, readers, n = weight.shape
    heads = readers // 3
    gradient = gradient.unflatten(-1, (3, heads, n)).transpose(-3, -2).flatten(-3, -2)  # (P b, t, readers, n)
    weight = weight * norm.weight[:, None, None]
    straight = torch.einsum("btrn,wrn->rbtw", gradient.unflatten(0, (points, -1)).mean(0), weight)
    heard = torch.einsum("btw,wrn->btrn", normal, weight)
    along = (gradient * heard).sum(-1) / normal.shape[-1]  # (P b, t, readers)
    bent = torch.einsum("pbtr,pbtw->rbtw", along.unflatten(0, (points, -1)), normal.unflatten(0, (points, -1))) / points
    return straight - straight.mean(-1, keepdim=True) - bent
