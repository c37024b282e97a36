"""The mistakes that real interpretability code made, each with the number that it gives and the right one.

    mct.traps.TRAPS            # name, wrong and right way, unit, what guards against it, the test that fails without the guard
    mct.traps.table()          # all of them, on the tutorial model

A way is a function of a model, a task and a trace of that model on that task, by `head_output`; they are written for the tutorial
model and its `professions`. Lesson 12 shows their lines as they stand here, the explorer `TrapPicker` and the tests run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Callable

from mctrace_nb.errors import one_of
from mctrace_nb.models import load_model
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace
from mctrace_nb.traps import kernels, masks, meanings, statistics, tokens

__all__ = ["TRAPS", "Trap", "outcome", "place", "said", "table", "trap"]


@dataclass(frozen=True)
class Trap:
    """wrong, right: (model, task, trace) -> a number in `unit`, a whole one where things are counted. why: what happens, in one sentence.
    guard: what prevents it in this package; test: the test that fails without the guard.

        >>> isinstance(mct.traps.TRAPS[0], mct.traps.Trap), len(mct.traps.TRAPS)
        (True, 19)
    """

    name: str
    wrong: Callable[..., float]
    right: Callable[..., float]
    unit: str
    why: str
    guard: str
    test: str


def _pair(room, key: str) -> tuple[Callable[..., float], Callable[..., float]]:
    return getattr(room, f"{key}_wrong"), getattr(room, f"{key}_right")


TRAPS = (
    Trap("padding on learned positions", *_pair(tokens, "positions"), "nats of log odds",
         "GPT-2 counts pads as places unless it is told the positions, so each word is read with another word's position.",
         "hooks.Session.run gives every token its position", "tests/test_guards.py::test_learned_positions_are_given"),
    Trap("pads between context and answer", *_pair(tokens, "gap"), "nats of log odds",
         "After padding on the right the last column is a pad for all but the longest prompts, and the answer is read after it.",
         "rows.lay_out keeps no pads, and rows.Batch.allowed hides empty places",
         "tests/test_trace.py::test_padded_batches_equal_single_prompts"),
    Trap("a BOS before the answer", *_pair(tokens, "bos"), "nats of log odds",
         "The tokenizer sets its first token before every text, so both answers begin with the same one and the odds are even.",
         "tasks.encode.Encoder cuts an answer out of prompt and answer",
         "tests/test_guards.py::test_a_tokenizer_sets_its_first_token_once[tutorial]"),
    Trap("the space before an answer", *_pair(tokens, "space"), "nats of log odds",
         "Without its space an answer is another token, one that the model hardly knows.",
         "tasks.encode.Encoder puts the space there", "tests/test_traps.py::test_an_answer_keeps_its_space"),
    Trap("prompts of unequal length", *_pair(tokens, "lengths"), "nats",
         "Values are put in by place, and after a word more every place holds another word.",
         "sides.Sides refuses such pairs", "tests/test_guards.py::test_prompts_of_unequal_length_are_refused"),
    Trap("patterns that are not returned", *_pair(kernels, "sdpa"), "attention paid, 1 a layer",
         "The fast kernel never makes the pattern; asked for it, the model returns an empty tuple and no error.",
         "observing.observe reads the pattern under every kernel", "tests/test_traps.py::test_patterns_are_read_under_every_kernel"),
    Trap("a hook that cannot write the pattern", *_pair(kernels, "hook"), "nats",
         "The attention module has used its weights by the time it returns them; to overwrite them changes nothing.",
         "hooks acts inside the attention function", "tests/test_traps.py::test_patterns_are_written"),
    Trap("train mode", *_pair(kernels, "train"), "nats",
         "Dropout makes two runs of one prompt differ, and the difference passes for an effect.",
         "hooks.Session switches to evaluation", "tests/test_guards.py::test_dropout_is_off_in_a_trace"),
    Trap("sums in bfloat16", *_pair(kernels, "bf16"), "sum of 4,096 x 1/256",
         "With 8 bits a sum of 1 does not notice 1/256 any more, however many come.",
         "mixing.Mix sums the gradients of a mask in float32", "tests/test_traps.py::test_gradients_of_masks_are_summed_in_float32"),
    Trap("what a neuron is", *_pair(meanings, "neuron"), "nats of the strongest",
         "A coordinate of the MLP's output is no hidden unit; there are other numbers of them and they do other things.",
         "kinds mlp_output and mlp_neuron", "tests/test_micro.py::test_neurons_are_the_gates"),
    Trap("what a head is", *_pair(meanings, "head"), "nats of L0H3",
         "Where a head looks and what it says are two things; one can matter without the other.",
         "kinds head_pattern and head_output, labelled apart", "tests/test_views.py::test_labels_and_slices_fit_together"),
    Trap("what 1 in a mask means", *_pair(meanings, "polarity"), "nats of three heads",
         "Where 1 means kept, the same mask replaces all the others.",
         "mixing.Mix: 0 keeps, to the bit", "tests/test_trace.py::test_mask_zero_gives_the_base_logits_to_the_bit[counterfactual-head_output]"),
    Trap("1/(1 + rho) beyond ratios", *_pair(masks, "pole"), "logits of the chosen head",
         "A difference may be below -1; then the loss is negative, and a head that does harm looks best.",
         "relax.check_relaxable refuses it", "tests/test_bad_input.py::test_relaxed_search_refuses"),
    Trap("a learning rate of 0.5 from 0.5", *_pair(masks, "lr"), "undecided heads, one step",
         "Adam's first step has the size of the learning rate, so the first batch decides every entry.",
         "relax.Settings steps by 0.1", "tests/test_traps.py::test_the_first_step_decides_nothing"),
    Trap("half counts as chosen", *_pair(masks, "half"), "heads kept",
         "Entries start at one half, and >= 0.5 keeps those that no step has ever moved.",
         "relax.ROUNDINGS keeps m > 0.5", "tests/test_search.py::test_rounding_by_name"),
    Trap("gradients of weights", *_pair(masks, "gradients"), "numbers beside the model",
         "Weights that are not frozen gather a gradient each in every step, and nobody clears or uses them.",
         "hooks.Session freezes the weights", "tests/test_guards.py::test_weights_gather_no_gradients"),
    Trap("a mean of ratios", *_pair(statistics, "ratios"), "times the odds, minus 1",
         "The mean of ratios belongs to the few prompts with the largest ones.",
         "Trace.effects are logarithms", "tests/test_micro.py::test_total_direct_and_indirect_effects"),
    Trap("evaluated on the search prompts", *_pair(statistics, "heldout"), "nats",
         "A set is chosen because it does well on the search prompts, so there it does.",
         "search.report_heldout runs other prompts",
         "tests/test_search.py::test_no_method_beats_the_optimum_and_each_reports_its_own_effect[greedy-max]"),
    Trap("the best epoch by eye", *_pair(statistics, "epoch"), "nats",
         "The highest of many points on held-out prompts is high by luck as well, and the prompts are held out no more.",
         "relax.relax stops by a rule that sees no held-out prompt", "tests/test_search.py::test_stop_is_tested_after_each_epoch"),
)


def trap(name: str) -> Trap:
    """The trap of this name. Raises InputError if there is none.

        >>> mct.traps.trap("what 1 in a mask means").unit
        'nats of three heads'
    """
    return {t.name: t for t in TRAPS}[one_of(name, [t.name for t in TRAPS], "trap")]


@lru_cache(4)
def place(seed: int = 0):
    """Where the ways are run: the tutorial model, its `professions`, 32 search prompts of this seed, and their trace by heads.

        >>> len(mct.traps.place()[2])
        32
    """
    lm = load_model("tutorial", device="cpu")
    task = load_task("professions", lm, 64, seed)
    return lm, task, Trace(lm, task, "head_output")


@lru_cache(256)
def outcome(name: str, seed: int = 0) -> tuple[float, float]:
    """What the wrong and the right way give. Raises InputError for a trap that there is not.

        >>> wrong, right = mct.traps.outcome("padding on learned positions")
        >>> mct.traps.said(wrong), mct.traps.said(right)
        ('-0.89', '-1.78')
    """
    found = trap(name)
    return tuple(way(*place(seed)) for way in (found.wrong, found.right))


def said(value: float) -> str:
    """A number as lessons show it: a whole one as it is, others with two decimals.

        >>> mct.traps.said(1024), mct.traps.said(-0.001)
        ('1,024', '0.00')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}".replace("-0.00", "0.00")


def table(seed: int = 0):
    """A frame of all traps: trap, wrong, right, unit, guard, test.

        >>> mct.traps.table().loc["train mode", ["wrong", "right"]].tolist()
        ['1.28', '0.00']
    """
    import pandas as pd

    rows = [dict(zip(("trap", "wrong", "right"), (t.name, *map(said, outcome(t.name, seed)))), unit=t.unit, guard=t.guard, test=t.test)
            for t in TRAPS]
    return pd.DataFrame(rows).set_index("trap")
