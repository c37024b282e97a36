"""The branching grammar, measures against enumeration, and the toy."""

import math
from itertools import combinations, islice, product

import pytest
import torch

from mctrace_nb.distill import losses as L
from mctrace_nb.distill import measures as M
from mctrace_nb.distill import problems as P
from mctrace_nb.distill.models import make_tokenizer
from mctrace_nb.distill.toy import teacher_of, toy
from mctrace_nb.errors import InputError

# --- the grammar ---


@pytest.fixture
def roads(monkeypatch):
    """A map of which only these are closed."""
    closed = {("mon", 0, 5), ("mon", 15, 7)}
    monkeypatch.setattr(P, "is_open", lambda *road: road not in closed)


def test_derivations_by_hand(roads):
    problem = P.Problem("mon", 18, 4, (2, 5, 7))
    assert problem.prompt == "on mon from 18 to 4 by 2 5 7 :"
    assert P.derivation(problem, (7, -5, 2)) == "+7 5 -5 0 +2 2"
    assert P.read(problem, "+2 0 +2 2 +2 4") == ((2, 2, 2), "")
    for text, wrong in (("+2 0 -5 15 +2 17", "arrives at 17, not at 4"), ("+2 0 +2 2 +4 6", "+4 is no move of this problem"),
                        ("+2 0 +2 3 +2 5", "+2 leads to 2, not to 3"), ("+2 0 +5 5 +2 7", "+5 from 0 is closed on mon"),
                        ("+2 0 -5 15 +7 2", "+7 from 15 is closed on mon"), ("7 0 +2 2 +2 4", "'7' is no move"),
                        ("+2 0 +2 2", "4 words, not 6"), ("+2 0 +2 2 +2 4 +2 6", "8 words, not 6"), ("+2 0 +2 2 +2", "5 words, not 6"),
                        ("", "0 words, not 6")):
        assert P.read(problem, text) == (None, wrong)
    assert P.read(P.Problem("tue", 18, 7, (2, 5, 7)), "+2 0 +5 5 +2 7")[0]  # another day, another map
    assert P.last_move(18, 4) == 6 and P.last_move(4, 18) == -6 and P.last_move(0, 10) == P.last_move(10, 0) == 10
    assert 5 not in problem.free(0) and set(problem.free(1)) == {2, -2, 5, -5, 7, -7}


def test_solutions_are_what_read_accepts_and_their_share_is_known():
    for problem in P.distinct_problems(30, seed=3):
        found = P.solutions(problem)
        assert found and len(set(found)) == len(found)
        assert all(P.read(problem, P.derivation(problem, walk)) == (walk, "") for walk in found)
        assert sum(P.read(problem, P.derivation(problem, walk))[0] is not None for walk in product(problem.moves, repeat=3)) == len(found)

        def reach(so_far, p):  # sums over all derivations of the grammar, word by word
            if so_far and so_far[-1] == P.END:
                return p * (P.read(problem, " ".join(so_far[:-1]))[0] is not None)
            return sum(reach([*so_far, word], p * share) for word, share in P.next_words(problem, " ".join(so_far)).items())
        assert reach([], 1.0) == pytest.approx(P.success(problem))


def test_texts_are_of_the_grammar_and_poor_ones_are_not():
    right = []
    for problem, text in islice(P.texts(0), 300):
        words = [*text.split(), P.END]
        assert all(word in P.next_words(problem, " ".join(words[:i])) for i, word in enumerate(words))
        assert not problem.held_out
        right.append(P.read(problem, text)[0] is not None)
    expected = sum(P.success(p) for p, _ in islice(P.texts(0), 300)) / 300
    assert abs(sum(right) / 300 - expected) < 4 * (0.25 / 300) ** 0.5
    slips = [(int(a) + problem.start - int(b)) % P.RING != 0 for problem, text in islice(P.texts(0, careless=0.5), 300) for a, b in [text.split()[:2]]]
    assert 0.35 < sum(slips) / 300 < 0.6
    with pytest.raises(InputError, match="no derivation"):
        P.next_words(problem, "+2 +2")


def test_problems_are_split_and_repeat():
    trained = list(islice(P.problems(0), 4000))
    held = P.distinct_problems(400, 0)
    assert not set(trained) & set(held) and len(set(held)) == 400
    assert list(islice(P.problems(0), 20)) == trained[:20] != list(islice(P.problems(1), 20))
    known = make_tokenizer().get_vocab()
    assert {w for p in held for w in p.prompt.split()} <= set(known) and set(P.vocabulary()) <= set(known)


# --- measures ---

