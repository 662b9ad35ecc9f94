"""Selection in a world that is known: parts have a worth, and a mix is worth their mean."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.draw import Request
from stockpot.errors import RequestError, UnknownNameError
from stockpot.recipes import Recipe, print_expression
from stockpot.select import (
    PLANS,
    Choice,
    Decisions,
    Evidence,
    Member,
    Pool,
    Rule,
    Setup,
    Stopped,
    decide,
    decisions_json,
    expected_cost,
    find_core,
    greedy_drop,
    greedy_soup,
    leave_one_out,
    read_decisions,
    select_models,
    shapley,
    used_table,
)
from stockpot.tune import CallableExaminer, Exam, Task

PAYLOADS = ("cat", "car", "rare")
UNETS = {"a": 0.8, "b": 0.82, "c": 0.78, "bad": -1.0, "knows": -0.5, "enc": -1.0, "copy": 0.8}
ENCODERS = {"a": 0.5, "b": 0.5, "c": 0.5, "bad": 0.5, "knows": 0.5, "enc": 0.6, "ruined": -2.0,
            "copy": 0.5}  # fmt: skip


def make_pool(names: list[str] | None = None) -> Pool:
    """Models whose contents are their worth: the copy is one of a, and most encoders are equal."""
    names = names or ["a", "b", "c", "bad", "knows", "enc", "ruined", "copy"]
    members = tuple(
        Member(name, {"copy": "u-a", "ruined": "u-a"}.get(name, f"u-{name}"),
               f"t-{ENCODERS[name]}", "v")
        for name in names
    )  # fmt: skip
    return Pool(members, {name: f"{name}.safetensors" for name in names}, "zoo", names[0], {})


def make_exam(n: int = 6, first: int = 0) -> Exam:
    return Exam(
        tuple(
            Task(f"{payload}#{i}", payload, Request(payload, first + 100 * k + i))
            for k, payload in enumerate(PAYLOADS)
            for i in range(n)
        )
    )


def simple(recipe: Recipe, task: Task) -> Mapping[str, float]:
    """The mean worth of the mix, with the task's own noise, and what only one model knows."""

    def names(part: str) -> list[str]:
        text = print_expression(recipe.mix[part])
        return text.removeprefix("mean(").removesuffix(")").split(", ")

    unets, encoders = names("unet"), names("te")
    unet = sum(UNETS.get(name, 0.8) for name in unets) / len(unets)
    encoder = sum(ENCODERS[name] for name in encoders) / len(encoders)
    noise = 0.3 * random.Random(task.key).random()
    if task.payload == "rare":
        return {"score": 0.6 * unets.count("knows") / len(unets) + noise}
    return {"score": unet + encoder + noise}


def evidence(pool: Pool, file: Path | None = None, **limits: object) -> Evidence:
    return Evidence(file, pool, make_exam(), CallableExaminer(simple), "score", **limits)  # type: ignore[arg-type]


def test_the_author_plan_finds_what_was_planted() -> None:
    pool = make_pool()
    found = select_models(evidence(pool), make_exam(first=10_000))
    choice = found.outcome.choice
    assert choice.unets == ("a", "b", "c", "knows")
    assert choice.encoders == ("a", "enc")
    assert found.twins == {
        "unet": {"ruined": "a", "copy": "a"},
        "te": {"b": "a", "c": "a", "bad": "a", "knows": "a", "copy": "a"},
    }
    assert found.verdict is not None and found.verdict.better == "yes"
    assert "better than the blind mix: yes" in found.verdict.text
    (encoders,) = [step for step in found.outcome.steps if step.part == "te"]
    assert {one.name for one in encoders.decisions if not one.kept} == {"ruined"}
    (unets,) = [step for step in found.outcome.steps if step.part == "unet"]
    why = {one.name: one.why for one in unets.decisions}
    assert "alone good at rare" in why["knows"]
    assert "surely worse" in why["bad"] and "surely worse" in why["enc"]


def test_the_author_plan_costs_at_most_3n_plus_n() -> None:
    pool = make_pool()
    found = select_models(evidence(pool), make_exam(first=10_000), core=False)
    candidates = sum(len(step.candidates) for step in found.outcome.steps)
    assert candidates <= expected_cost(pool, "author", 18, 18, False).candidates + 1
    assert candidates <= 4 * len(pool.names)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_drops_the_ruined_text_encoder(plan: str) -> None:
    pool = make_pool()
    found = select_models(evidence(pool), make_exam(first=10_000), plan=plan, core=False)
    assert "ruined" not in found.outcome.choice.encoders
    assert "a" in found.outcome.choice.unets or "b" in found.outcome.choice.unets


@pytest.mark.parametrize("plan", PLANS)
def test_costs_are_not_exceeded(plan: str) -> None:
    pool = make_pool()
    told = expected_cost(pool, plan, 18, 18, True)
    kept = evidence(pool)
    found = select_models(kept, make_exam(first=10_000), plan=plan)
    verdicts = 3
    assert found.n_candidates <= told.candidates + verdicts


