"""Examiners on the real zoo: a live mix marks as the saved one would, lazily, and recovers."""

import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import GeneratedSource, Source
from stockpot.draw import DrawSettings, Request, open_painter
from stockpot.engine import merge_in_memory, open_pool
from stockpot.errors import MemoryBudgetError, ScorerError, StockpotError
from stockpot.layouts import Component, get_layout
from stockpot.recipes import Recipe, make_recipe
from stockpot.scores import Picture, Scorer, Scores, make_scorer
from stockpot.tune import (
    CallableExaminer,
    Exam,
    LiveExaminer,
    Mark,
    Task,
    check_memory,
    open_examiner,
    picture_facts,
    read_exam,
    score_together,
    scores_of,
    tally,
)
from stockpot.zoo import member

NAMES = {"a": "style-glossy", "b": "te-trained"}
POOL = {name: str(member(full).path) for name, full in NAMES.items()}
QUICK = DrawSettings(steps=2, width=32, height=32, sampler="Euler")
OTHER = replace(QUICK, cfg=2.0)


def mix(text: str, **parts: str) -> Recipe:
    return make_recipe({"model": text, **parts}, POOL)


def make_exam(n: int = 4, settings: tuple[DrawSettings, ...] = (QUICK,)) -> Exam:
    words = ("a red heart", "a green star")
    return Exam(
        tuple(
            Task(f"p{i % 2}#{i // 2}", f"p{i % 2}",
                 Request(words[i % 2], i, settings[i % len(settings)]))
            for i in range(n)
        )
    )  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On pictures this small more threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Together(Scorer):
    """How much brighter a picture is than the others: not pointwise."""

    name, range, pointwise, uses_prompt = "together", "any", False, False

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        self.sizes.append(len(pictures))
        means = np.array([picture.mean() for picture in pictures])
        return means - means.mean()


class Counting(Scorer):
    """Remembers what it was asked."""

    name, range = "counting", "length of the text"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        self.texts += texts
        return np.array([float(len(text)) for text in texts])


@pytest.fixture(scope="module")
def sources() -> Iterator[dict[str, Source]]:
    with open_pool(mix("a")) as opened:
        yield opened


@pytest.fixture(scope="module")
def judged(sources: dict[str, Source]) -> Iterator[LiveExaminer]:
    scorers = {"judge": make_scorer("attributes"), "contrast": make_scorer("contrast")}
    with open_examiner(sources, scorers, batch=2) as examiner:
        yield examiner


def test_marks_are_those_of_the_saved_mix(judged: LiveExaminer, sources: dict[str, Source]) -> None:
    exam = make_exam()
    judge = make_scorer("attributes")
    for recipe in (mix("0.3*a + 0.7*b"), mix("a", te="b")):
        marks = list(judged.examine(recipe, exam.tasks, pictures=True))
        painter = open_painter(merge_in_memory(recipe, sources))
        prompts = [task.request.prompt for task in exam.tasks]
        drawn = np.concatenate(
            [painter.draw(prompts[i : i + 2], [i, i + 1], QUICK) for i in (0, 2)]
        )
        assert [mark.task for mark in marks] == [task.name for task in exam.tasks]
        assert all(np.array_equal(m.picture, d) for m, d in zip(marks, drawn, strict=True))
        assert [m.scores["judge"] for m in marks] == list(judge.score(drawn, prompts))
        assert [m.facts for m in marks] == [picture_facts(picture) for picture in drawn]
        assert all(mark.elapsed_s > 0 for mark in marks)


def test_candidates_differ_and_come_back_the_same(judged: LiveExaminer) -> None:
    exam = make_exam()
    first, other, again = (
        scores_of(exam.tasks, judged.examine(mix(text), exam.tasks), "judge")
        for text in ("a", "b", "a")
    )
    assert first == again != other
    assert tally(first) != tally(other)


def test_pictures_are_kept_only_if_asked_for(judged: LiveExaminer) -> None:
    (mark,) = judged.examine(mix("a"), make_exam(1).tasks)
    assert mark.picture is None
    assert pickle.loads(pickle.dumps(mark)) == mark


def test_marks_come_batch_by_batch(sources: dict[str, Source]) -> None:
    scorer = Counting()
    with open_examiner(sources, {"n": scorer}, batch=2) as examiner:
        marks = examiner.examine(mix("a"), make_exam(6).tasks)
        assert scorer.texts == []
        assert next(marks).task == "p0#0" and len(scorer.texts) == 2
        assert next(marks).task == "p1#0" and len(scorer.texts) == 2
        assert next(marks).task == "p0#1" and len(scorer.texts) == 4
        marks.close()
        assert len(scorer.texts) == 4


