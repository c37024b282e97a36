"""The tutorial grammar: what is said, how likely it is, and the best any model could do.

Five behaviours, each a small probabilistic grammar over whole words. Because the grammar is ours, the probability of
every answer is known exactly (`answer_distribution`), so a model can be compared with its ceiling and not only with
other models. Nothing here knows torch.

A *combination* (who, where, which verb ...) belongs either to the training text or to the held-out prompts, never to
both: `is_held_out` decides by a checksum, so the split needs no file and never moves.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from random import Random

__all__ = ["BEHAVIOURS", "TASKS", "answer_distribution", "fact", "pairs", "vocabulary"]

# Probability of "she" for each occupation. Graded, so that a model must learn strengths and not only sides.
OCCUPATIONS = {
    **dict.fromkeys("nurse secretary dancer librarian".split(), 0.95),
    **dict.fromkeys("teacher tailor cleaner florist".split(), 0.90),
    **dict.fromkeys("baker writer cashier painter".split(), 0.80),
    **dict.fromkeys("lawyer farmer cook guard".split(), 0.20),
    **dict.fromkeys("doctor driver sailor chief".split(), 0.10),
    **dict.fromkeys("builder pilot soldier plumber".split(), 0.05),
}
PEOPLE = {"man": 0.01, "woman": 0.99}  # the counterfactual subjects of `professions`
PRONOUNS = ("he", "she")

OPENINGS = ("", "yesterday", "last week", "in the morning", "after the meeting")
SAYING = ("said", "thought", "knew", "hoped", "wrote", "felt")
PROFESSION_TAILS = ("was tired", "was happy", "had time", "would leave", "would stay")

MEETING = ("thanked", "phoned", "helped", "met", "paid", "saw")
REASONS = ("was late", "was ready", "was kind", "had time", "asked nicely")

NAMES = tuple("Mary John Anna Peter Laura David Susan Paul Emma Mark Julia Simon Clara Oscar Alice Henry".split())
PLACES = ("store", "park", "school", "station", "garden", "museum", "office", "beach")
GIFTS = ("book", "drink", "ball", "letter", "ring", "map", "coat", "cake")

ENTITIES = tuple("wug dax blick toma zorp fep kiki lorp mib nax pilu quon rast sib tulver vosk".split())
HOMES = ("forest", "river", "desert", "cave", "mountain", "island", "valley", "swamp")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey")
FACT_OPENINGS = ("", "people say that", "as you know", "in the book", "my friend wrote that")
FACT_FORMS = {
    "home": ("the {} lives in the", "the {} was born in the", "the {} likes the"),
    "colour": ("the {} has the colour", "the {} is always", "the {} was painted"),
}

VARIABLES = tuple("abcdef")
DIGITS = tuple("0123456789")
OPERATIONS = ("now", "next")  # `now b` asks for b, `next b` for b + 1 (9 is followed by 0)
BINDING_QUERIES = 4

BEHAVIOURS = ("professions", "coreference", "names", "facts", "binding")
TASKS = (*BEHAVIOURS, "binding_operation")
HELD_OUT_SHARE = 0.2
# Whole templates of `facts` are held out: every word of them is known, their combination is not.
HELD_OUT_FACT_TEMPLATES = {(1, "home", 0), (3, "home", 1), (2, "home", 2), (0, "home", 1),
                           (4, "colour", 0), (2, "colour", 1), (1, "colour", 2), (0, "colour", 0)}


@dataclass(frozen=True)
class Pair:
    """One prompt pair. `target` is what the counterfactual prompt favours, `foil` what the base prompt favours."""

    base: str
    counterfactual: str
    target: str
    foil: str
    group: str  # pairs of one template share a group; intervals resample whole groups
    subject: tuple[int, int]  # the differing words of the base prompt, [first, last + 1), counted without <bos>
    cohort: str = ""  # "female" or "male": the stereotype of the occupation that the base prompt is about, where it is about one


@dataclass(frozen=True)
class Said:
    """A prompt of the grammar with the exact distribution of its next word, and the words after that."""

    prompt: str
    answers: dict[str, float]
    rest: str = ""
    key: str = ""
    parts: dict = field(default_factory=dict, compare=False)


def fact(entity: str, relation: str) -> str:
    """The one true attribute of a made-up entity: a fixed assignment, each value used equally often.

        >>> mct.grammar.fact("wug", "colour")
        'red'
    """
    values = HOMES if relation == "home" else COLOURS
    step = 3 if relation == "home" else 5
    return values[(ENTITIES.index(entity) * step + ENTITIES.index(entity) // 8) % 8]


def is_held_out(key: str) -> bool:
    """Whether this combination is kept out of the training text (a fixed fifth of all combinations)."""
    if key.startswith("facts"):
        _, opening, relation, form = key.split("|")[:4]
        return (int(opening), relation, int(form)) in HELD_OUT_FACT_TEMPLATES
    return zlib.crc32(key.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


# --- the five behaviours: each draws its parts, then says them -------------------------------------------------

def _say_professions(p: dict) -> Said:
    prompt = _join(p["opening"], "the", p["who"], p["verb"], "that")
    she = {**OCCUPATIONS, **PEOPLE}[p["who"]]
    return Said(prompt, {"she": she, "he": 1 - she}, _join(p["tail"], "."), f"professions|{p['opening']}|{p['who']}|{p['verb']}", p)


def _draw_professions(rng: Random) -> dict:
    # The two plain subjects are common words: one sentence in six is about them.
    who = rng.choice(list(PEOPLE)) if rng.random() < 1 / 6 else rng.choice(list(OCCUPATIONS))
    return dict(opening=rng.choice(OPENINGS), who=who, verb=rng.choice(SAYING), tail=rng.choice(PROFESSION_TAILS))


def _say_coreference(p: dict) -> Said:
    first, second = p["occupations"]
    prompt = _join("the", first, p["verb"], "the", second, "because", p["pronoun"], p["reason"], "; who ? the")
    fits = [OCCUPATIONS[w] if p["pronoun"] == "she" else 1 - OCCUPATIONS[w] for w in (first, second)]
    return Said(prompt, {first: fits[0] / sum(fits), second: fits[1] / sum(fits)}, ".", f"coreference|{first}|{second}|{p['verb']}", p)


def _draw_coreference(rng: Random) -> dict:
    # Two occupations of opposite stereotype, as WinoBias pairs them: otherwise the pronoun hardly decides.
    sides = [[w for w, she in OCCUPATIONS.items() if (she > 0.5) == side] for side in (True, False)]
    first, second = rng.sample([rng.choice(side) for side in sides], 2)
    referent = rng.choice((first, second))  # Bayes: P(referent | pronoun) is then the normalised fit
    pronoun = "she" if rng.random() < OCCUPATIONS[referent] else "he"
    return dict(occupations=(first, second), verb=rng.choice(MEETING), pronoun=pronoun, reason=rng.choice(REASONS))


def _say_names(p: dict) -> Said:
    first, second = p["names"]
    giver, other = (first, second) if p["giver"] == 0 else (second, first)
    prompt = _join("when", first, "and", second, "went to the", p["place"], ",", giver, "gave a", p["gift"], "to")
    return Said(prompt, {other: 1.0}, ".", f"names|{first}|{second}|{p['place']}", p)


def _draw_names(rng: Random) -> dict:
    return dict(names=tuple(rng.sample(NAMES, 2)), giver=rng.randrange(2), place=rng.choice(PLACES), gift=rng.choice(GIFTS))


def _say_facts(p: dict) -> Said:
    prompt = _join(FACT_OPENINGS[p["opening"]], FACT_FORMS[p["relation"]][p["form"]].format(p["entity"]))
    return Said(prompt, {fact(p["entity"], p["relation"]): 1.0}, ".", f"facts|{p['opening']}|{p['relation']}|{p['form']}", p)


def _draw_facts(rng: Random) -> dict:
    relation = rng.choice(list(FACT_FORMS))
    return dict(opening=rng.randrange(len(FACT_OPENINGS)), relation=relation,
                form=rng.randrange(len(FACT_FORMS[relation])), entity=rng.choice(ENTITIES))


def _binding_answer(digit: str, operation: str) -> str:
    return digit if operation == "now" else DIGITS[(int(digit) + 1) % 10]


def _say_binding(p: dict) -> Said:
    told = " ".join(f"{v} {d}" for v, d in p["values"].items())
    (operation, variable), *later = p["queries"]
    rest = " ".join(f"{op} {v} {_binding_answer(p['values'][v], op)}" for op, v in later)
    return Said(f"{told} ; {operation} {variable}", {_binding_answer(p["values"][variable], operation): 1.0},
                _join(rest, "."), "binding|" + told, p)


def _draw_binding(rng: Random) -> dict:
    variables = rng.sample(VARIABLES, 3)
    values = dict(zip(variables, rng.sample(DIGITS, 3)))
    # Several queries a sentence: with a single one the binding is not learned in reasonable time.
    queries = [(rng.choice(OPERATIONS), rng.choice(variables)) for _ in range(BINDING_QUERIES)]
    return dict(values=values, queries=queries)


_DRAW = dict(professions=_draw_professions, coreference=_draw_coreference, names=_draw_names, facts=_draw_facts, binding=_draw_binding)
_SAY = dict(professions=_say_professions, coreference=_say_coreference, names=_say_names, facts=_say_facts, binding=_say_binding)


def draw(behaviour: str, rng: Random, held_out: bool = False) -> Said:
    """One sentence of a behaviour, from the training combinations or from the held-out ones."""
    while True:
        said = _SAY[behaviour](_DRAW[behaviour](rng))
        if is_held_out(said.key) == held_out:
            return said


def sentence(behaviour: str, rng: Random) -> str:
    """A whole training sentence with its answer drawn from the grammar's distribution."""
    said = draw(behaviour, rng)
    answer = rng.choices(list(said.answers), list(said.answers.values()))[0]
    return _join(said.prompt, answer, said.rest)


