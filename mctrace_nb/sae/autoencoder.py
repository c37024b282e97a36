"""A sparse autoencoder of the activity at one site: what it says of an activity, how good it is, and how one is trained.

    z = activation((n(x) - b_dec) W_enc + b_enc),   x^ = z W_dec + b_dec

with n a normalisation of single activities, and b_dec subtracted from the input or not, as published dictionaries differ in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.layout import LanguageModel
from mctrace_nb.observing import Site
from mctrace_nb.progress import bar

ACTIVATIONS = ("relu", "topk", "jumprelu")
# none; the activity's own mean taken off, as TransformerLens does to models with LayerNorm; that, and divided by its standard deviation
NORMS = ("none", "centre", "layer_norm")
CELLS = 2 ** 24  # numbers at a time, where only some features of many activities are wanted


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """D features of an activity of width d.

    site: (kind, layer) as in `observing.SEEN`. W_enc `(d, D)`, b_enc `(D,)`, W_dec `(D, d)`, b_dec `(d,)`. activation: "relu", "topk" (the k
    largest, and none below zero) or "jumprelu" (those above their threshold `(D,)`). subtract: whether b_dec is taken off the input. norm: one
    of `NORMS`. made: how it was made, for the record.

    Raises InputError for shapes that do not agree, an unknown activation or norm, a k or thresholds that are missing.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
        >>> sae.encode(torch.tensor([[1.0, -1.0]]))
        tensor([[1., 0.]])
    """

    site: Site
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    activation: str = "relu"
    k: int | None = None
    threshold: torch.Tensor | None = None
    subtract: bool = True
    norm: str = "none"
    made: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of(self.activation, ACTIVATIONS, "activation of an autoencoder")
        one_of(self.norm, NORMS, "norm of an autoencoder")
        if self.W_enc.ndim != 2:
            raise InputError(f"W_enc has the shape {tuple(self.W_enc.shape)}; it has to be (width, features)")
        width, features = self.W_enc.shape
        wanted = {"b_enc": (features,), "W_dec": (features, width), "b_dec": (width,)}
        if self.activation == "jumprelu":
            wanted["threshold"] = (features,)
        for name, shape in wanted.items():
            got = getattr(self, name)
            if got is None or tuple(got.shape) != shape:
                raise InputError(f"{name} is {'missing' if got is None else f'of shape {tuple(got.shape)}'}; with W_enc {(width, features)}, "
                                 f"(width, features), it has to be {shape}")
        if self.activation == "topk" and not (isinstance(self.k, int) and 1 <= self.k <= features):
            raise InputError(f"k={self.k!r} is out of range; give a whole number of active features from 1 to {features}")

    @property
    def width(self) -> int:
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        return self.W_enc.shape[1]

    def check(self, model: LanguageModel) -> "Autoencoder":
        """Returns itself if the model has this site with this width; raises InputError if not."""
        kind, layer = self.site
        if not 0 <= layer < len(model.layers):
            raise InputError(f"the autoencoder is for layer {layer}, {model.name!r} has {len(model.layers)} layers, numbered from 0; load the "
                             "model that it was made for")
        width = model.neurons if kind == "mlp_neuron" else model.width
        if width != self.width:
            raise InputError(f"the autoencoder reads activities of width {self.width}, {kind} of {model.name!r} has {width}; load the model that "
                             "it was made for")
        if self.made.get("hook") and kind in ("mlp_block", "attn_block") and hasattr(model.layers[layer].block, "post_feedforward_layernorm"):
            raise InputError(f"{self.made['hook']!r} is read after a norm of what {model.name!r} adds to the residual stream, {kind} "
                             "is seen before it; use an autoencoder of the residual stream")
        return self

    def _normed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The activities as the encoder wants them, and what was taken off and divided by."""
        if x.shape[-1] != self.width:
            raise InputError(f"activities of width {x.shape[-1]} do not fit an autoencoder of {self.site[0]} with width {self.width}")
        x = x.to(self.W_enc)
        mean, sd = torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
        if self.norm != "none":
            mean = x.mean(-1, keepdim=True)
        if self.norm == "layer_norm":
            sd = x.std(-1, keepdim=True)
            return (x - mean) / (sd + 1e-5), mean, sd
        return x - mean, mean, sd

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Activities `(..., d)` to features `(..., D)`."""
        x = self._normed(x)[0]
        before = (x - self.b_dec if self.subtract else x) @ self.W_enc + self.b_enc
        return active(before, self.activation, self.k, self.threshold)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Features `(..., D)` to activities `(..., d)`, normalised as the encoder reads them."""
        return z @ self.W_dec + self.b_dec

    def reconstruct(self, x: torch.Tensor, without: torch.Tensor | None = None) -> torch.Tensor:
        """Activities `(..., d)` as the features tell them, in the units of x. without: numbers of features that are set to zero before."""
        _, mean, sd = self._normed(x)
        z = self.encode(x)
        if without is not None:
            z[..., without] = 0
        return self.decode(z) * sd + mean

    def parts(self, x: torch.Tensor):
        """Features of activities `(M, d)`, some rows at a time, so that memory stays bounded: slices of rows and their features."""
        step = max(1, CELLS // self.features)
        for start in range(0, len(x), step):
            yield slice(start, start + step), self.encode(x[start:start + step])

    def report(self, x: torch.Tensor) -> dict:
        """How good it is on activities `(M, d)`: share of their variance that the reconstruction explains, mean number of active features (l0),
        share of features that are never active (dead), how many there are, and of how many activities this is told.

        Raises InputError for activities that are not finite or do not vary."""
        total = _variance(x)
        left, on, ever = 0.0, 0, torch.zeros(self.features, dtype=torch.bool, device=x.device)
        for rows, z in self.parts(x):
            _, mean, sd = self._normed(x[rows])
            left += float((x[rows] - (self.decode(z) * sd + mean)).double().pow(2).sum())
            on += int((z != 0).sum())
            ever |= (z != 0).any(0)
        dead = 1 - float(ever.double().mean())
        return dict(explained=1 - left / (total * len(x)), l0=on / len(x), dead=dead, features=self.features, tokens=len(x))


def active(before: torch.Tensor, activation: str, k: int | None = None, threshold: torch.Tensor | None = None) -> torch.Tensor:
    """What an activation leaves of `(..., D)`: everything above zero, the k largest of that, or everything above a threshold `(D,)`."""
    z = before.clamp(min=0)
    if activation == "jumprelu":
        return z * (before > threshold)
    if activation == "topk":
        best = z.topk(k, dim=-1)
        return torch.zeros_like(z).scatter(-1, best.indices, best.values)
    return z


def _variance(x: torch.Tensor) -> float:
    """The summed variance of activities `(M, d)`."""
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"activities have the shape {tuple(x.shape)}; give (tokens, width), and at least two tokens")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{int((~torch.isfinite(x)).sum())} values of the activities are not finite; load the model with dtype='float32'")
    total = float(x.double().var(0, correction=0).sum())
    if total < 1e-12:
        raise InputError("the activities are the same at all tokens, so there is nothing to explain; give different prompts")
    return total


