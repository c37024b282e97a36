"""Teacher and student: GPT-2s of two sizes, trained on derivations of `problems` with a word-level tokenizer of their own.

The teacher is trained until it is good. A student gets a short start, after which it writes derivations that look right and mostly are
not; the rest it has to learn from the teacher.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mctrace_nb.distill import problems
from mctrace_nb.progress import bar

__all__ = ["Recipe", "cut", "make_model", "make_tokenizer", "pretrain"]

SPECIAL = ("<pad>", "<bos>", problems.END, "<unk>")
POSITIONS = 32


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a model.

        >>> mct.distill.models.Recipe(layers=2, width=36, steps=10).heads
        4
    """

    layers: int
    width: int
    steps: int
    heads: int = 4
    batch: int = 128
    learning_rate: float = 2e-3
    first_weights: float = 0.05  # standard deviation; GPT-2's 0.02 suits a width of 768
    # The last steps read poorer text (see `problems.texts`): the model knows better, and does not do it. From the beginning, careless
    # text would keep a small model from learning to add at all (at 0.25: one answer of a thousand right after 2,000 steps).
    poor_steps: int = 0
    careless: float = 0.0
    seed: int = 0


TEACHER = Recipe(layers=4, width=96, steps=3500, batch=64)
STUDENT = Recipe(layers=2, width=36, steps=2000, batch=64, learning_rate=4e-3, poor_steps=500, careless=0.15)
# A student cut out of the teacher: one layer of each half, its heads keep their numbers. A short start repairs what the cut broke.
KEPT = (0, 2)
INHERITED = Recipe(layers=2, width=96, steps=300, batch=64, poor_steps=300, careless=0.15)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, `<bos>` set before every text.

        >>> tokenizer = mct.distill.models.make_tokenizer()
        >>> tokenizer.decode(tokenizer("on tue from 11 to 18")["input_ids"])
        '<bos> on tue from 11 to 18'
    """
    words = [*SPECIAL, *problems.vocabulary()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token=problems.END,
                                   unk_token="<unk>", model_max_length=POSITIONS)


def make_model(recipe: Recipe, vocabulary: int) -> GPT2LMHeadModel:
    """Random weights. No dropout: a ratio of two probabilities of one student would be noise under it.

        >>> model = mct.distill.models.make_model(mct.distill.models.Recipe(layers=2, width=36, steps=10), vocabulary=50)
        >>> model.config.n_layer
        2
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=vocabulary, n_positions=POSITIONS, n_embd=recipe.width, n_layer=recipe.layers, n_head=recipe.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=recipe.first_weights,
            bos_token_id=1, eos_token_id=2, pad_token_id=0))


def cut(teacher: GPT2LMHeadModel, kept: tuple[int, ...] = KEPT) -> GPT2LMHeadModel:
    """A model of some of the teacher's layers, in order, with its embeddings and last norm; weights are copies.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> mct.distill.models.cut(teacher, kept=(0, 2)).config.n_layer
        2
    """
    model = GPT2LMHeadModel(GPT2Config(**{**teacher.config.to_dict(), "n_layer": len(kept)}))
    model.transformer.load_state_dict({**{name: value for name, value in teacher.transformer.state_dict().items() if not name.startswith("h.")},
                                       **{f"h.{i}.{name}": value for i, layer in enumerate(kept)
                                          for name, value in teacher.transformer.h[layer].state_dict().items()}})
    return model


def pretrain(recipe: Recipe, what: str = "model", model: GPT2LMHeadModel | None = None):
    """Supervised training on derivations (the loss is that of the answer); returns `(model in eval mode, tokenizer)`.

    model: goes on from its weights instead of random ones.

        >>> model, tokenizer = mct.distill.models.pretrain(mct.distill.models.Recipe(layers=1, width=8, steps=2, batch=4))
        >>> model.training
        False
    """
    torch.set_num_threads(1)  # sums in one order: the weights do not depend on the number of cores
    tokenizer = make_tokenizer()
    ids, model = tokenizer.get_vocab(), make_model(recipe, len(tokenizer)) if model is None else model
    model.loss_type = "ForCausalLM"  # which transformers would find itself, with a warning
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    good = problems.texts(f"good/{recipe.seed}")
    poor = problems.texts(f"poor/{recipe.seed}", recipe.careless)
    progress = bar(range(recipe.steps), f"training a {what}")
    for step in progress:
        said = good if step < recipe.steps - recipe.poor_steps else poor
        # every prompt and every answer is equally long, so there is nothing to pad
        rows = [f"<bos> {p.prompt} {text} {problems.END}".split() for p, text in islice(said, recipe.batch)]
        batch = torch.tensor([[ids[word] for word in row] for row in rows])  # (batch, prompt + answer)
        labels = batch.clone()
        labels[:, :-problems.ANSWER_TOKENS] = -100
        loss = model(input_ids=batch, labels=labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), tokenizer


def write(out: Path, model, tokenizer, card: dict) -> None:
    """Saves model, tokenizer and card; the folder appears whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as made:
        folder = Path(made) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(card, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def card_of(recipe: Recipe, seconds: float, quality: dict) -> dict:
    return dict(recipe=asdict(recipe), torch=torch.__version__, training_seconds=round(seconds), held_out=quality)
