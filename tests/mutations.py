"""Of each trap: what takes its guard out of the package, as (file, old text, new text)."""

MUTATIONS = {
    "padding on learned positions": ("hooks.py", "position_ids=positions, use_cache=False", "use_cache=False"),
    "pads between context and answer": ("rows.py", "exists = np.concatenate([before < prefix[:, None], real], 1)",
                                        "exists = np.concatenate([before < prefix[:, None] + len(before), real], 1)"),
    "a BOS before the answer": ("tasks/encode.py", "said = whole[len(ids):]", "said = self._ids(answer)"),
    "the space before an answer": ("tasks/encode.py", "parted = self.spaced and", "parted = False and"),
    "prompts of unequal length": ("sides.py", "and uneven and not aligned_at_end", "and False"),
    "patterns that are not returned": ("hooks.py", 'session.keep("pattern", layer, attend(query, key, None, places))', "pass"),
    "a hook that cannot write the pattern": ("hooks.py", "value = patterned(*value, mixture.prefix and mixture.prefix[layer])", "value = out"),
    "train mode": ("hooks.py", "                module.training = False", "                pass"),
    "sums in bfloat16": ("mixing.py", "product.sum(along, keepdim=True, dtype=weight.dtype)", "product.sum(along, keepdim=True)"),
    "what a neuron is": ("layout.py", '"mlp_neuron": self.neurons', '"mlp_neuron": self.width'),
    "what a head is": ("components.py", '".pattern" if both and kind == "head_pattern" else ""', '""'),
    "what 1 in a mask means": ("mixing.py", "torch.lerp(part, other, weight.to(x.dtype))", "torch.lerp(part, other, 1 - weight.to(x.dtype))"),
    "1/(1 + rho) beyond ratios": ("relax.py", 'if trace.transform == "log" and "inverse" in transforms:', "if False:"),
    "a learning rate of 0.5 from 0.5": ("relax.py", "lr: float = 0.1", "lr: float = 0.5"),
    "half counts as chosen": ("relax.py", '"strict": lambda m: m > 0.5', '"strict": lambda m: m >= 0.5'),
    "gradients of weights": ("hooks.py", "getattr(module, parameter).requires_grad_(False)", "pass"),
    "a mean of ratios": ("tracing.py", '"relative" if self.metric.relative else "log"', '"relative"'),
    "evaluated on the search prompts": ("search.py", "effects = trace.heldout.effects(", "effects = trace.effects("),
    "the best epoch by eye": ("relax.py", 'done.append(budget is not None and run.history[-1]["kept"] <= budget)', "done.append(False)"),
}
