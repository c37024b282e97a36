"""Questions to traces, answered by one process (imported) or by several (run by torchrun: dtype, folder). A script as users write them."""

import sys
import weakref
from dataclasses import replace
from pathlib import Path

import torch
from conftest import random_task  # lets masks share layers, on every rank

import mctrace_nb as mct
from mctrace_nb import serving
from mctrace_nb.tasks import Task

KINDS = {"head_pattern": {}, "head_output": dict(positions="last"), "mlp_neuron": dict(positions="subject", batch_rows=3),
         "attn_block": dict(corruption="noise", noise_on="all"), "mlp_output": dict(corruption="mean", batch_rows=4),
         "mlp_block": dict(corruption="zero")}
ON_TUTORIAL = ("known", "guided", "greedy", "pgb", "noise", "published", "stability")


def third_logit(logits):
    return 2 * logits[..., 3] - logits.mean(-1)


def with_cohorts(task):
    search, heldout = ([replace(e, cohort="ab"[i % 2]) for i, e in enumerate(half)] for half in (task.search, task.heldout))
    return replace(task, search=tuple(search), heldout=tuple(heldout))


def count(trace):
    return torch.tensor([trace.work.forwards, trace.work.backwards])


def asked(trace, generator):
    """Every form of question to one trace."""
    n, b = len(trace.components), len(trace)
    masks = torch.rand(5, n, generator=generator, dtype=trace.model.dtype)
    masks[1:3] = masks[1:3].round()
    masks[3, n // 2:] = masks[2, n // 2:]  # masks that begin to differ at some layer
    few = torch.randint(b, (4,), generator=generator)
    own = torch.randint(b, (5, 3), generator=generator)
    found = dict(base=trace.base_values, work=count(trace), effects=trace.effects(masks), prepared=count(trace),
                 some=trace.effects(masks, few), own=trace.effects(masks, own), one=trace.effects(masks[0]),
                 last=trace.effects(masks, torch.tensor([b - 1])))
    if trace.positions == "all":
        at = torch.randint(3, (5, 4), generator=generator)
        found["at"] = trace.effects(masks, few, at=at)
        found["own at"] = trace._effect(trace._values(masks, own.numpy(), at=at[:, :3]), own.numpy(), None)
    if trace.metric.differentiable:
        for _ in range(4):  # nobody asks for these gradients, so no rank keeps them
            trace.effects(masks.clone().requires_grad_(), few)
        for name, examples in (("", None), (" of some", few), (" of own", own)):
            leaf = masks.clone().requires_grad_()
            effects = trace.effects(leaf, examples)
            (effects * torch.rand(effects.shape, generator=generator)).mean().backward()
            found["gradient" + name] = leaf.grad
    return {**found, "total": trace.total_effects(), "work at the end": count(trace)}


def kinds(lm, task):
    found = {}
    for kind, how in KINDS.items():
        trace = mct.Trace(lm, task, kind, **how)
        found[kind] = asked(trace, torch.Generator().manual_seed(1))
    return found


def metrics(lm, task, folder):
    (folder / "own.py").write_text("def spread(logits):\n    return logits.std(-1)\n")
    found = {}
    for metric in ("kl", "accuracy", "neutrality", "prob", "logit_diff", "odds_ratio", "log_odds_gap", third_logit,
                   f"{folder / 'own.py'}:spread"):
        trace = mct.Trace(lm, with_cohorts(task), "head_output", metric=metric)
        found[str(trace.metric.name)] = asked(trace, torch.Generator().manual_seed(2))
    return found


def everything_else(lm, task, few):
    chosen = ["L0H1", "L1H0"]
    restoring = mct.Trace(lm, task, "head_pattern", corruption="noise", direction="restore", cache="host")
    found = dict(restoring=asked(restoring, torch.Generator().manual_seed(3)),
                 few=asked(mct.Trace(lm, few, "head_pattern"), torch.Generator().manual_seed(4)))
    again = mct.Trace(lm, task, "mlp_output", cache="recompute")
    found["recompute"] = {name: x for name, x in asked(again, torch.Generator().manual_seed(5)).items() if "work" not in name}
    trace = mct.Trace(lm, task, "head_output", batch_rows=5)
    found["set"] = dict(mediation=torch.tensor(trace.mediation(chosen).to_numpy()),
                        next=trace.next_token(torch.eye(len(trace.components))[:3], 1),
                        interactions=torch.tensor(trace.interactions(2, chosen).select_dtypes("number").to_numpy()),
                        heldout=trace.heldout.effects(chosen), again=trace.again(metric="kl").effects(chosen),
                        sweep=torch.tensor(mct.sweep(mct.Trace(lm, task, "residual"), progress=False).effects))
    return found


def searches(lm):
    task = mct.load_task("names", lm, n=12)
    trace = mct.Trace(lm, task, "head_output")
    wish = mct.Desiderata(trace, mct.Trace(lm, mct.load_task("professions", lm, n=9), "head_output"))
    known = mct.known(lm, task)
    found = dict(known=dict(n=torch.tensor([len(known.search), len(known.heldout)])))
    noisy = mct.Trace(lm, mct.load_task("facts", lm, n=8), "mlp_block", corruption="noise")
    for name, front in {"guided": mct.search(trace, "guided", range(1, 4), progress=False),
                        "greedy": mct.search(wish, "greedy", [1, 2], progress=False),
                        "pgb": mct.search(wish, "pgb", [1, 2], epochs=3, progress=False),
                        "noise": mct.search(noisy, "pgb", [2], epochs=2, progress=False)}.items():
        found[name] = dict(effects=torch.tensor([s.effect for s in front.selections]),
                           heldout=torch.tensor([s.effect_heldout for s in front.selections]),
                           work=torch.tensor([(s.forwards, s.backwards) for s in front.selections]),
                           chosen=[s.components for s in front.selections])
    single = mct.pgb(trace, budget=3, epochs=4, progress=False)
    found["published"] = dict(course=torch.as_tensor(single.trajectory))
    sure = mct.stability(trace, "guided", [1, 2], draws=3, progress=False)
    found["stability"] = dict(effects=torch.tensor([s.effect for front in sure.draws for s in front.selections]))
    return found


def answers(lm, tutorial, folder):
    task, long = random_task(n=7, answers=(1, 1), vocabulary=100), random_task(n=7, answers=(1, 3), vocabulary=100, seed=1)
    few = Task("few", random_task(n=2, vocabulary=100).search)
    return {**{f"kinds, {k}": v for k, v in kinds(lm, long).items()}, **{f"metrics, {k}": v for k, v in metrics(lm, task, folder).items()},
            **everything_else(lm, task, few), **searches(tutorial)}


if __name__ == "__main__":
    dtype, folder = sys.argv[1], Path(sys.argv[2])
    alive, most, traces = weakref.WeakSet(), [0], [0]  # what a rank keeps at once

    class Watched(serving.Part):
        def values(self, *args, **more):
            alive.add(self)
            most[0], traces[0] = max(most[0], len(self.graphs)), max(traces[0], len(alive))
            return super().values(*args, **more)

    serving.Part = Watched
    if mct.join_ranks():
        lm, tutorial = (mct.load_model(name, dtype=dtype, device="cpu") for name in (folder / "model", "tutorial"))
        torch.save(answers(lm, tutorial, folder), folder / "several.pt")
    else:
        torch.save((most[0], traces[0]), folder / "kept.pt")
