"""The engine on a tiny base: answers against plain passes, resuming after a kill, what is kept and what is asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from many_tasks import SHOTS, SmallTask, choice_task, text_task

from tclora.adapters import read_adapter
from tclora.errors import AdapterError, DataError, NumericalError
from tclora.evaluation.many import AnswerStore, Entrant, OwnBackend, answer_tasks, ask_items
from tclora.evaluation.tasks import Continuation, Generation, Item, Likelihoods, Prompt
from tclora.models import attached, greedy_answers, tokenize_example, tokenize_plain, tokenize_start

# Float32 sums in another order through two layers.
ATOL = 1e-4


@pytest.fixture
def entrants(folders) -> list[Entrant]:
    return [Entrant("base"), *(Entrant(Path(folder).name, folder) for folder in folders[:2])]


def oracle(base, rows):
    found = []
    for row in rows:
        with torch.no_grad():
            table = torch.log_softmax(base.model(input_ids=torch.tensor([row.ids])).logits[0].float(), dim=-1)
        found.append(sum(float(table[t, row.ids[t + 1]]) for t in range(row.n_prompt - 1, len(row.ids) - 1)))
    return found


def ask(base, entrants, tasks, cache, **options):
    return answer_tasks(base, entrants, tasks, OwnBackend(base, batch_size=4), cache=cache, **options)


@pytest.mark.parametrize("shots", ["", SHOTS], ids=["zero shots", "two shots"])
def test_answers_are_those_of_plain_passes_with_the_adapter(tiny_base, entrants, shots, tmp_path):
    task = choice_task(shots=shots)
    for own in ask(tiny_base, entrants, [task], tmp_path):
        source = own.entrant.source
        for item, answer in zip(task.items(), own.answers[task.name], strict=True):
            rows = [tokenize_plain(tiny_base, c.prompt.text, c.text) for c in item.ask]
            if source is None:
                expected = oracle(tiny_base, rows)
            else:
                with attached(tiny_base, read_adapter(source)):
                    expected = oracle(tiny_base, rows)
            assert answer.sums == pytest.approx(expected, abs=ATOL)
            assert answer.n_tokens == tuple(row.n_scored for row in rows)


def test_the_adapters_differ(tiny_base, entrants, tmp_path):
    # Otherwise the test above could not tell one adapter from another.
    answered = ask(tiny_base, entrants, [choice_task(n=2)], tmp_path)
    assert len({own.answers["choices"][0].sums for own in answered}) == 3


def test_instructions_go_into_the_bases_template(tiny_base, tmp_path):
    from tclora.data import Example

    task = choice_task(n=2, plain=False)
    (own,) = ask(tiny_base, [Entrant("base")], [task], tmp_path)
    for item, answer in zip(task.items(), own.answers[task.name], strict=True):
        rows = [tokenize_example(tiny_base, Example(c.prompt.text, output=c.text)) for c in item.ask]
        assert answer.sums == pytest.approx(oracle(tiny_base, rows), abs=ATOL)


def test_texts_are_greedy_answers(tiny_base, entrants, tmp_path):
    task = text_task()
    for own in ask(tiny_base, entrants, [task], tmp_path):
        prompts = [tokenize_start(tiny_base, item.ask.prompt.text, room=4) for item in task.items()]
        if own.entrant.source is None:
            expected = greedy_answers(tiny_base, prompts, max_new_tokens=4, batch_size=1)
        else:
            with attached(tiny_base, read_adapter(own.entrant.source)):
                expected = greedy_answers(tiny_base, prompts, max_new_tokens=4, batch_size=1)
        assert [text.strip() for text in own.answers[task.name]] == expected


def test_drawn_texts_do_not_depend_on_batches(tiny_base, tmp_path):
    task = text_task(temperature=1.0)
    found = []
    for size in (1, 5):
        backend = OwnBackend(tiny_base, batch_size=size)
        (own,) = answer_tasks(tiny_base, [Entrant("base")], [task], backend, cache=tmp_path / str(size))
        found.append(own.answers[task.name])
    assert found[0] == found[1]
    other = OwnBackend(tiny_base, batch_size=5, seed=1)
    (own,) = answer_tasks(tiny_base, [Entrant("base")], [task], other, cache=tmp_path / "5")
    assert own.n_reused == 0 and own.answers[task.name] != found[0]


def test_sharing_can_be_left_out(tiny_base, tmp_path):
    task = choice_task(shots=SHOTS)
    both = []
    for share in (True, False):
        backend = OwnBackend(tiny_base, batch_size=4, share=share)
        (own,) = answer_tasks(tiny_base, [Entrant("base")], [task], backend, cache=tmp_path / str(share))
        both.append([value for answer in own.answers[task.name] for value in answer.sums])
    assert both[0] == pytest.approx(both[1], abs=ATOL)


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on_and_ends_the_same(tiny_base, entrants, tmp_path, monkeypatch):
    tasks = [choice_task(), text_task()]
    whole = ask(tiny_base, entrants, tasks, tmp_path / "whole")
    asked, add = [], AnswerStore.add

    def counting(limit):
        def adds(store, answers):
            if len(asked) == limit:
                raise Killed
            answers = list(answers)
            asked.append(len(answers))
            add(store, answers)

        return adds

    runs = 0
    for limit in (3, 7, 1000):
        monkeypatch.setattr(AnswerStore, "add", counting(limit))
        runs += 1
        try:
            again = ask(tiny_base, entrants, tasks, tmp_path / "killed")
            break
        except Killed:
            continue
    assert runs == 3
    assert [own.answers for own in again] == [own.answers for own in whole]
    # Nothing was asked twice but the batches that were running.
    assert sum(asked) == 3 * 15


def test_what_is_kept_is_not_asked_again_nor_attached(tiny_base, entrants, tmp_path, monkeypatch):
    task = choice_task()
    first = ask(tiny_base, entrants, [task], tmp_path)
    monkeypatch.setattr("tclora.evaluation.many.answering.attached", None)
    steps = []
    again = ask(tiny_base, entrants, [task], tmp_path, on_progress=lambda *step: steps.append(step))
    assert [own.answers for own in again] == [own.answers for own in first]
    assert [own.n_reused for own in again] == [10, 10, 10]
    assert steps[-1][0] == steps[-1][1] > 0


def test_more_items_ask_only_what_is_new(tiny_base, tmp_path):
    ask(tiny_base, [Entrant("base")], [choice_task(n=4)], tmp_path)
    (own,) = ask(tiny_base, [Entrant("base")], [choice_task(n=6)], tmp_path)
    assert own.n_reused == 4


def test_damaged_lines_are_asked_again(tiny_base, tmp_path):
    task = choice_task()
    (first,) = ask(tiny_base, [Entrant("base")], [task], tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"-", b"", 1)
    lines[2] = b'{"not": "an answer"}'
    torn = b"\n".join(lines)[:-20]
    file.write_bytes(torn)
    (again,) = ask(tiny_base, [Entrant("base")], [task], tmp_path)
    assert again.n_reused == 7
    for one, other in zip(again.answers["choices"], first.answers["choices"], strict=True):
        assert one.sums == pytest.approx(other.sums, abs=ATOL)
    assert ask(tiny_base, [Entrant("base")], [task], tmp_path)[0].n_reused == 10


def test_items_that_ask_the_same_are_asked_once(tiny_base, tmp_path):
    task = choice_task(n=3)
    doubled = replace(task, built=(*task.built, *(replace(item, id=f"again-{item.id}") for item in task.built)))
    (own,) = ask(tiny_base, [Entrant("base")], [doubled], tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    assert len(file.read_bytes().splitlines()) == 3
    assert own.answers["choices"][:3] == own.answers["choices"][3:]


def test_retrained_adapters_are_asked_again(tiny_base, make_lora, tmp_path):
    task, folder = choice_task(n=3), tmp_path / "lora"
    make_lora(folder, seed=5)
    (first,) = ask(tiny_base, [Entrant("lora", str(folder))], [task], tmp_path / "cache")
    make_lora(folder, seed=6)
    (again,) = ask(tiny_base, [Entrant("lora", str(folder))], [task], tmp_path / "cache")
    assert again.n_reused == 0 and again.answers != first.answers


def test_long_prompts_are_cut_and_counted(tiny_base):
    base = replace(tiny_base, max_length=64)
    long = Item("0", Generation(Prompt("word " * 40), max_new_tokens=9), None)
    choice = Item("1", (Continuation(Prompt("word " * 40), " end"),), 0)
    asked = ask_items(base, "t", [long, choice, *choice_task(n=1).built], seed=0)
    assert [one.truncated for one in asked] == [True, True, False]
    assert len(asked[0].completion.ids) == 64 - 9
    assert len(asked[1].rows[0].ids) == 64


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ((), "no continuation"),
        ((Continuation(Prompt("Q"), " a"), Continuation(Prompt("Q"), "")), "continuation 1"),
        (Generation(Prompt("Q"), max_new_tokens=0), "asks for no token"),
    ],
)
def test_items_that_ask_for_nothing_are_refused(tiny_base, wanted, text):
    with pytest.raises(DataError, match=text) as caught:
        ask_items(tiny_base, "quiz", [Item("seven", wanted, 0)], seed=0)
    assert "quiz, item seven" in str(caught.value)


def test_likelihoods_that_are_no_numbers_are_refused(tiny_base, make_lora, tmp_path, monkeypatch):
    def broken(*_, **__):
        yield [0], [[(float("nan"), 1, True), (-1.0, 1, True)]]

    monkeypatch.setattr("tclora.evaluation.many.backend.score_continuations", broken)
    with pytest.raises(NumericalError, match="choices, item 0"):
        ask(tiny_base, [Entrant("base")], [choice_task(n=1)], tmp_path)


def test_a_folder_that_is_no_adapter_is_refused(tiny_base, tmp_path):
    with pytest.raises(AdapterError, match="no such adapter"):
        ask(tiny_base, [Entrant("x", str(tmp_path / "nowhere"))], [choice_task(n=1)], tmp_path / "cache")


def test_a_store_gives_back_what_it_was_given(tmp_path):
    texts = ["plain", "", "line\nbreak and \u2028 and \U0001f600"]
    sums = Likelihoods((-1.25, -3e-300), (1, 2), (True, False))
    store = AnswerStore(tmp_path / "a.jsonl")
    store.add([(str(i), text) for i, text in enumerate(texts)] + [("sums", sums)])
    store.close()
    again = AnswerStore(tmp_path / "a.jsonl")
    assert [again[str(i)] for i in range(3)] == texts and again["sums"] == sums
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])[1] == "plain"


def test_a_task_without_its_metric_is_refused(tmp_path):
    from tclora.evaluation.many import score_task

    task = choice_task(n=1)
    task = SmallTask("t", task.built, metrics=("acc", "other"))
    with pytest.raises(NumericalError, match="other: absent"):
        score_task(task, [[Likelihoods((-1.0, -2.0), (1, 1), (True, False))]])