def test_the_core_holds_the_score_and_is_smaller() -> None:
    pool = make_pool()
    marks = evidence(pool)
    setup = Setup(pool, marks.marks, {task.name: task.payload for task in make_exam().tasks})
    whole = Choice(("a", "b", "c"), ("a", "enc"))
    core, decisions = find_core(setup, whole)
    assert len(core.unets) == 1 and set(core.unets) <= set(whole.unets)
    assert {one.name.partition(":")[0] for one in decisions} == {"unet", "te"}
    assert setup.score(core) > setup.score(whole) - 0.05


def test_a_person_has_the_last_word() -> None:
    pool = make_pool()
    said = Decisions(frozenset({("unet", "bad")}), frozenset({("te", "enc"), ("unet", "b")}))
    found = select_models(evidence(pool), make_exam(first=10_000), decisions=said, core=False)
    assert found.outcome.choice == Choice(("a", "c", "bad", "knows"), ("a",))
    for plan in ("greedy-soup", "greedy-drop", "leave-one-out", "shapley"):
        found = select_models(evidence(pool), make_exam(first=10_000), plan=plan, decisions=said)
        assert "bad" in found.outcome.choice.unets
        assert "b" not in found.outcome.choice.unets


def test_it_can_stop_after_the_text_encoders() -> None:
    pool = make_pool()
    found = select_models(evidence(pool), make_exam(first=10_000), stop_after="te")
    assert found.outcome.choice.encoders == ("a", "enc")
    assert set(found.outcome.choice.unets) == {"a", "b", "c", "bad", "knows", "enc"} | {"ruined"}


def test_unknown_names_are_refused() -> None:
    pool = make_pool()
    with pytest.raises(UnknownNameError, match="nobody"):
        select_models(evidence(pool), make_exam(first=9),
                      decisions=Decisions(frozenset({("te", "nobody")})))  # fmt: skip
    with pytest.raises(UnknownNameError, match="author"):
        select_models(evidence(pool), make_exam(first=9), plan="auther")


def test_marks_are_kept_and_used_again(tmp_path: Path) -> None:
    file = tmp_path / "evidence.jsonl"
    pool = make_pool()
    with evidence(pool, file) as kept:
        first = select_models(kept, make_exam(first=10_000))
    assert first.n_candidates > 0
    with evidence(pool, file) as kept:
        again = select_models(kept, make_exam(first=10_000))
        assert kept.n_examined == 0
    assert again.outcome == first.outcome and again.core == first.core
    assert again.verdict == first.verdict


def test_a_pool_that_grew_reuses_what_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "evidence.jsonl"
    small = make_pool(["a", "b", "ruined"])
    with evidence(small, file) as kept:
        select_models(kept, make_exam(first=10_000), plan="greedy-soup", core=False)
    grown = make_pool(["b", "a", "ruined", "c"])
    grown = Pool(grown.members, grown.files, grown.layout, "a", {})
    with evidence(grown, file) as kept:
        found = select_models(kept, make_exam(first=10_000), plan="greedy-soup", core=False)
    assert found.n_reused >= 3  # a, b, ruined alone
    assert "b" in found.outcome.choice.unets and "ruined" not in found.outcome.choice.unets


def test_a_killed_run_goes_on_at_the_task_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "evidence.jsonl"
    pool = make_pool()
    with pytest.raises(Stopped), evidence(pool, file, most_candidates=4) as kept:
        select_models(kept, make_exam(first=10_000))
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:40]) + lines[40][:25])  # torn in the middle of a line
    with evidence(pool, file) as kept:
        found = select_models(kept, make_exam(first=10_000))
    assert found.outcome == select_models(evidence(pool), make_exam(first=10_000)).outcome
    names = [json.loads(line).get("name") for line in file.read_bytes().splitlines()[1:]]
    assert names[:18] == [task.name for task in make_exam().tasks]
    pairs = [(json.loads(line)["key"], json.loads(line)["task"])
             for line in file.read_bytes().splitlines()[1:]]  # fmt: skip
    assert len(pairs) == len(set(pairs)), "nothing was drawn twice"


def test_a_strange_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my shopping list\nmilk\n")
    with pytest.raises(RequestError, match="line 1"):
        evidence(make_pool(), file)
    assert file.read_text() == "my shopping list\nmilk\n"