REVIVALS = 8  # how often, evenly over the first two thirds of training, features that never fire are given a new start


def train_autoencoder(x: torch.Tensor, features: int, site: Site, k: int | None = None, l1: float | None = None, steps: int = 1500,
                      batch: int = 512, learning_rate: float = 3e-3, seed: int = 0) -> Autoencoder:
    """Trains D features on activities `(M, d)` of a site by Adam, decoder rows of norm 1; the same seed gives the same features.

    Give k (the k largest features of each activity are kept, no penalty: Gao et al. 2025, arXiv 2406.04093), or l1 (the penalty on the sum of
    the features, for activities scaled to a root mean square of sqrt(d)). Features that never fired since the last look are revived: they get
    the direction of an activity that is told badly (Bricken et al. 2023). `report` says how many are dead at the end; `made` tells the choices
    and how many were revived.

    Raises InputError for neither or both of k and l1, sizes out of range, activities that are not finite or do not vary.

        >>> import torch
        >>> x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> sae = mct.sae.train_autoencoder(x, features=16, site=("residual", 2), k=4, steps=50)
        >>> sae.encode(x).shape
        torch.Size([256, 16])
    """
    if (k is None) == (l1 is None):
        raise InputError(f"k={k} and l1={l1}: give one of them, how many features are active or a penalty on them")
    if l1 is not None and l1 < 0 or features < 1 or steps < 1 or batch < 1:
        raise InputError(f"l1={l1}, features={features}, steps={steps}, batch={batch}: a penalty is at least 0, the others at least 1")
    total, mean = _variance(x), x.mean(0)
    scale = (total / x.shape[1]) ** 0.5
    data = (x - mean) / scale
    generator = torch.Generator().manual_seed(seed)

    def some(n):
        return data[torch.randint(len(data), (n,), generator=generator).to(x.device)]

    decoder = _unit(torch.randn(features, x.shape[1], generator=generator).to(x))
    weights = [decoder.T.clone(), torch.zeros(features).to(x), decoder, torch.zeros_like(mean)]
    trained = Autoencoder(site, *weights, "relu" if k is None else "topk", k)
    optimiser = torch.optim.Adam([w.requires_grad_() for w in weights], lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1, 3 * (1 - step / steps)))
    fired, revived, every = torch.zeros(features, dtype=torch.bool, device=x.device), 0, max(1, 2 * steps // (3 * REVIVALS))
    for step in bar(range(steps), "training an autoencoder"):
        part = some(batch)
        z = trained.encode(part)
        loss = (part - trained.decode(z)).pow(2).sum(1).mean() + (l1 or 0) * z.sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            weights[2].copy_(_unit(weights[2]))
            fired |= (z > 0).any(0)
            if (step + 1) % every == 0 and step < 2 * steps // 3:
                revived += _revive(trained, optimiser, (~fired).nonzero().flatten(), some(max(batch, features)), generator)
                fired.zero_()
    encoder, bias, decoder, shift = (w.detach() for w in weights)
    made = dict(k=k, l1=l1, steps=steps, seed=seed, revived=revived)
    return replace(trained, W_enc=encoder, b_enc=bias * scale, W_dec=decoder, b_dec=shift * scale + mean, made=made)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _revive(trained: Autoencoder, optimiser, dead: torch.Tensor, part: torch.Tensor, generator: torch.Generator) -> int:
    """Gives dead features the directions in which activities `(n, d)` are told badly, drawn in proportion to the squared error."""
    if not len(dead):
        return 0
    wrong = part - trained.reconstruct(part)
    chosen = torch.multinomial(wrong.pow(2).sum(1).cpu() + 1e-12, len(dead), generator=generator)
    rows = _unit(wrong[chosen.to(part.device)])
    trained.W_dec[dead], trained.W_enc[:, dead], trained.b_enc[dead] = rows, rows.T, 0
    for weight, at in ((trained.W_dec, dead), (trained.W_enc, (slice(None), dead)), (trained.b_enc, dead)):
        for moment in ("exp_avg", "exp_avg_sq"):
            optimiser.state[weight][moment][at] = 0
    return len(dead)