def test_marks_tell_what_is_drawn_already(sources: dict[str, Source]) -> None:
    with open_examiner(sources, {"n": Counting()}, batch=2) as examiner:
        marks = examiner.examine(mix("a"), make_exam(3).tasks)
        assert [mark.n_drawn for mark in marks] == [1, 0, 0]


def test_tasks_of_equal_settings_are_drawn_together(sources: dict[str, Source]) -> None:
    exam = make_exam(6, (QUICK, OTHER))
    with open_examiner(sources, {"n": Counting()}, batch=3) as examiner:
        marks = list(examiner.examine(mix("a"), exam.tasks, pictures=True))
        assert [m.task for m in marks] == ["p0#0", "p0#1", "p0#2", "p1#0", "p1#1", "p1#2"]
    with open_examiner(sources, {"n": Counting()}, batch=1) as examiner:
        singles = list(examiner.examine(mix("a"), exam.tasks, pictures=True))
        assert [m.task for m in singles] == [task.name for task in exam.tasks]
    # Neighbours may change the last bit of a float, which may turn a rounding.
    by_task = {mark.task: mark.picture for mark in marks}
    for mark in singles:
        assert mark.picture is not None
        assert np.abs(mark.picture.astype(int) - by_task[mark.task]).max() <= 1


def test_scorers_that_compare_see_all_pictures(sources: dict[str, Source]) -> None:
    together, counting = Together(), Counting()
    scorers: dict[str, Scorer] = {"t": together, "n": counting}
    with open_examiner(sources, scorers, batch=2) as examiner:
        marks = examiner.examine(mix("a"), make_exam(5).tasks)
        next(marks)
        assert together.sizes == [5] and len(counting.texts) == 5
        assert sum(mark.scores["t"] for mark in marks) != 0


def test_prompts_are_stripped_and_score_prompts_are_not(sources: dict[str, Source]) -> None:
    scorer = Counting()
    request = Request("((heart)), (star:0)", 1, QUICK)
    tasks = [Task("a", "p", request), Task("b", "p", request, score_prompt="((heart))")]
    with open_examiner(sources, {"n": scorer}) as examiner:
        list(examiner.examine(mix("a"), tasks))
    assert scorer.texts == ["heart", "((heart))"]


def test_interleaved_candidates_do_not_mix(judged: LiveExaminer) -> None:
    exam = make_exam()
    expected = {text: list(judged.examine(mix(text), exam.tasks)) for text in "ab"}
    one, two = (judged.examine(mix(text), exam.tasks) for text in "ab")
    found: dict[str, list[Mark]] = {"a": [], "b": []}
    for x, y in zip(one, two, strict=True):
        found["a"].append(x)
        found["b"].append(y)
    assert {k: [m.scores for m in v] for k, v in found.items()} == {
        k: [m.scores for m in v] for k, v in expected.items()
    }


def test_a_candidate_that_fails_leaves_the_examiner_usable(judged: LiveExaminer) -> None:
    tasks = make_exam(2).tasks
    before = [mark.scores for mark in judged.examine(mix("a"), tasks)]
    for broken in (mix("a + c"), make_recipe({"unet": "a"}, POOL)):
        with pytest.raises(StockpotError):
            list(judged.examine(broken, tasks))
    large = replace(QUICK, width=30)
    with pytest.raises(StockpotError, match="multiple of 4"):
        list(judged.examine(mix("a"), [Task("t", "p", Request("x", 1, large))]))
    assert [mark.scores for mark in judged.examine(mix("a"), tasks)] == before