def test_decisions_are_read_and_written(tmp_path: Path) -> None:
    said = Decisions(frozenset({("te", "x: y")}), frozenset({("unet", "b"), ("unet", "a")}))
    file = tmp_path / "decisions.json"
    file.write_text(decisions_json(said))
    assert read_decisions(file) == said
    file.write_text("pin:\n  te: a\nveto:\n  unet: [b, c]\n")
    assert read_decisions(file) == Decisions(
        frozenset({("te", "a")}), frozenset({("unet", "b"), ("unet", "c")})
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "`pin:` and `veto:`"),
        ("keep: {}", "means nothing"),
        ("pin: {vae: a}", "parts are unet and te"),
        ("pin: {te: {a: b}}", "list of models"),
        ("pin: {te: a}\nveto: {te: a}", "at once"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
        ("a: [", "cannot be read"),
    ],
)
def test_wrong_decisions_are_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "d.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=said):
        read_decisions(file)


def test_shapley_values_add_up() -> None:
    pool = make_pool(["a", "b", "c", "ruined"])
    marks = evidence(pool)
    setup = Setup(pool, marks.marks, {task.name: task.payload for task in make_exam().tasks})
    found = shapley(setup, rounds=3)
    names = ("a", "b", "c", "ruined")
    firsts = sum(setup.score(Choice((n,), (n,))) for n in names) / len(names)
    assert sum(found.values.values()) == pytest.approx(setup.score(Choice(names, names)) - firsts)
    assert min(found.values, key=found.values.__getitem__) == "ruined"


def test_leave_one_out_is_the_difference() -> None:
    pool = make_pool(["a", "b", "ruined"])
    marks = evidence(pool)
    setup = Setup(pool, marks.marks, {task.name: task.payload for task in make_exam().tasks})
    found = leave_one_out(setup)
    names = ("a", "b", "ruined")
    whole = setup.score(Choice(names, names))
    without = setup.score(Choice(("a", "b"), ("a", "b")))
    assert found.values["ruined"] == pytest.approx(whole - without)
    assert found.choice == Choice(("a", "b"), ("a", "b"))


def test_greedy_soup_by_hand() -> None:
    scores = {
        ("a",): 3.0, ("b",): 2.0, ("c",): 1.0, ("a", "b"): 2.5, ("a", "c"): 3.5,
    }  # fmt: skip
    pool = Pool(tuple(Member(n, n, n, "v") for n in "abc"), {}, "zoo", "a", {})
    setup = Setup(pool, lambda choice: {"p#0": scores[choice.unets]}, {"p#0": "p"})
    assert greedy_soup(setup).choice == Choice(("a", "c"), ("a", "c"))


def test_greedy_drop_by_hand() -> None:
    scores = {
        ("a", "b", "c"): 1.0, ("a", "b"): 2.0, ("a", "c"): 1.5, ("b", "c"): 0.0,
        ("a",): 1.9, ("b",): 0.0,
    }  # fmt: skip
    pool = Pool(tuple(Member(n, n, n, "v") for n in "abc"), {}, "zoo", "a", {})
    setup = Setup(pool, lambda choice: {"p#0": scores[choice.unets]}, {"p#0": "p"})
    assert greedy_drop(setup).choice == Choice(("a", "b"), ("a", "b"))


@settings(deadline=None, max_examples=20)
@given(st.permutations(["a", "b", "c", "bad", "knows"]), st.integers(0, 3))
def test_decisions_do_not_depend_on_order(order: list[str], shift: int) -> None:
    exam = make_exam(5)
    payload_of = {task.name: task.payload for task in exam.tasks}
    marks = {
        name: {
            task.name: UNETS[name] + 0.3 * random.Random(task.key).random() + shift
            + (3.0 if name == "knows" and task.payload == "rare" else 0.0)
            - (2.0 if name == "knows" and task.payload != "rare" else 0.0)
            for task in exam.tasks
        }
        for name in order
    }  # fmt: skip
    found = {one.name: (one.kept, one.why) for one in decide(marks, payload_of)}
    usual = {name: marks[name] for name in sorted(marks)}
    assert found == {one.name: (one.kept, one.why) for one in decide(usual, payload_of)}
    assert found["knows"][0] and not found["bad"][0]


@settings(deadline=None)
@given(st.floats(0.0, 3.0))
def test_equal_candidates_all_stay(margin: float) -> None:
    marks = {name: {f"p#{i}": 0.1 * i for i in range(8)} for name in "abc"}
    found = decide(marks, {f"p#{i}": "p" for i in range(8)}, Rule(margin))
    assert all(one.kept and one.difference == 0 for one in found)


def test_keys_follow_contents() -> None:
    pool = make_pool()
    assert pool.key(Choice(("a", "b"), ("a",))) == pool.key(Choice(("copy", "b"), ("c",)))
    assert pool.key(Choice(("a", "b"), ("a",))) != pool.key(Choice(("a", "c"), ("a",)))
    assert pool.key(Choice(("a", "a"), ("a",))) != pool.key(Choice(("a",), ("a",)))


def test_the_table_of_the_author() -> None:
    table = used_table(make_pool(["a", "b", "enc"]), Choice(("a", "b"), ("enc",)))
    assert table == (("a", True, False), ("b", True, False), ("enc", False, True))
