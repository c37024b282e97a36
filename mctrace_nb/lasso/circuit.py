"""CircuitLasso: every component regressed on all that speak before it, the answer on all of them, with an l1 penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np
import torch

from mctrace_nb.circuits import Circuit
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.lasso.data import Block, Seen
from mctrace_nb.lasso.solve import Moments, largest_penalty, logistic, path
from mctrace_nb.tracing import Trace

FRACTIONS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # of the smallest penalty that leaves nothing
FRACTION = 0.05
LABELS = ("squared", "logistic")
HELD_OUT = 4  # one prompt pair in so many


@dataclass(frozen=True, eq=False)
class Problem:
    """One regression with shared rows: x `(M, P)` and y `(M, Q)`, the node of every column, and which coefficients may be."""

    x: torch.Tensor
    y: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    block: torch.Tensor  # (Q,) which of the target blocks a column belongs to
    allowed: torch.Tensor
    prompt: torch.Tensor

    @classmethod
    def of(cls, regressors: Sequence[Block], targets: Sequence[Block], allowed: torch.Tensor, prompt: torch.Tensor) -> "Problem":
        source, target = (torch.tensor([b.node for b in blocks for _ in range(b.columns.shape[1])]) for blocks in (regressors, targets))
        block = torch.tensor([i for i, b in enumerate(targets) for _ in range(b.columns.shape[1])])
        x, y = (torch.cat([b.columns for b in blocks], 1) for blocks in (regressors, targets))
        return cls(x, y, source, target, block, allowed[source][:, target].to(x.device), prompt)

    def unit(self, moments: Moments) -> torch.Tensor:
        """(Q,) the smallest penalty that leaves no coefficient, one for all columns of a target block."""
        largest, block = largest_penalty(moments, self.allowed), self.block.to(moments.cross.device)
        most = largest.new_zeros(int(block.max()) + 1).scatter_reduce_(0, block, largest, "amax")
        return most[block]

    def strength(self, b: torch.Tensor, moments: Moments, n: int) -> np.ndarray:
        """`(n, n)` of each edge the standard deviation of what the source adds to the prediction, as a share of the target's own; of a
        target with several blocks the largest."""
        blocks = int(self.block.max()) + 1
        found = np.zeros((n, n))
        for node in self.source.unique().tolist():
            mine = self.source == node
            part = b[mine]  # (p, Q)
            variance = (part * (moments.gram[mine][:, mine] @ part)).sum(0).clamp(min=0).cpu()
            per_block = torch.zeros(blocks, dtype=variance.dtype).index_add_(0, self.block, variance).sqrt()
            for i, node_of in enumerate(self.node_of_block):
                found[node, node_of] = max(found[node, node_of], float(per_block[i]))
        return found

    @property
    def node_of_block(self) -> list[int]:
        """The node of each target block."""
        return [int(self.target[self.block == i][0]) for i in range(int(self.block.max()) + 1)]


def problems(seen: Seen) -> list[Problem]:
    """The regressions of a circuit: all components at once (one for every head where inputs are "moved"), and the answer."""
    allowed, found = seen.nodes.allowed, []
    alone = [t for t in seen.targets if seen.inputs == "moved" and seen.nodes.kinds[t.node] == "head_output"]
    together = [t for t in seen.targets if all(t is not a for a in alone)]
    if together:
        found.append(Problem.of(seen.writes, together, allowed, seen.prompt))
    found += [Problem.of(seen.carried(t.node), [t], allowed, seen.prompt) for t in alone]
    if seen.answer is not None and seen.last_writes:
        answer = Block(len(seen.nodes) - 1, seen.answer)
        found.append(Problem.of(seen.last_writes, [answer], allowed, seen.observed.prompt[seen.observed.last]))
    return found


def solve(problem: Problem, fractions: Sequence[float], rows: torch.Tensor | None = None) -> tuple[Moments, list[torch.Tensor]]:
    """Coefficients `(P, Q)` for each fraction, from some rows of a problem; in float64 once the moments are made."""
    x, y = (problem.x, problem.y) if rows is None else (problem.x[rows], problem.y[rows])
    made = Moments.of(x, y)
    moments = Moments(made.gram.double(), made.cross.double(), made.square.double())
    return moments, path(moments, list(fractions), problem.allowed, problem.unit(moments), tolerance=1e-4)


def held_out_errors(problem: Problem, coefficients: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """`(fractions, prompts)` squared errors on held-out rows as a share of the targets' variance, a mean for each prompt."""
    blocks = int(problem.block.max()) + 1
    prompt = problem.prompt[rows]
    names, member = prompt.unique(return_inverse=True)
    count = torch.bincount(member, minlength=len(names)).double()
    found = []
    for b in coefficients:
        error = (problem.y[rows] - problem.x[rows] @ b.to(problem.x)).square().sum(1).double() / blocks
        found.append(torch.zeros(len(names), dtype=torch.float64, device=error.device).index_add_(0, member, error) / count)
    return torch.stack(found)


