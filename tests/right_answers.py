"""Right answers in other forms than the solutions': lists for tuples, arrays, numbers of NumPy and torch, other precision."""

import numpy as np
import torch

from mctrace_nb.check import nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08, nb09, nb10, nb11, nb12
from mctrace_nb.distill.losses import top_k_forward_kl
from mctrace_nb.distill.measures import pass_at_k


def as_list(function):
    return lambda *given: list(function(*given))


def right_answers():
    """(notebook, number of the exercise, function)."""
    yield "nb01", 2, as_list(nb01.identities)
    yield "nb02", 2, as_list(nb02.SOLUTIONS[1])
    yield "nb03", 1, lambda *given: torch.tensor(nb03.SOLUTIONS[0](*given))
    yield "nb03", 2, lambda trace: frozenset(nb03.SOLUTIONS[1](trace))
    yield "nb04", 2, lambda *given: (found := nb04.SOLUTIONS[1](*given)) and list(found)
    yield "nb05", 2, lambda *given: np.float64(nb05.slope(*given))
    yield "nb05", 3, lambda effects: np.array(nb05.best_two_ways(effects))
    yield "nb06", 2, lambda trace: torch.tensor(nb06.SOLUTIONS[1](trace))
    yield "nb06", 2, lambda trace: np.float32(nb06.SOLUTIONS[1](trace))
    yield "nb06", 3, lambda trace: {**nb06.SOLUTIONS[2](trace), "progress": False}
    yield "nb07", 1, lambda *given: [list(found) for found in nb07.threshold_sweep(*given)]
    yield "nb07", 2, lambda *given: sorted(nb07.repair(*given))
    yield "nb07", 3, as_list(nb07.share_over_seeds)
    yield "nb08", 1, lambda logits: nb08.entropy(logits.double())
    yield "nb08", 2, as_list(nb08.subject_restored)
    yield "nb09", 1, lambda x, count: [tuple(map(np.int64, edge)) for edge in nb09.planted_edges(x, count)]
    yield "nb09", 1, lambda x, count: nb09.planted_edges(x.astype(np.float32), count)
    yield "nb09", 2, lambda *given: np.float32(nb09.effect_from_samples(*given))
    yield "nb09", 3, as_list(nb09.heard)
    yield "nb09", 3, lambda trace, labels: frozenset(trace.single_effects().query("effect > 0.1 * @trace.total_effect().mean")["component"]) & set(labels)
    yield "nb10", 1, lambda n, right, k: np.float64(pass_at_k(n, right, k))
    yield "nb10", 1, lambda n, right, k: float(1 - np.prod([(n - right - i) / (n - i) for i in range(k)] if n - right >= k else [0]))
    yield "nb10", 2, lambda student, teacher, k: top_k_forward_kl(student, teacher, k).float()
    yield "nb10", 2, lambda *given: nb10.forward_kl_of_top_k(*given).numpy()
    yield "nb10", 3, as_list(nb10.survival)
    yield "nb10", 3, lambda *given: np.array(nb10.survival(*given))
    yield "nb11", 1, as_list(nb11.violations)
    yield "nb12", 1, lambda mask: np.flatnonzero(np.asarray(mask) > 0.5)
    yield "nb12", 1, lambda mask: tuple((torch.as_tensor(mask) > 0.5).nonzero().flatten())
    yield "nb12", 2, lambda *given: nb12.scores(*given).tolist()
    yield "nb12", 2, nb12._one_by_one
    yield "nb12", 3, lambda before, after: (after.log() - before.log()).mean()
    yield "nb12", 3, lambda before, after: np.log(after.numpy() / before.numpy()).mean()
