"""Trains the tutorial model that lies in `data/tutorial`: a GPT-2 of 3 layers with 4 heads each on the grammar.

    python -m mctrace_nb.tutorial --out data/tutorial

Twelve heads, so that every one of their 4,096 subsets can be tried. The folder is in Hugging Face format with its own
word-level tokenizer, and loads with `AutoModelForCausalLM.from_pretrained` like any other model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Iterator

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mctrace_nb import grammar

CHOICES = ("seed", "steps", "dropout", "first_weights")  # what the command line may change
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    steps: int = 6000
    batch: int = 128
    learning_rate: float = 2e-3
    # Dropout silences parts now and then, so that others learn to stand in for them, as they do in large models: it is
    # where the joint effects of the lessons come from.
    dropout: float = 0.1
    layers: int = 3
    heads: int = 4
    width: int = 64
    positions: int = 32
    # Standard deviation of the first weights. GPT-2's 0.02 suits a width of 768; at 64 it costs thousands of steps
    # (binding alone: not learned in 2,000 steps at 0.02, learned in 250 at 0.1).
    first_weights: float = 0.05
    # Share of each behaviour in a batch: the two that need two steps of thought get most.
    shares: tuple[float, ...] = (0.12, 0.28, 0.15, 0.15, 0.3)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, `<bos>` set before every text."""
    words = [*SPECIAL, *grammar.vocabulary()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
                                   unk_token="<unk>", model_max_length=Recipe.positions)


def make_model(recipe: Recipe, vocabulary: int) -> GPT2LMHeadModel:
    torch.manual_seed(recipe.seed)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocabulary, n_positions=recipe.positions, n_embd=recipe.width, n_layer=recipe.layers,
        n_head=recipe.heads, resid_pdrop=recipe.dropout, embd_pdrop=recipe.dropout, attn_pdrop=recipe.dropout,
        initializer_range=recipe.first_weights, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def batches(recipe: Recipe, tokenizer) -> Iterator[torch.Tensor]:
    """Endless batches of token ids `(batch, longest sentence)`, padded on the right with 0."""
    rng = Random(f"train/{recipe.seed}")
    ids = tokenizer.get_vocab()
    while True:
        said = [grammar.sentence(b, rng) for b in rng.choices(grammar.BEHAVIOURS, recipe.shares, k=recipe.batch)]
        rows = [[1, *(ids[word] for word in text.split()), 2] for text in said]
        longest = max(map(len, rows))
        yield torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def train(recipe: Recipe, progress: bool = True):
    """Trains from scratch; returns `(model in eval mode, tokenizer)`. Same recipe, same machine: same weights."""
    torch.set_num_threads(1)  # sums in one order: the weights do not depend on the number of cores
    tokenizer = make_tokenizer()
    model = make_model(recipe, len(tokenizer)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    bar = tqdm(range(recipe.steps), desc="training the tutorial model", disable=not progress, mininterval=2)
    for step, ids in zip(bar, batches(recipe, tokenizer)):
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100)).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), tokenizer


@torch.no_grad()
def against_ceiling(model, tokenizer, n: int = 256, seed: int = 1) -> list[dict]:
    """How near the model is to the grammar, on held-out prompts of each behaviour.

    Returns a row per behaviour: `agreement` (share of prompts where the model's first choice is one of the grammar's
    best answers), `kl` (mean KL(grammar || model) on the answer, nats), and the grammar's own ceiling: `best_accuracy`
    (expected accuracy of always saying the best answer) and `entropy` (nats).
    """
    ids, rows = tokenizer.get_vocab(), []
    for behaviour in grammar.BEHAVIOURS:
        agree = kl = best = entropy = 0.0
        said = grammar.answer_distribution(behaviour, n, seed, held_out=True)
        for prompt in said:
            logits = model(input_ids=torch.tensor([tokenizer(prompt.prompt)["input_ids"]])).logits[0, -1]
            logp = logits.double().log_softmax(-1)
            p = torch.zeros_like(logp)
            for word, share in prompt.answers.items():
                p[ids[word]] = share
            agree += float(p[logp.argmax()] >= p.max() - 1e-9) / n
            kl += float(torch.xlogy(p, p).sum() - (p * logp)[p > 0].sum()) / n
            best += float(p.max()) / n
            entropy -= float(torch.xlogy(p, p).sum()) / n
        rows.append(dict(behaviour=behaviour, agreement=agree, kl=kl, best_accuracy=best, entropy=entropy))
    return rows


def write(out: Path, recipe: Recipe, model, tokenizer, seconds: float) -> list[dict]:
    """Saves model, tokenizer, recipe and measured quality; the folder appears whole or not at all."""
    rows = against_ceiling(model, tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as made:
        folder = Path(made) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        card = dict(recipe=asdict(recipe), torch=torch.__version__, training_seconds=round(seconds),
                    held_out={r["behaviour"]: {k: round(v, 4) for k, v in r.items() if k != "behaviour"} for r in rows})
        (folder / "training.json").write_text(json.dumps(card, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return rows


def main(argv=None) -> int:
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m mctrace_nb.tutorial", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    for name in CHOICES:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"(default {value})")
    options = parser.parse_args(argv)
    if options.out.exists() and not options.force:
        print(f"{options.out} exists already; use --force to replace it", file=sys.stderr)
        return 2
    recipe = Recipe(**{name: getattr(options, name) for name in CHOICES})
    start = time.time()
    model, tokenizer = train(recipe)
    rows = write(options.out, recipe, model, tokenizer, time.time() - start)
    print(f"{'behaviour':14}{'agreement':>11}{'KL':>9}   (ceiling: accuracy, entropy)")
    for r in rows:
        print(f"{r['behaviour']:14}{r['agreement']:>11.3f}{r['kl']:>9.4f}   "
              f"({r['best_accuracy']:.3f}, {r['entropy']:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