def choose(errors: torch.Tensor) -> int:
    """The sparsest penalty whose held-out error is within one standard error of the best: a row number of errors `(fractions,
    prompts)`, fractions from large to small."""
    best = int(errors.mean(1).argmin())
    worse = errors - errors[best]
    slack = worse.std(1) / math.sqrt(max(1, errors.shape[1]))
    return int((worse.mean(1) <= slack.nan_to_num()).nonzero()[0])


def see(trace: Trace, kinds: Sequence[str] = ("head_output", "mlp_block"), inputs: str = "reads", most: int = 8) -> Seen:
    """What the model of a trace says on its prompts, base and counterfactual alike and each once; the answers are the first tokens of targets
    and foils. Nothing is intervened on, so corruption, positions and metric of the trace play no part. kinds, inputs, most: as for `Seen`, and
    InputError is raised as there.

        >>> seen = mct.lasso.see(trace)
        >>> len(seen.nodes), len(seen.observed.last)  # components, embed and answer; base and counterfactual prompts
        (17, 16)
    """
    prompts = list(dict.fromkeys(p for e in trace.examples for p in (e.base, e.counterfactual)))
    words = sorted({answer[0] for e in trace.examples for answer in (e.target, e.foil)})
    seen = Seen(trace.model, prompts, words, kinds, inputs, most)
    trace.work.forwards += len(prompts)
    return seen


def circuit_lasso(seen: Seen | Trace, fraction: float | None = FRACTION, seed: int = 0, label: str = "squared",
                  rows: Callable[[Problem], torch.Tensor] | None = None) -> Circuit:
    """The circuit of what was seen (see `see`; a trace is seen as it stands there by default).

    fraction: of the smallest penalty at which a target keeps no edge; None chooses one of `FRACTIONS` for the components and one for
    the answer, by the error on a quarter of the prompts that is held out, and fits all of them again. label: the loss of the answer, "squared"
    on its logits, or "logistic" on which of two answers is said. rows: of each regression the rows to use, by default all.

    Returns a `Circuit` whose strengths are standard deviations of contributions as shares of the target's (with "logistic" of the log odds that
    are fitted). `about` has the fraction(s), held-out `r2` by node where one was chosen, and the number of forward rows. Raises InputError for a
    fraction outside (0, 1], an unknown label, more than two answers to a logistic one, or if the answer does not vary.

        >>> circuit = mct.circuit_lasso(trace)
        >>> circuit.to_frame(0.5).round(2)
           source  target  strength  reach
        0  L2.mlp  answer      0.48   0.48
    """
    seen = see(seen) if isinstance(seen, Trace) else seen
    one_of(label, LABELS, "loss of the answer")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"fraction={fraction} is out of range; give a share of the largest penalty, above 0 and at most 1")
    if label == "logistic" and (fraction is None or seen.observed.logits.shape[1] != 2):
        raise InputError(f"a logistic answer needs two words to choose from, not {seen.observed.logits.shape[1]}, and a fraction; use "
                         "label='squared'")
    parts, n = problems(seen), len(seen.nodes)
    if seen.answer is None or not parts:
        raise InputError("the logits of the answers do not vary between these prompts, so nothing can be said to carry them; give prompts "
                         "with different answers")
    strength, about = np.zeros((n, n)), dict(fractions=[], inputs=seen.inputs, forwards=seen.observed.prompts, backwards=0, r2={})
    for problem in parts:
        share, which = fraction, None if rows is None else rows(problem)
        if share is None:
            share, r2 = chosen_fraction(problem, seed)
            about["r2"].update({seen.nodes.labels[node]: value for node, value in r2.items()})
        about["fractions"].append(share)
        if label == "logistic" and problem is parts[-1]:
            found = logistic_strength(seen, problem, share, which)
        else:
            moments, (b,) = solve(problem, [share], which)
            found = problem.strength(b, moments, n)
        strength = np.maximum(strength, found)
    return Circuit(seen.nodes.labels, strength, seen.nodes.allowed.numpy(), "circuit-lasso", about)


