"""Continuations behind shared prefixes, trunks and pasts against one plain forward pass for each, unpadded."""

import dataclasses

import pytest
import torch

from tclora.errors import ConfigError, DataError
from tclora.models import (
    Completion,
    Tokens,
    complete_prompts,
    score_continuations,
    shares_past,
    tokenize_start,
    useful_prefix,
)
from tclora.models.branches import common_length

# Float32 sums in another order through six layers: absolute, for log-likelihoods of some tens of nats.
ATOL = 1e-4


BASES = ("seed_lm", "gpt2", "gemma2")
# The one base that is not tiny takes seconds for each size, so the fast suite tries it with one.
SIZES = [
    pytest.param(name, size, marks=[pytest.mark.slow] if (name, size) in (("seed_lm", 1), ("seed_lm", 64)) else [])
    for name in BASES
    for size in (1, 4, 64)
]


@pytest.fixture(params=BASES)
def base(request):
    return dataclasses.replace(request.getfixturevalue(request.param), max_length=64)


def oracle(base, row):
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()
    at = range(row.n_prompt - 1, len(row.ids) - 1)
    chances = torch.log_softmax(logits, dim=-1)
    total = sum(float(chances[t, row.ids[t + 1]]) for t in at)
    return total, len(at), all(int(logits[t].argmax()) == row.ids[t + 1] for t in at)


def draw(generator, n):
    return tuple(torch.randint(2, 4000, (n,), generator=generator).tolist())


def made_groups(generator, *, prefix=0, n_groups=7):
    """Questions of unequal length with choices of unequal length, one of them single tokens, one without a trunk."""
    shared, groups = (1, *draw(generator, prefix)), []
    for index in range(n_groups):
        prompt = (*shared, *draw(generator, 3 + 2 * index))
        sizes = (1, 1, 1) if index == 2 else (1 + index % 3, 4, 2)
        groups.append([Tokens((*prompt, *draw(generator, size)), len(prompt)) for size in sizes])
    # As WinoGrande's: the prompts part, and what is scored is the same.
    text = draw(generator, 3)
    heads = [(*shared, *draw(generator, 12), *draw(generator, size)) for size in (1, 3)]
    heads = [(*heads[0][: len(shared) + 12], *head[len(shared) + 12 :]) for head in heads]
    groups.append([Tokens((*head, *text), len(head)) for head in heads])
    groups.append([Tokens((*shared, *draw(generator, 4)), 1 + prefix)])
    return groups


def scored(base, groups, **options):
    found = {}
    for indices, scores in score_continuations(base, groups, **options):
        assert not set(indices) & set(found)
        found |= dict(zip(indices, scores, strict=True))
    return [found[index] for index in range(len(groups))]


@pytest.mark.parametrize("prefix", [0, 24], ids=["zero shots", "a shared prefix"])
@pytest.mark.parametrize(("base", "batch_size"), SIZES, indirect=["base"])
def test_scores_equal_a_plain_pass_for_each(base, generator, prefix, batch_size):
    groups = made_groups(generator, prefix=prefix)
    assert bool(useful_prefix([row for group in groups for row in group])) == (prefix > 0)
    for group, scores in zip(groups, scored(base, groups, batch_size=batch_size), strict=True):
        for row, (total, count, greedy) in zip(group, scores, strict=True):
            expected = oracle(base, row)
            assert (total, (count, greedy)) == (pytest.approx(expected[0], abs=ATOL), expected[1:])


def test_sharing_changes_nothing_but_the_work(seed_lm, generator, monkeypatch):
    groups, read = made_groups(generator, prefix=24, n_groups=9), []
    forward = seed_lm.model.base_model.forward
    monkeypatch.setattr(
        seed_lm.model.base_model, "forward", lambda *a, **k: read.append(k["input_ids"].numel()) or forward(*a, **k)
    )
    together = scored(seed_lm, groups, batch_size=8)
    n_shared, _ = sum(read), read.clear()
    apart = scored(seed_lm, groups, batch_size=8, share=False)
    assert n_shared < 0.5 * sum(read)
    for some, others in zip(together, apart, strict=True):
        assert [row[0] for row in some] == pytest.approx([row[0] for row in others], abs=ATOL)