def test_memory_decides_what_is_held_and_nothing_else(sources: dict[str, Source]) -> None:
    tasks = make_exam(2).tasks
    size = sum(info.n_bytes for info in sources["a"].tensors.values())
    least = 3 * size + (256 << 20)  # fp16 weights, drawn in float32
    found = []
    for memory in (least, least + size, least + 2 * size):
        with open_examiner(mix("a"), {"n": make_scorer("contrast")}, memory=memory) as examiner:
            found.append([m.scores for m in examiner.examine(mix("mean(a, b)"), tasks)])
    assert found[0] == found[1] == found[2]
    with pytest.raises(MemoryBudgetError, match="for the painter in float32"):
        open_examiner(sources, {"n": make_scorer("contrast")}, memory=least // 2)


def test_what_must_fit_is_the_mix_and_not_the_pool(sources: dict[str, Source]) -> None:
    memory = 1 << 30
    one = check_memory({"a": sources["a"]}, memory)
    many = {f"m{i}": sources["a" if i % 2 else "b"] for i in range(40)}
    assert check_memory(many, memory) == one
    parts = {
        name: _only(sources["a"], layout.components, name)
        for layout in [get_layout("zoo")]
        for name in ("unet", "te", "vae")
    }
    # Where no file has all of it, the mix is still as large.
    assert check_memory(parts, memory) == one
    elements = {
        part: sum(i.n_elements for i in source.tensors.values() if i.dtype.name == "F16")
        for part, source in parts.items()
    }
    # Half precision saves two bytes a weight, except for the VAE, which stays in float32.
    saved = 2 * (elements["unet"] + elements["te"])
    assert check_memory(parts, memory, "float16") == one + saved
    with pytest.raises(MemoryBudgetError, match="allow more, or draw in half precision"):
        check_memory(parts, 1)


def _only(source: Source, components: Iterable[Component], name: str) -> Source:
    """One component of a model."""
    prefix = next(part.prefix for part in components if part.name == name)
    kept = [info for key, info in source.tensors.items() if key.startswith(prefix)]
    return GeneratedSource(kept, lambda info, start, stop, out: None, name=name)


def test_parts_from_elsewhere_are_drawn_with(sources: dict[str, Source]) -> None:
    tasks = make_exam(2).tasks
    scorers = {"n": make_scorer("contrast")}
    with open_examiner(sources, scorers, te=Path(POOL["b"])) as examiner:
        fixed = [m.scores for m in examiner.examine(mix("a"), tasks)]
    with open_examiner(sources, scorers) as examiner:
        swapped = [m.scores for m in examiner.examine(mix("a", te="b"), tasks)]
        assert [m.scores for m in examiner.examine(mix("a"), tasks)] != fixed
    assert fixed == swapped


def test_an_examiner_needs_scorers_and_a_batch(sources: dict[str, Source]) -> None:
    with pytest.raises(ScorerError, match="at least one scorer"):
        open_examiner(sources, {})
    with pytest.raises(ValueError, match="`batch` must be at least 1"):
        open_examiner(sources, {"n": Counting()}, batch=0)


def test_callables_are_examiners() -> None:
    exam = make_exam(2)
    recipe = mix("a")
    for answer in (0.5, {"score": 0.5}, Mark("", {"score": 0.5}, {"contrast": 1.0})):
        with CallableExaminer(lambda recipe, task, answer=answer: answer) as examiner:
            marks = list(examiner.examine(recipe, exam.tasks))
        assert [mark.task for mark in marks] == ["p0#0", "p1#0"]
        assert [dict(mark.scores) for mark in marks] == [{"score": 0.5}] * 2


def test_the_nine_real_tasks_are_marked(judged: LiveExaminer, data: Path) -> None:
    path = data / "payloads" / "test-9img.json"
    exam = read_exam([path], size_scale=1 / 40, steps=1)
    contrast = {"n": make_scorer("contrast")}
    with open_examiner(mix("a"), contrast) as examiner:
        marks = list(examiner.examine(mix("mean(a, b)"), exam.tasks))
    assert len(marks) == 9 == len({mark.scores["n"] for mark in marks})


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, stockpot.tune; "
        "print([m for m in ('torch', 'diffusers', 'optuna', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_candidates_can_be_compared_with_each_other(sources: dict[str, Source]) -> None:
    tasks = make_exam(3).tasks
    with open_examiner(sources, {"n": make_scorer("contrast")}) as examiner:
        marks = {text: list(examiner.examine(mix(text), tasks, pictures=True)) for text in "ab"}
        bare = {"a": list(examiner.examine(mix("a"), tasks))}
    together = Together()
    found = score_together(marks, tasks, "t", together)
    assert together.sizes == [6]
    assert [m.task for m in found["b"]] == [task.name for task in tasks]
    sums = [sum(mark.scores["t"] for mark in found[text]) for text in "ab"]
    assert sums[0] == pytest.approx(-sums[1]) and sums[0] != 0
    assert found["a"][0].scores["n"] == marks["a"][0].scores["n"]
    with pytest.raises(ScorerError, match="marks need their pictures"):
        score_together(bare, tasks, "t", together)


def test_every_component_from_another_model(judged: LiveExaminer) -> None:
    tasks = make_exam(2).tasks
    recipe = make_recipe({"unet": "mean(a, b)", "te": "b", "vae": "a"}, POOL)
    same = mix("a", unet="mean(a, b)", te="b")
    one, two = (list(judged.examine(r, tasks, pictures=True)) for r in (recipe, same))
    assert [mark.scores for mark in one] == [mark.scores for mark in two]
    assert not np.array_equal(
        one[0].picture, next(judged.examine(mix("a"), tasks, pictures=True)).picture
    )


def test_a_closed_examiner_says_so(sources: dict[str, Source]) -> None:
    examiner = open_examiner(sources, {"n": Counting()})
    examiner.close()
    examiner.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(examiner.examine(mix("a"), make_exam(1).tasks))
