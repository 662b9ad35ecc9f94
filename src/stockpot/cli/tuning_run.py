"""How a search is run from the command line: from options to a result."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stockpot.cli.output import note
from stockpot.cli.recipe_files import (
    TUNED,
    find_layout,
    placed,
    read_any,
    study_metadata,
    write_text,
)
from stockpot.cli.tuning_examiner import memory_of, opened_examiner, scorers_of
from stockpot.cli.tuning_options import SearchOptions
from stockpot.cli.tuning_processes import further_processes, is_further_process
from stockpot.errors import OutputExistsError, StudyError

if TYPE_CHECKING:
    from stockpot.layouts import Layout
    from stockpot.recipes import Recipe
    from stockpot.tune import (
        Baseline,
        BaselineMaker,
        Candidate,
        Exam,
        Examiner,
        Hole,
        Result,
        Search,
        Space,
        StudyStore,
    )

__all__ = [
    "Wishes", "exams_of", "identity_of", "known_recipes", "run_study", "say_held_out",
    "search_stage", "space_of", "stages_of", "tuned_recipe",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wishes(SearchOptions):
    """The options of `stockpot tune run`; see there."""

    recipe_file: Path
    output: Path | None
    merge: Path | None
    outside: bool
    overwrite: bool
    json_: bool


def run_study(wishes: Wishes) -> None:
    """Search, hold out, print, and write what was asked for.

    Args:
        wishes: The options.
    """
    from stockpot.tune import check_tally, shown_address

    check_tally(wishes.tally)
    memory_of(wishes)
    for output in (wishes.output, wishes.merge):
        if output is not None and output.exists() and not wishes.overwrite:
            raise OutputExistsError(f"{output} is there already; use another name, or --overwrite")
    try:
        _run(wishes)
    except KeyboardInterrupt:
        where = shown_address(wishes.study)
        note(f"stopped; what was drawn is kept in {where}: the same command goes on")
        raise typer.Exit(130) from None


def _run(wishes: Wishes) -> None:
    from stockpot.cli.tuning_view import print_result
    from stockpot.tune import hold_out, judge, open_store, result_json

    is_child = is_further_process()
    recipe, layout = tuned_recipe(wishes.recipe_file, outside=wishes.outside)
    exam, other = exams_of(wishes)
    held = other.held_out(wishes.seed, repeats=wishes.held_repeats, avoid=exam)
    folder = wishes.recipe_file.parent
    hand = partial(_one_more_hand, wishes, recipe, layout, exam, held)
    first = first_mix(wishes, recipe, layout)
    with ExitStack() as stack:
        examiner = stack.enter_context(opened_examiner(wishes, recipe, folder, hand, first))
        store = stack.enter_context(open_store(wishes.study))
        stages = stages_of(wishes, store, recipe, layout, exam, folder)
        begun = stack.enter_context(next(stages))
        children = stack.enter_context(further_processes(0 if is_child else wishes.n_more))
        done = [search_stage(begun, examiner, is_child)]
        for stage in stages:
            done.append(search_stage(stack.enter_context(stage), examiner, is_child))
        shown = None if is_child else say_held_out
        failures = hold_out(done, examiner, held, wishes.finalists, shown)
        result = judge(done, held, wishes.finalists, failures)
        if is_child:
            return
        for child in children:
            child.wait()
        store.book.put_note(store.note_key("result"), json.dumps(result_json(result)))
        _write(wishes, recipe, store, result)
        print_result(store, result, wishes.json_)


def _one_more_hand(
    wishes: Wishes, recipe: Recipe, layout: Layout, exam: Exam, held: Exam, examiner: Examiner
) -> None:
    """Draw what a study has left to draw, as a further process of the command does."""
    from stockpot.tune import hold_out, open_store

    folder = wishes.recipe_file.parent
    with ExitStack() as stack:
        store = stack.enter_context(open_store(wishes.study))
        done = [
            search_stage(stack.enter_context(stage), examiner, False, last=False)
            for stage in stages_of(wishes, store, recipe, layout, exam, folder)
        ]
        hold_out(done, examiner, held, wishes.finalists, say_held_out)


def say_held_out(name: str) -> None:
    """Say what is drawn for the verdict.

    Args:
        name: Of the candidate.
    """
    note(f"held out: {name}")


def tuned_recipe(path: Path, *, outside: bool = False) -> tuple[Recipe, Layout]:
    """Read a recipe to tune, and find the architecture of its pool.

    Args:
        path: The recipe, of any format.
        outside: Whether its paths may leave its folder.
    """
    imported = read_any(path)
    recipe = imported.recipe.resolve_pool(path.parent, absolute=True, outside=outside)
    layout = find_layout(replace(imported, recipe=recipe), path.parent, None, strict=False)
    return recipe, layout


def first_mix(wishes: SearchOptions, recipe: Recipe, layout: Layout) -> Recipe | None:
    """Look at what is asked for before a study is begun, and fill the recipe in the middle.

    Args:
        wishes: The options.
        recipe: With holes.
        layout: Of the pool.

    Returns:
        The recipe without holes, to see whether it can be drawn; None where the study was begun
        before.

    Raises:
        StockpotError: The recipe has no holes, or there is no such space, optimiser or known
            recipe.
    """
    from stockpot.tune import check_optimiser, fill_holes, find_holes, is_begun

    holes = find_holes(recipe)
    if not holes:
        raise StudyError("the recipe has nothing to tune; write search(0, 1) in the place of a "
                         "number")  # fmt: skip
    if is_begun(wishes.study):
        return None
    check_optimiser(wishes.optimiser, len(objectives_of(wishes)))
    known_recipes(wishes.known or [], recipe)
    for kind in (wishes.space, *([wishes.refine] if wishes.refine else [])):
        space_of(holes, recipe, layout, kind, wishes.group, wishes.freeze)
    space = space_of(holes, recipe, layout, "each")
    return fill_holes(recipe, space.fill(space.start))


def objectives_of(wishes: SearchOptions) -> tuple[str, ...]:
    """What is maximised, by name.

    Args:
        wishes: The options.
    """
    from stockpot.tune import NEAR

    return (*dict.fromkeys(wishes.score), *([NEAR] if wishes.near_uniform else []))


def space_of(
    holes: tuple[Hole, ...],
    recipe: Recipe,
    layout: Layout,
    kind: str,
    group: list[str] | None = None,
    freeze: list[str] | None = None,
) -> Space:
    """Make the space that options describe.

    Args:
        holes: Of the recipe.
        recipe: With holes.
        layout: Of the pool.
        kind: As for `stockpot.tune.make_space`.
        group: Patterns of names with commas between.
        freeze: Patterns of names, ``=``, a number.
    """
    from stockpot.tune import make_space, sums_of_models

    fixed: dict[str, Fraction] = {}
    for text in freeze or []:
        pattern, equals, number = text.rpartition("=")
        names = _matching(pattern, holes, text)
        try:
            value = Fraction(number)
        except (ValueError, ZeroDivisionError):
            raise typer.BadParameter(f"--freeze takes 'HOLES=NUMBER', but got {text!r}") from None
        fixed |= dict.fromkeys(names, value)
    groups = [
        [name for pattern in text.split(",") for name in _matching(pattern, holes, text)]
        for text in group or []
    ]
    return make_space(holes, kind, groups=groups, fixed=fixed,
                      sums=sums_of_models(recipe, holes, layout))  # fmt: skip


def _matching(pattern: str, holes: tuple[Hole, ...], text: str) -> list[str]:
    names = [hole.name for hole in holes if fnmatchcase(hole.name, pattern.strip())]
    if not names:
        known = ", ".join(hole.name for hole in holes[:30])
        raise typer.BadParameter(f"{text!r}: no hole is called {pattern!r}; there are {known}")
    return names


def exams_of(wishes: SearchOptions) -> tuple[Exam, Exam]:
    """Read the exam of a search, and what others are held out from.

    Args:
        wishes: The options.
    """
    from stockpot.draw import read_wildcards
    from stockpot.tune import read_exam

    lists = {} if wishes.wildcards is None else read_wildcards(wishes.wildcards)

    def read(paths: list[Path], repeats: int) -> Exam:
        return read_exam(
            paths, repeats=repeats, size=_size(wishes.size), steps=wishes.steps,
            hires=wishes.hires, lists=lists,
        )  # fmt: skip

    exam = read(wishes.payloads, wishes.repeats)
    for problem in dict.fromkeys(map(str, exam.notes)):
        note(f"note: {problem}")
    other = exam if wishes.held_out is None else read(wishes.held_out, 1)
    return exam, other


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"--size must be like 512x768, but got {text!r}")
    return int(width), int(height)


def stages_of(
    wishes: SearchOptions,
    store: StudyStore,
    recipe: Recipe,
    layout: Layout,
    exam: Exam,
    folder: Path,
    *,
    seed: int | None = None,
    baselines: BaselineMaker | None = None,
) -> Iterator[Search]:
    """Begin one search, and with --refine, when that has ended, another one around its best.

    Args:
        wishes: The options.
        store: Where the study is kept.
        recipe: With holes.
        layout: Of the pool.
        exam: What candidates draw.
        folder: Where the recipe's paths start.
        seed: Of the optimiser; by default what the options say.
        baselines: What gives them; by default `make_baselines`, and what is known.
    """
    from stockpot.tune import (
        Baseline,
        Limits,
        Search,
        SearchSettings,
        fill_holes,
        find_holes,
        make_baselines,
        make_space,
        nearness_to_uniform,
        sums_of_models,
    )

    holes = find_holes(recipe)
    space = space_of(holes, recipe, layout, wishes.space, wishes.group, wishes.freeze)
    sums = sums_of_models(recipe, holes, layout)
    settings = SearchSettings(
        objectives_of(wishes), scorers_of(wishes), wishes.tally, wishes.optimiser,
        wishes.seed if seed is None else seed, wishes.space, wishes.stop or None,
    )  # fmt: skip
    limits = Limits(wishes.trials, wishes.patience, wishes.images,
                    None if wishes.hours is None else wishes.hours * 3600)  # fmt: skip
    if baselines is None:
        made = make_baselines(recipe, holes, layout, sums=sums, fixed=space.fixed)
        made += known_recipes(wishes.known or [], recipe)
    else:
        made = baselines(recipe, holes, layout, sums=sums, fixed=space.fixed)
    nearness = nearness_to_uniform(recipe, layout) if wishes.near_uniform else None
    search = partial(Search, recipe=recipe, exam=exam, limits=limits, nearness=nearness,
                     pool=identity_of(recipe, folder), keep_pictures=wishes.pictures)  # fmt: skip
    yield search(store, space=space, settings=settings, baselines=made)
    if wishes.refine is None:
        return
    values = _best_values(store)
    fine = make_space(holes, wishes.refine, fixed=space.fixed, sums=sums, around=values,
                      radius=wishes.radius)  # fmt: skip
    start = fine.fill(fine.start)
    begin = Baseline("coarse best", fill_holes(recipe, start), start)
    yield search(store.named(f"{store.name} fine"), space=fine,
                 settings=replace(settings, space=wishes.refine), baselines=[begin])  # fmt: skip


def _best_values(store: StudyStore) -> dict[str, Fraction]:
    """The values of the best of a stage. The first worker to look decides, for all of them."""
    key = store.note_key("refined around")
    text = store.book.note(key)
    if text is None:
        found = [t for t in store.all_trials() if t.state.name == "COMPLETE"
                 and t.user_attrs.get("values") and not t.user_attrs.get("imported")]  # fmt: skip
        if not found:
            raise StudyError(f"{store.where}: nothing was found that could be refined")
        best = max(found, key=lambda trial: (trial.values[0], -trial.number))
        text = json.dumps(best.user_attrs["values"])
        store.book.put_note(key, text)
    return {name: Fraction(value) for name, value in json.loads(text).items()}


def known_recipes(paths: list[Path], recipe: Recipe) -> tuple[Baseline, ...]:
    """Read recipes that somebody found good.

    Args:
        paths: Recipes over names of the pool.
        recipe: What is searched.
    """
    from stockpot.recipes import name_of_file
    from stockpot.tune import Baseline, read_values

    found = []
    for path in paths:
        other = read_any(path).recipe
        strange = [name for name in other.pool if name not in recipe.pool]
        if strange:
            raise StudyError(
                f"{path}: a known recipe must use the names of {', '.join(recipe.pool)}, but it "
                f"has {strange[0]}"
            )
        given = replace(other, pool=recipe.pool, save=recipe.save, origin=None)
        found.append(
            Baseline(f"known {name_of_file(str(path))}", given, read_values(recipe, given))
        )
    return tuple(found)


def identity_of(recipe: Recipe, folder: Path) -> str:
    """What tells the pool's files from others of the same names: sizes and times of change.

    Args:
        recipe: Whose pool it is.
        folder: Where its paths start.
    """
    told = []
    for name, entry in sorted(recipe.pool.items()):
        path = folder / entry.file
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                facts = file.stat()
            except OSError:
                continue  # opening the pool says so, for all files at once
            told.append(f"{name}: {file.name} {facts.st_size} {facts.st_mtime_ns}")
    return "\n".join(told)


def search_stage(search: Search, examiner: Examiner, quiet: bool, last: bool = True) -> Search:
    """Run a search to its end, and say how it goes.

    Args:
        search: What to run.
        examiner: Draws and scores.
        quiet: Whether to say nothing.
        last: Whether nobody else says that it has ended.
    """
    from stockpot.tune import run_search

    start = time.monotonic()

    def told(candidate: Candidate) -> None:
        trial = search.store.trials.get_trial(candidate.trial_id)
        values = trial.values or []
        text = " ".join(f"{value:.4g}" for value in values)
        if trial.state.name == "PRUNED":
            text += f" (stopped after {len(candidate.marks)} pictures)"
        if trial.state.name == "FAIL":
            text = f"failed: {trial.user_attrs.get('error', '')}"
        name = f" ({candidate.name})" if candidate.name else ""
        note(f"trial {candidate.number}{name}: {text}, {time.monotonic() - start:.0f} s")

    run_search(search, examiner, None if quiet else told)
    if not quiet and last:
        note(f"the search has ended: {search.why_done}")
    return search


def _write(wishes: Wishes, recipe: Recipe, store: StudyStore, result: Result) -> None:
    from stockpot.engine import Settings, merge
    from stockpot.recipes import Origin, Save
    from stockpot.tune import evidence

    chosen = result.winner
    told = json.dumps(evidence(result, chosen, store.settings() or {}), sort_keys=True)
    final = replace(
        chosen.recipe, pool=recipe.pool, save=Save(dtype=recipe.save.dtype),
        origin=Origin(TUNED, {"study": told}),
    )  # fmt: skip
    if wishes.output is not None:
        there = placed(final, wishes.recipe_file.parent, wishes.output.parent)
        write_text(wishes.output, there.to_yaml(), wishes.overwrite)
    if wishes.merge is not None:
        merge(final, wishes.merge, folder=wishes.recipe_file.parent,
              settings=Settings(overwrite=wishes.overwrite),
              metadata=study_metadata(final))  # fmt: skip
