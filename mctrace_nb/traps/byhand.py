"""What careless code does by hand, where it takes more lines than a lesson's cell should have."""

from __future__ import annotations

from copy import deepcopy
from typing import Sequence

import torch

from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel, wrap_model
from mctrace_nb.relax import relax, settings_grid
from mctrace_nb.tasks import Example, Task
from mctrace_nb.tracing import Trace


def log_odds(logits: torch.Tensor, examples: Sequence[Example]) -> torch.Tensor:
    """`(n,)` log p(target) - log p(foil) of the first token of each answer, from logits `(n, V)` after each prompt."""
    pairs = torch.tensor([(e.target[0], e.foil[0]) for e in examples])
    picked = logits.detach().gather(1, pairs)
    return picked[:, 0] - picked[:, 1]


def spaced(lm: LanguageModel, task: Task) -> LanguageModel:
    """The same model with a vocabulary like GPT-2's, in which " he" and "he" are two tokens.

    A word after a space keeps its row of the embedding. A word that begins one of the task's prompts has the same row once more;
    every other word without a space has a small random row, as a token has that the model hardly ever saw.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    old = dict(sorted(lm.tokenizer.get_vocab().items(), key=lambda item: item[1]))
    special = len(lm.tokenizer.all_special_ids)
    bare = {word: len(old) + i for i, word in enumerate(w for w in old if old[w] >= special)}
    vocabulary = {word if i < special else f"Ġ{word}": i for word, i in old.items()} | bare
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=lm.tokenizer.unk_token))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    begin = (lm.tokenizer.bos_token, lm.tokenizer.bos_token_id)
    words.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=lm.tokenizer.bos_token, eos_token=lm.tokenizer.eos_token,
                                        pad_token=lm.tokenizer.pad_token, unk_token=lm.tokenizer.unk_token)
    model, rows = deepcopy(lm.model), lm.model.get_input_embeddings().weight.detach()
    more = 0.1 * rows.std() * torch.randn(len(bare), lm.width, generator=torch.Generator().manual_seed(0))
    for word in {task.text(p).split()[0] for e in task.search for p in (e.base, e.counterfactual)}:
        more[bare[word] - len(old)] = rows[old[word]]
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.cat([rows, more]))
    return wrap_model(model, tokenizer, f"{lm.name} with spaces")


@torch.no_grad()
def replaced_by_place(lm: LanguageModel, base: Sequence[int], other: Sequence[int], modules: Sequence[torch.nn.Module]) -> torch.Tensor:
    """Logits `(V,)` after the base prompt when each module's output is overwritten by what it said on the other prompt, first token
    by first token, second by second, for as many as both have."""
    said, shared = {}, min(len(base), len(other))

    def note(module, _, output):
        said[module] = output[0]

    def put(module, _, output):
        output[0][:, :shared] = said[module][:, :shared]
        return output

    for ids, hook in ((other, note), (base, put)):
        handles = [module.register_forward_hook(hook) for module in modules]
        logits = lm.model(torch.tensor([[*ids]])).logits[0, -1]
        for handle in handles:
            handle.remove()
    return logits


@torch.no_grad()
def patterns_overwritten(lm: LanguageModel, base: Sequence[int], other: Sequence[int]) -> torch.Tensor:
    """Logits `(V,)` after the base prompt when a forward hook puts the other prompt's attention weights in the place of those that each
    attention module returns. The kernel that returns weights is set, and set back afterwards."""
    kernel, said = lm.model.config._attn_implementation, {}

    def note(module, _, output):
        said[module] = output[1]

    def put(module, _, output):
        return output[0], said[module]

    lm.model.set_attn_implementation("eager")
    for ids, hook in ((other, note), (base, put)):
        handles = [layer.attention.register_forward_hook(hook) for layer in lm.layers]
        logits = lm.model(torch.tensor([[*ids]])).logits[0, -1]
        for handle in handles:
            handle.remove()
    lm.model.set_attn_implementation(kernel)
    return logits


def best_by_eye(traces: Sequence[Trace], budget: int = 16) -> tuple[float, tuple[str, ...]]:
    """The highest point on the held-out curves of several runs, and its set: PGB-CT on each trace, every epoch's set of 1 to `budget`
    components run on that trace's held-out prompts, the largest mean effect taken."""
    seen = []
    for trace in traces:
        run, = relax(trace, settings_grid(lambda1=0.02, lambda2=0.01, transform="log"), epochs=12, batch_size=2, progress=False)
        sets = {tuple(run.kept(epoch).tolist()) for epoch in range(1, 13)}
        for chosen in sorted(s for s in sets if 1 <= len(s) <= budget):
            labels = tuple(trace.components.labels[i] for i in chosen)
            seen.append((float(trace.heldout.effects(labels).mean()), labels))
    if not seen:
        raise InputError(f"no epoch keeps 1 to {budget} components; give a larger budget")
    return max(seen)