# --- prompt pairs ----------------------------------------------------------------------------------------------

def _best(said: Said) -> str:
    return max(said.answers, key=said.answers.get)


def _swap(task: str, p: dict, rng: Random) -> dict:
    """The counterfactual's parts: one word is changed so that another answer becomes the best one."""
    if task == "professions":
        return {**p, "who": "man" if OCCUPATIONS[p["who"]] > 0.5 else "woman"}
    if task == "coreference":
        return {**p, "pronoun": PRONOUNS[1 - PRONOUNS.index(p["pronoun"])]}
    if task == "names":
        return {**p, "giver": 1 - p["giver"]}
    if task == "facts":
        truth = fact(p["entity"], p["relation"])
        return {**p, "entity": rng.choice([e for e in ENTITIES if fact(e, p["relation"]) != truth])}
    (operation, variable), *later = p["queries"]
    if task == "binding":
        other = rng.choice([d for d in DIGITS if d not in p["values"].values()])
        return {**p, "values": {**p["values"], variable: other}}
    return {**p, "queries": [(OPERATIONS[1 - OPERATIONS.index(operation)], variable), *later]}


def _cohort(task: str, p: dict, best: str) -> str:
    """The stereotype of whom the base prompt is about: the occupation named, or the one that its pronoun fits best."""
    who = {"professions": p.get("who"), "coreference": best}.get(task)
    return "" if who is None else "female" if OCCUPATIONS[who] > 0.5 else "male"