def test_greedy_is_what_greedy_decoding_gives(seed_lm, generator):
    prompt = (1, *draw(generator, 20))
    row = list(prompt)
    for _ in range(3):
        with torch.no_grad():
            row.append(int(seed_lm.model(torch.tensor([row])).logits[0, -1].argmax()))
    other = (*row[:-1], (row[-1] + 1) % 4000)
    scores = scored(seed_lm, [[Tokens(tuple(row), len(prompt)), Tokens(other, len(prompt))]], batch_size=4)[0]
    assert [score[2] for score in scores] == [True, False]


def test_logits_in_chunks_change_nothing(seed_lm, generator, monkeypatch):
    groups = made_groups(generator)
    whole = scored(seed_lm, groups, batch_size=8)
    monkeypatch.setattr("tclora.models.reading._MAX_LOGITS", 3 * 4096)
    for some, others in zip(scored(seed_lm, groups, batch_size=8), whole, strict=True):
        assert [row[0] for row in some] == pytest.approx([row[0] for row in others], abs=ATOL)


def test_a_model_that_allows_sharing_is_found_so(base):
    assert shares_past(base, 60)


def test_a_window_is_respected(gemma2):
    config = gemma2.model.config
    assert not shares_past(gemma2, config.sliding_window + 1)


def test_a_model_that_reads_its_past_wrong_is_found_out(seed_lm, monkeypatch):
    forward = seed_lm.model.base_model.forward

    def forgetful(*args, **options):
        return forward(*args, **(options | ({"attention_mask": None} if options.get("past_key_values") else {})))

    monkeypatch.setattr(seed_lm.model.base_model, "forward", forgetful)
    assert not shares_past(seed_lm, 60)


def test_a_model_without_key_values_is_found_out(seed_lm, monkeypatch):
    forward = seed_lm.model.base_model.forward

    def stateless(*args, **options):
        out = forward(*args, **options)
        out.past_key_values = None
        return out

    monkeypatch.setattr(seed_lm.model.base_model, "forward", stateless)
    assert not shares_past(seed_lm, 60)


def test_common_beginnings():
    assert common_length([(1, 2, 3), (1, 2), (1, 2, 4)]) == 2
    assert common_length([(1,), (2,)]) == 0
    assert common_length([(5, 6)]) == 2


@pytest.mark.parametrize("group", [[], [Tokens((1, 2), 2)], [Tokens((1, 2, 3), 2), Tokens((1,), 0)]])
def test_nothing_to_score_is_refused(seed_lm, group):
    with pytest.raises(DataError, match="no token to score"):
        list(score_continuations(seed_lm, [group], batch_size=2))


def test_a_batch_of_no_rows_is_refused(seed_lm):
    with pytest.raises(ConfigError, match="a batch needs rows"):
        list(score_continuations(seed_lm, [[Tokens((1, 2), 1)]], batch_size=0))


def completed(base, wanted, **options):
    found = {}
    for indices, texts in complete_prompts(base, wanted, **options):
        found |= dict(zip(indices, texts, strict=True))
    return [found[index] for index in range(len(wanted))]


def prompts(base, n=5, shots=""):
    texts = [f"{shots}### Instruction:\nName a colour{' and a town' * i}.\n\n### Response:\nIt" for i in range(n)]
    return [tokenize_start(base, text, room=8).ids for text in texts]


def test_completions_equal_those_of_generate_white_space_and_all(seed_lm):
    (ids,) = prompts(seed_lm, 1)
    whole = seed_lm.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    expected = seed_lm.tokenizer.decode(whole, skip_special_tokens=True)
    assert completed(seed_lm, [Completion(ids, 12)], batch_size=1) == [expected]
    assert expected != expected.strip()


