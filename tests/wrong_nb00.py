"""Wrong answers to the exercise of notebook 00, and what the check must say of each."""


def wrong_answers():
    def total(trace):
        return trace.total_effects().mean().item()

    yield 1, lambda trace, labels: trace.effects(labels).mean().item(), "divide it by the total effect"
    yield 1, lambda trace, labels: sum(trace.effects([x]).mean().item() for x in labels) / total(trace), "do not add up"
    yield 1, lambda trace, labels: (trace.effects(labels) / trace.total_effects()).mean(), "divide the means"
    yield 1, lambda trace, labels: 100 * trace.effects(labels).mean() / total(trace), "not a percentage"
    yield 1, lambda trace, labels: trace.effects(labels), "return one number"
    yield 1, lambda trace, labels: trace.heldout.effects(labels).mean() / trace.heldout.total_effects().mean(), "divide the mean of"