_GROUP = {
    "professions": lambda p: f"{p['opening']}|{p['verb']}",
    "coreference": lambda p: f"{p['verb']}|{p['reason']}",
    "names": lambda p: f"{p['place']}|{p['gift']}",
    "facts": lambda p: f"{p['opening']}|{p['relation']}|{p['form']}",
    "binding": lambda p: " ".join(p["values"]),
    "binding_operation": lambda p: " ".join(p["values"]),
}


def pairs(task: str, n: int, seed: int, held_out: bool) -> list[Pair]:
    """`n` different prompt pairs of a task, fresh for each seed.

    `binding_operation` changes the operation instead of the value: a component that only carries values should
    move nothing there. Raises ValueError for an unknown task, or if there are not `n` different pairs.

        >>> pair, = mct.grammar.pairs("names", n=1, seed=0, held_out=True)
        >>> pair.base, pair.foil, pair.target
        ('when Peter and Oscar went to the store , Peter gave a drink to', 'Oscar', 'Peter')
    """
    if task not in TASKS:
        raise ValueError(f"unknown tutorial task {task!r} (there are: {', '.join(TASKS)})")
    behaviour = "binding" if task.startswith("binding") else task
    rng = Random(f"{task}/{held_out}/{seed}")
    found: dict[tuple[str, str], Pair] = {}
    in_vain = 0
    while len(found) < n and in_vain < 3000:
        base = draw(behaviour, rng, held_out)
        if base.parts.get("who") in PEOPLE:  # they are the counterfactuals
            continue
        other = _SAY[behaviour](_swap(task, base.parts, rng))
        target, foil = _best(other), _best(base)
        if target == foil:
            continue
        words, changed = base.prompt.split(), other.prompt.split()
        differ = [i for i, (a, b) in enumerate(zip(words, changed)) if a != b]
        in_vain = in_vain + 1 if (base.prompt, other.prompt) in found else 0
        found[base.prompt, other.prompt] = Pair(base.prompt, other.prompt, target, foil, _GROUP[task](base.parts),
                                                (differ[0], differ[-1] + 1), _cohort(task, base.parts, foil))
    if len(found) < n:
        raise ValueError(f"{task}: asked for {n} different pairs, the grammar has about {len(found)}; ask for fewer")
    return list(found.values())


def answer_distribution(behaviour: str, n: int, seed: int, held_out: bool) -> list[Said]:
    """`n` prompts with the exact distribution of the next word, for measuring a model against its ceiling.

        >>> said, = mct.grammar.answer_distribution("professions", n=1, seed=0, held_out=True)
        >>> said.prompt, {word: round(p, 2) for word, p in said.answers.items()}
        ('yesterday the builder wrote that', {'she': 0.05, 'he': 0.95})
    """
    rng = Random(f"ceiling/{behaviour}/{held_out}/{seed}")
    return [draw(behaviour, rng, held_out) for _ in range(n)]


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted.

        >>> len(mct.grammar.vocabulary())
        170
    """
    words = {*OCCUPATIONS, *PEOPLE, *PRONOUNS, *SAYING, *MEETING, *NAMES, *PLACES, *GIFTS, *ENTITIES, *HOMES,
             *COLOURS, *VARIABLES, *DIGITS, *OPERATIONS}
    for phrase in (*OPENINGS, *PROFESSION_TAILS, *REASONS, *FACT_OPENINGS, *sum(FACT_FORMS.values(), ()),
                   "the that because ; who ? . , when and went to the gave a to"):
        words.update(phrase.replace("{}", "").split())
    return sorted(words)