def test_completions_behind_a_shared_prefix_equal_those_alone(base):
    wanted = [Completion(ids, 6) for ids in prompts(base, shots="one two three four one two three. ")] * 6
    alone = [completed(base, [one], batch_size=1)[0] for one in wanted[:5]]
    assert useful_prefix([Tokens(one.ids, len(one.ids)) for one in wanted])
    assert completed(base, wanted, batch_size=4) == alone * 6


def test_a_stop_string_ends_the_answer_and_is_left_out(seed_lm):
    ids = prompts(seed_lm)[3]
    free = completed(seed_lm, [Completion(ids, 24)], batch_size=1)[0]
    stop = free[5:8]
    rows = [Completion(ids, 24, stop=("never in it", stop)), Completion(ids, 24)]
    assert completed(seed_lm, rows, batch_size=2) == [free[: free.find(stop)], free]


def test_stopped_rows_stop_costing(seed_lm, monkeypatch):
    ids, calls = prompts(seed_lm)[3], []
    free = completed(seed_lm, [Completion(ids, 24)], batch_size=1)[0]
    monkeypatch.setattr(seed_lm.model.base_model.layers[0], "forward", _counted(seed_lm, calls))
    completed(seed_lm, [Completion(ids, 24, stop=(free[2:4],))], batch_size=1)
    assert 0 < len(calls) < 12


def _counted(base, calls):
    forward = base.model.base_model.layers[0].forward
    return lambda *args, **options: calls.append(1) or forward(*args, **options)


def test_drawn_texts_depend_on_their_seed_alone(seed_lm):
    rows = prompts(seed_lm)
    drawn = [Completion(ids, 8, temperature=0.9, top_p=0.95, seed=seed) for seed, ids in enumerate(rows)]
    together = completed(seed_lm, drawn, batch_size=5)
    assert together == [completed(seed_lm, [one], batch_size=1)[0] for one in drawn]
    again = [dataclasses.replace(one, seed=one.seed + 100) for one in drawn]
    assert completed(seed_lm, again, batch_size=5) != together


def test_drawing_leaves_the_global_generator_alone(seed_lm):
    before = torch.get_rng_state()
    completed(seed_lm, [Completion(prompts(seed_lm)[0], 4, temperature=1.0, seed=3)], batch_size=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_first_tokens_are_drawn_as_often_as_the_model_says(seed_lm):
    ids = prompts(seed_lm)[1]
    with torch.no_grad():
        chances = torch.softmax(seed_lm.model(torch.tensor([ids])).logits[0, -1].double() / 0.7, dim=-1)

    def named(token):
        return seed_lm.tokenizer.decode([token], skip_special_tokens=True)

    nucleus, total = set(), 0.0
    for token in chances.argsort(descending=True).tolist():
        if total >= 0.6:
            break
        nucleus.add(named(token))
        total += float(chances[token])
    wanted = [Completion(ids, 1, temperature=0.7, top_p=0.6, seed=seed) for seed in range(200)]
    found = completed(seed_lm, wanted, batch_size=200)
    assert set(found) <= nucleus
    top = named(int(chances.argmax()))
    p = float(chances.max()) / total
    # Four standard deviations of a share of 200 draws.
    assert abs(found.count(top) / 200 - p) < 4 * (p * (1 - p) / 200) ** 0.5


def test_a_nucleus_of_almost_nothing_is_greedy(seed_lm):
    rows = prompts(seed_lm)
    greedy = completed(seed_lm, [Completion(ids, 6) for ids in rows], batch_size=5)
    drawn = [Completion(ids, 6, temperature=1.0, top_p=1e-9, seed=7) for ids in rows]
    assert completed(seed_lm, drawn, batch_size=5) == greedy


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ids": ()}, "tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_what_cannot_be_generated_is_refused(seed_lm, change, text):
    wanted = dataclasses.replace(Completion((1, 5), 3), **change)
    with pytest.raises(ConfigError, match=f"prompt 0, {text}"):
        list(complete_prompts(seed_lm, [wanted], batch_size=1))
