"""A model so small that every number can be worked out by hand.

One layer, four heads A B C D of width 1 without layer norms. Every head attends evenly to the two tokens `x q` and says
`x` (0 or 1): the base prompt is `0 q`, the counterfactual `1 q`. The MLP then makes two gates, and the logits are

    target = 5 relu(a + b - 1)  +  2 (c + d - relu(c + d - 1)),    foil = 0

so A and B are an AND of worth 5 (neither acts alone), C and D an OR of worth 2 (either is enough), and the log odds of
target against foil are exactly that number.
"""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace_nb.models import wrap_model
from mctrace_nb.tasks import Example, Task


def eager_attention_forward(module, query, key, value, attention_mask, scaling=1.0, **_):
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MicroConfig(PretrainedConfig):
    model_type = "micro"

    def __init__(self, **more):
        self.hidden_size, self.num_attention_heads, self.num_hidden_layers, self.vocab_size = 7, 4, 1, 5
        super().__init__(**more)


class Attention(nn.Module):
    is_causal = True

    def __init__(self, config):
        super().__init__()
        self.config, self.layer_idx = config, 0
        self.o_proj = nn.Linear(4, 7, bias=False)
        self.o_proj.weight.data.zero_()
        self.o_proj.weight.data[1:5] = torch.eye(4)  # head h writes into dimension 1 + h

    def forward(self, hidden, mask, cache):
        value = 2 * hidden[..., :1].unsqueeze(1).expand(-1, 4, -1, -1)  # (B, 4 heads, T, 1); 2: half is averaged away
        nothing = torch.zeros_like(value)
        key = nothing
        if cache is not None:
            key, value = cache.update(nothing, value, 0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, _ = attend(self, nothing, key, value, mask, scaling=1.0)
        return self.o_proj(out.flatten(2))


class Gates(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down_proj = nn.Linear(7, 2), nn.Linear(2, 7, bias=False)
        for p in self.parameters():
            p.data.zero_()
        self.up.weight.data[0, 1:3] = self.up.weight.data[1, 3:5] = 1
        self.up.bias.data[:] = -1
        self.down_proj.weight.data[5, 0] = self.down_proj.weight.data[6, 1] = 1

    def forward(self, hidden):
        return self.down_proj(self.up(hidden).relu())


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), Gates()

    def forward(self, hidden, mask, cache):
        hidden = hidden + self.self_attn(hidden, mask, cache)
        return hidden + self.mlp(hidden)


class MicroModel(PreTrainedModel):
    config_class = MicroConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.embed, self.layers = nn.Embedding(5, 7), nn.ModuleList([Block(config)])
        self.lm_head = nn.Linear(7, 5, bias=False)
        self.post_init()
        self.embed.weight.data.zero_()
        self.embed.weight.data[1, 0] = 1  # token 1 says 1, all others 0
        self.lm_head.weight.data.zero_()
        self.lm_head.weight.data[3] = torch.tensor([0, 0, 0, 2, 2, 5, -2.0])  # token 3 is the target, 4 the foil

    def _init_weights(self, module):
        """Everything is set by hand."""

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        hidden = self.embed(input_ids)
        mask = create_causal_mask(config=self.config, inputs_embeds=hidden, attention_mask=attention_mask,
                                  past_key_values=past_key_values, position_ids=position_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask, past_key_values)
        return CausalLMOutput(logits=self.lm_head(hidden))


def micro():
    """The model as a LanguageModel, in float64, and its task of one prompt pair (twice: search and held-out)."""
    lm = wrap_model(MicroModel(MicroConfig()).double(), None, "micro")
    pair = Example((0, 2), (1, 2), (3,), (4,), "only", (0, 1))
    return lm, Task("gates", (pair,), (pair,))


def by_hand(a, b, c, d):
    """The effect of replacing the heads by these amounts."""
    return 5 * max(a + b - 1, 0) + 2 * (c + d - max(c + d - 1, 0))