def logistic_strength(seen: Seen, problem: Problem, fraction: float, rows: torch.Tensor | None) -> np.ndarray:
    """`(n, n)` strengths of the edges into the answer by logistic regression on which of two words is said."""
    said = (seen.observed.logits[:, 0] > seen.observed.logits[:, 1]).to(problem.x)
    x, said = (problem.x, said) if rows is None else (problem.x[rows], said[rows])
    largest = (x.T @ (said - said.mean()) / len(x)).abs().max()
    b, _ = logistic(x.double(), said.double(), fraction * float(largest), tolerance=1e-4)
    whole = (x.double() @ b).std().clamp(min=torch.finfo(torch.float64).tiny)
    found = np.zeros((len(seen.nodes),) * 2)
    for node in problem.source.unique().tolist():
        mine = problem.source == node
        found[node, -1] = float((x[:, mine].double() @ b[mine]).std() / whole)
    return found


def penalty_path(seen: Seen, seed: int = 0):
    """What each of `FRACTIONS` keeps and explains: a frame with fraction, edges (between nodes, any strength), r2 (on held-out prompts, mean over
    targets), chosen (the sparsest whose error is within one standard error of the best).

        >>> found = mct.planted.twins(confounder=False)
        >>> seen = mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers)
        >>> mct.lasso.penalty_path(seen).round(2).head(2)
           fraction  edges    r2  chosen
        0       0.5     43  0.42   False
        1       0.2     48  0.76   False
    """
    import pandas as pd

    errors, edges = [], np.zeros(len(FRACTIONS), int)
    for problem in problems(seen):
        fit, out = held_out_rows(problem, seed)
        moments, coefficients = solve(problem, FRACTIONS, fit)
        errors.append((int(problem.block.max()) + 1, held_out_errors(problem, coefficients, out)))
        edges += [int((problem.strength(b, moments, len(seen.nodes)) > 0).sum()) for b in coefficients]
    weight = sum(blocks for blocks, _ in errors)
    mean = sum(blocks * e for blocks, e in errors) / weight
    chosen = choose(mean)
    return pd.DataFrame(dict(fraction=FRACTIONS, edges=edges, r2=1 - mean.mean(1).cpu().numpy(), chosen=[i == chosen for i in range(len(FRACTIONS))]))


def held_out_rows(problem: Problem, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers to fit and to hold out: all rows of one prompt in `HELD_OUT` are held out. Raises InputError if there are too few prompts."""
    names = problem.prompt.unique()
    if len(names) < HELD_OUT:
        raise InputError(f"{len(names)} prompts cannot be both fitted and held out; give at least {HELD_OUT}, or a fraction")
    rng = np.random.default_rng(seed)
    out = torch.isin(problem.prompt, names[torch.as_tensor(rng.permutation(len(names))[:len(names) // HELD_OUT]).to(names.device)])
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def chosen_fraction(problem: Problem, seed: int) -> tuple[float, dict[int, float]]:
    """The fraction with the sparsest fit of good held-out error, and that fit's held-out R^2 by target node."""
    fit, rows = held_out_rows(problem, seed)
    _, coefficients = solve(problem, FRACTIONS, fit)
    number = choose(held_out_errors(problem, coefficients, rows))
    left = (problem.y[rows] - problem.x[rows] @ coefficients[number].to(problem.x)).square().mean(0).cpu()
    whole = problem.y[rows].square().mean(0).cpu()
    r2 = {node: float(1 - left[problem.target == node].sum() / whole[problem.target == node].sum()) for node in set(problem.target.tolist())}
    return FRACTIONS[number], r2