def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one():
    for n in (1, 2, 5, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = [any(i < c for i in draw) for draw in combinations(range(n), k)]
                assert float(M.pass_at_k(n, c, k)) == pytest.approx(sum(draws) / len(draws), abs=1e-12)
    assert float(M.pass_at_k(5000, 3, 100)) == pytest.approx(1 - math.prod((4897 + j) / (4997 + j) for j in (1, 2, 3)), abs=1e-9)
    for bad in ((4, 1, 5), (4, 5, 2), (4, 1, 0), (4, -1, 2)):
        with pytest.raises(InputError, match="does not fit"):
            M.pass_at_k(*bad)


def test_right_answers_by_hand():
    a, b = (1, 2), (2, 1)
    found = M.right_answers([[a, a, b, None], [None, None, None, None]], ks=(1, 2, 4, 8))
    assert found == {"avg": 3 / 8, "pass@1": pytest.approx(3 / 8), "pass@2": pytest.approx(0.5), "pass@4": pytest.approx(0.5), "distinct": 1.0,
                     "spread": pytest.approx(4 / 6)}
    assert math.isnan(M.right_answers([[a, None]])["spread"])
    with pytest.raises(InputError, match=r"\[1, 2\] answers"):
        M.right_answers([[a], [a, b]])
    with pytest.raises(InputError, match=r"\[0\] answers"):
        M.right_answers([[], []])


def test_token_measures_by_hand():
    uniform, sure = torch.tensor([0.25] * 4), torch.tensor([0.97, 0.01, 0.01, 0.01])
    teacher, student = torch.stack([uniform, sure, uniform])[None].log(), torch.stack([sure, sure, uniform])[None].log()
    valid = torch.tensor([[True, True, False]])
    found = M.token_measures(student, teacher, valid, tau=0.8, k=2)
    H = -(0.97 * math.log(0.97) + 0.03 * math.log(0.01))
    wanted = dict(tokens=2, student_entropy=H, teacher_entropy=(H + math.log(4)) / 2, high_student=0, high_teacher=0.5, student_entropy_gated=H,
                  student_entropy_ungated=H, teacher_entropy_gated=math.log(4), teacher_entropy_ungated=H,
                  forward_kl_gated=0.25 * math.log(0.25 / 0.97) + 0.75 * math.log(25), reverse_kl_gated=math.log(4) - H, forward_kl_ungated=0,
                  reverse_kl_ungated=0, top_1_agreement=1)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=1e-5), key
    assert found["top_k_forward_kl"] == pytest.approx(float(L.top_k_forward_kl(student, teacher, 2)[0, :2].mean()), abs=1e-5)
    assert math.isnan(M.token_measures(student, teacher, valid, tau=2.0)["forward_kl_gated"])
    with pytest.raises(InputError, match="no valid token"):
        M.token_measures(student, teacher, ~torch.ones(1, 3, dtype=torch.bool), 0.8)


def test_intervals_over_seeds():
    found = M.over_seeds([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3) and found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # table of t, 2 d.f.
    assert math.isnan(M.over_seeds([1.0]).low)
    assert M.paired([3.0, 5.0, 7.0], [2.0, 4.0, 6.0]).low == 1.0
    with pytest.raises(InputError, match="2 and 1 seeds"):
        M.paired([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="no seed"):
        M.over_seeds([])


# --- the toy ---

def test_toy_teachers_have_the_entropy_asked_for():
    for target in (0.05, 0.3, 3.5, 4.6):
        found = teacher_of(target, 100, 5)
        torch.testing.assert_close(L.entropy(found), torch.full((5,), target, dtype=torch.float64), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="between 0 and 4.61"):
        teacher_of(4.7, 100, 5)


def test_toy_student_of_an_unsure_teacher_changes_its_mind_more_often():
    sure, unsure = (toy(H, "opd", steps=500) for H in (0.3, 3.5))
    for measure in ("top_1_changes", "top_10_change"):
        assert M.paired(unsure[measure], sure[measure]).low > 0, measure
    gated = {H: toy(H, "eopd", steps=500) for H in (0.3, 3.5)}
    assert gated[0.3] == sure  # the gate is shut: the very same run
    assert M.paired(unsure["forward_kl"], gated[3.5]["forward_kl"]).low > 0
    assert M.paired(gated[3.5]["covered"], unsure["covered"]).low > 0
    assert unsure["history"][-1]["step"] == 500 and sum(50 * r["change_rate"] for r in unsure["history"]) == pytest.approx(
        sum(unsure["top_1_changes"]) / 20)
    for bad, message in ((dict(method="opdd"), "did you mean 'opd'"), (dict(steps=0), "steps=0"), (dict(words=5), "words=5"), (dict(words=12), "k=16")):
        with pytest.raises(InputError, match=message):
            toy(1.0, **bad)


def test_toy_rates_do_not_depend_on_how_often_they_are_written_down():
    often, rarely = (toy(3.5, steps=30, seeds=4, every=every) for every in (8, 30))
    assert often.pop("history")[-1] != rarely.pop("history")[-1] and often == rarely
    found, lengths = toy(3.5, steps=30, seeds=20, every=8), (8, 8, 8, 6)
    rows = found["history"]
    assert rows[-1]["change_rate"] > 0  # the last row is shorter than the others
    assert sum(n * r["change_rate"] for n, r in zip(lengths, rows)) == pytest.approx(sum(found["top_1_changes"]) / 20)


def test_toy_methods_add_up_what_they_say():
    assert toy(3.5, "ungated", steps=20, seeds=3) == toy(3.5, "eopd", steps=20, seeds=3) != toy(3.5, "opd", steps=20, seeds=3)
    assert toy(0.3, "ungated", steps=20, seeds=3)["forward_kl"] != toy(0.3, "opd", steps=20, seeds=3)["forward_kl"]
    teacher = teacher_of(3.5, 100, 3)
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(20):  # forward KL alone: no draw takes part
        optimiser.zero_grad()
        L.top_k_forward_kl(logits.log_softmax(-1), teacher, 16).sum().backward()
        optimiser.step()
    assert toy(3.5, "forward", steps=20, seeds=3)["forward_kl"] == pytest.approx(L.kl(teacher, logits.detach().log_softmax(-1)).tolist(), abs=1e-12)
