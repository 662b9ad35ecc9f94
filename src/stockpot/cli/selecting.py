"""``stockpot select``: which models, and which text encoders, to keep."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.atelier import refuse_existing, told_warnings
from stockpot.cli.clustering import OnCluster, crew_of
from stockpot.cli.naming import parse_pool
from stockpot.cli.output import note, print_json, print_table, safe_text
from stockpot.cli.recipe_files import placed
from stockpot.cli.sizes import CeilingForModels, memory_bytes
from stockpot.errors import Problem, RequestError

if TYPE_CHECKING:
    from stockpot.select import Evidence, Pool, Rule, Selection
    from stockpot.tune import Exam, Examiner, LiveExaminer

__all__ = ["select_of_pool"]

EVIDENCE, RESULT, PAGE = "evidence.jsonl", "selection.json", "selection.html"
RECIPE, CORE = "recipe.yaml", "core.yaml"
_HELD_OUT_SEED = 1


def select_of_pool(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    score: Annotated[
        str, typer.Option(help="A scorer, or a weighted sum of them; see `stockpot score`.")
    ],
    payloads: Annotated[
        list[Path], typer.Option(help="Payloads to draw: JSON files, or folders of them.")
    ],
    files: Annotated[
        list[str] | None, typer.Argument(help="Checkpoints: FILE, or NAME=FILE.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="The same: FILE, or NAME=FILE.")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="Add this to the pool of the finished selection in the folder; what was "
                     "measured for it is used again."),
    ] = None,
    plan: Annotated[
        str, typer.Option(help="author, greedy-soup, greedy-drop, leave-one-out or shapley.")
    ] = "author",
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Other payloads for the verdict; by default the same ones, with seeds "
                     "that no candidate was chosen by."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Pictures of each payload, with further seeds.")] = 1,
    held_out_repeats: Annotated[int, typer.Option(help="The same for the verdict.")] = 2,
    margin: Annotated[
        float,
        typer.Option(help="How much worse than the best a model may surely be, in standard "
                     "deviations of the best one's scores."),
    ] = 0.5,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Your pins and vetoes: a file that the page saves, or one by hand."),
    ] = None,
    stop_after: Annotated[
        str, typer.Option(help="te: stop when text encoders are judged, to decide yourself.")
    ] = "",
    core: Annotated[
        bool, typer.Option("--core/--no-core", help="Look for a smaller mix that is as good.")
    ] = True,
    vae: Annotated[
        str | None, typer.Option(help="Model whose VAE all candidates have; else the first's.")
    ] = None,
    size_scale: Annotated[float | None, typer.Option(help="Multiply all sizes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of all pictures.")] = None,
    most_candidates: Annotated[
        int | None, typer.Option(help="Stop after so many candidates.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    pictures: Annotated[
        int, typer.Option(help="Pictures of each candidate on the page; 0 for none.")
    ] = 4,
    score_files: Annotated[Path | None, typer.Option(help="Folder of scorers' files.")] = None,
    scales: Annotated[Path | None, typer.Option(help="Means and SDs for a weighted sum.")] = None,
    config: Annotated[Path | None, typer.Option(help="A diffusers folder.")] = None,
    memory: CeilingForModels = "8GiB",
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    cluster: OnCluster = None,
    workers: Annotated[
        int, typer.Option(help="With --cluster: workers on each node; 0: one, or one for each "
                          "graphics card.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and stop.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results; what was measured is kept.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Choose UNets and text encoders by swapping each into the mix; nothing is saved for it.

    Stopped, it goes on where it was when the same command is given again: marks are kept in the
    folder's evidence.jsonl.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.scores import Setting, make_scorer, read_scales
    from stockpot.select import Decisions, Rule, expected_cost, read_decisions, survey_members
    from stockpot.tune import CrewExaminer, check_memory, open_examiner, read_exam

    _check(plan, stop_after, margin, repeats, held_out_repeats)
    n_bytes = memory_bytes(memory)
    paths = _pool(output, files, pool, add)
    if not dry_run:
        refuse_existing([output / name for name in (RESULT, PAGE, RECIPE, CORE)],
                        overwrite or bool(add))  # fmt: skip
    said = read_decisions(decisions) if decisions is not None else Decisions()
    exam = read_exam(payloads, repeats=repeats, size_scale=size_scale, steps=steps)
    other = read_exam(held_out or payloads, size_scale=size_scale, steps=steps)
    hidden = other.held_out(_HELD_OUT_SEED, repeats=held_out_repeats, avoid=exam)
    for problem in exam.notes:
        note(f"note: {problem}")
    known = read_scales(scales) if scales is not None else None
    scorer = make_scorer(score, Setting(score_files, device), known)
    with ExitStack() as stack, told_warnings():
        sources = {name: stack.enter_context(open_checkpoint(path)) for name, path in paths.items()}
        check_memory(sources, n_bytes, dtype)  # before every file is read
        surveyed = survey_members(sources, paths, vae)
        _tell_pool(surveyed)
        cost = expected_cost(surveyed, plan, len(exam.tasks), len(hidden.tasks), core)
        note(f"at most {cost.candidates} candidates, {cost.pictures} pictures, those of an earlier "
             "run not taken off")  # fmt: skip
        if dry_run:
            return
        output.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {
            "memory": n_bytes, "config": config, "device": device, "dtype": dtype
        }  # fmt: skip
        crew = stack.enter_context(
            crew_of(cluster, threads=max(1, workers), workers=workers,
                    gpus=device.startswith("cuda"))
        )  # fmt: skip
        examiner: Examiner
        if crew is None:
            examiner = open_examiner(sources, {score: scorer}, **options)
        else:
            # One by one: who draws what, and who is lost, must not show in any picture.
            opening = partial(
                open_elsewhere, {name: str(Path(path).absolute()) for name, path in paths.items()},
                score, _absolute(score_files), known,
                options | {"config": _absolute(config), "batch": 1},
            )  # fmt: skip
            examiner = CrewExaminer(crew, opening, crew.n_workers)
        stack.enter_context(examiner)
        limits = (most_candidates, None if time_limit is None else 60 * time_limit)
        rule = Rule(margin)
        evidence, found = _run(
            output, surveyed, exam, hidden, examiner, score, limits, plan, rule, said, stop_after,
            core, cost.candidates,
        )  # fmt: skip
        stack.enter_context(evidence)
        asked = {"pool": dict(paths), "plan": plan, "score": score, "margin": margin}
        _write(output, evidence, found, examiner, pictures, asked, overwrite or bool(add))
    if json_:
        print_json(json.loads((output / RESULT).read_text(encoding="utf-8")))
    else:
        _print(surveyed, found, output)


def open_elsewhere(
    paths: dict[str, str], score: str, score_files: Path | None, scales: Any,
    options: dict[str, Any],
) -> LiveExaminer:  # fmt: skip
    """Open a selection's examiner where a worker of a cluster runs.

    Args:
        paths: The pool's files by name.
        score: The scorer.
        score_files: Folder of scorers' files.
        scales: For a weighted sum.
        options: Of `stockpot.tune.open_examiner`.
    """
    from stockpot.recipes import make_recipe
    from stockpot.scores import Setting, make_scorer
    from stockpot.tune import open_examiner

    scorer = make_scorer(score, Setting(score_files, options["device"]), scales)
    return open_examiner(make_recipe("mean(pool)", paths), {score: scorer}, **options)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _check(plan: str, stop_after: str, margin: float, repeats: int, held_out: int) -> None:
    from stockpot.select import PLANS

    if plan not in PLANS:
        raise typer.BadParameter(f"--plan must be one of {', '.join(PLANS)}, but got {plan!r}")
    if stop_after not in ("", "te") or (stop_after and plan != "author"):
        raise typer.BadParameter("--stop-after takes te, and belongs to the plan author")
    if margin < 0 or repeats < 1 or held_out < 1:
        raise typer.BadParameter("--margin must be 0 or more, --repeats 1 or more")


def _pool(
    output: Path, files: list[str] | None, pool: list[str] | None, add: list[str] | None
) -> dict[str, str]:
    """Files by name: those named, or those of the finished selection and what is added."""
    named = parse_pool([*(files or []), *(pool or [])])
    if add:
        result = output / RESULT
        try:
            before = json.loads(result.read_text(encoding="utf-8"))["asked"]["pool"]
            before = {str(name): str(path) for name, path in before.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise RequestError(
                [Problem("add", "--add goes on from a finished selection, but there is none",
                         str(result), "name all files instead")]
            ) from None  # fmt: skip
        named = {**before, **named, **parse_pool(add)}
    if len(named) < 2:
        raise typer.BadParameter("a selection needs at least two models: FILE …, or --pool FILE")
    return named


def _tell_pool(pool: Pool) -> None:
    for name, reason in pool.aside.items():
        note(f"note: {name} is set aside: {reason}")
    for part, words in (("unet", "UNet"), ("te", "text encoder")):
        copies: dict[str, list[str]] = {}
        for name, owner in pool.twins(part).items():
            copies.setdefault(owner, []).append(name)
        for owner, names in copies.items():
            note(f"note: the {words} of {', '.join(names)} is that of {owner}, bit by bit")


def _run(
    output: Path, pool: Pool, exam: Exam, hidden: Exam, examiner: Examiner, score: str,
    limits: tuple[int | None, float | None], plan: str, rule: Rule, said: Any, stop_after: str,
    core: bool, most: int,
) -> tuple[Evidence, Selection]:  # fmt: skip
    from stockpot.select import Evidence, select_models

    start = time.monotonic()

    def tell(line: str) -> None:
        spent = time.monotonic() - start
        number = int(line.partition(":")[0])
        each = spent / number
        note(f"candidate {line} ({each:.1f} s each; at most {each * (most - number) / 60:.0f} min "
             "more)")  # fmt: skip

    evidence = Evidence(
        output / EVIDENCE, pool, exam, examiner, score,
        most_candidates=limits[0], most_s=limits[1], progress=tell,
    )  # fmt: skip
    found = select_models(
        evidence, hidden, plan=plan, rule=rule, decisions=said, stop_after=stop_after, core=core
    )
    return evidence, found


def _write(
    output: Path, evidence: Evidence, found: Selection, examiner: Examiner, n_pictures: int,
    asked: dict[str, Any], overwrite: bool,
) -> None:  # fmt: skip
    from stockpot.cli.figure_files import write_charts
    from stockpot.cli.selecting_page import selection_json, selection_page, small_sheets
    from stockpot.draw import write_file
    from stockpot.report import write_page

    pool = evidence.pool
    recipe, core = (placed(pool.recipe(choice), Path(), output).to_yaml()
                    for choice in (found.outcome.choice, found.core))  # fmt: skip
    write_file(output / RECIPE, recipe.encode())
    write_file(output / CORE, core.encode())
    sheets = small_sheets(evidence, found, examiner, n_pictures) if n_pictures else {}
    page, charts = selection_page(pool, evidence, found, sheets, recipe, core)
    write_charts(charts, output / "figures", overwrite=overwrite)
    write_page(page, output / PAGE, overwrite=overwrite)
    # The result last: where it is, all is.
    text = json.dumps(selection_json(pool, evidence, found, asked), indent=2, ensure_ascii=False)
    write_file(output / RESULT, (text + "\n").encode())


def _print(pool: Pool, found: Selection, output: Path) -> None:
    from stockpot.select import used_table

    for step in found.outcome.steps:
        if step.decisions:
            print_table(
                ["model", "", ">score", ">against the best", "why"],
                (
                    [one.name, "stays" if one.kept else "goes", f"{one.score:.4f}",
                     f"{one.difference:+.4f} ({one.low:+.4f} … {one.high:+.4f})", one.why]
                    for one in step.decisions
                ),
                step.title,
            )  # fmt: skip
    print_table(
        ["model", "UNet used?", "CLIP used?"],
        ([name, "Y" if unet else "", "Y" if encoder else ""]
         for name, unet, encoder in used_table(pool, found.outcome.choice)),
    )  # fmt: skip
    if found.verdict is not None:
        typer.echo(safe_text(found.verdict.text))
    typer.echo(safe_text(f"core: {found.core}"))
    if found.core_verdict is not None:
        typer.echo(safe_text(f"the core: {found.core_verdict.text}"))
    typer.echo(f"{found.n_candidates} candidates examined, {found.n_reused} known before")
    if found.stopped:
        typer.echo(safe_text(f"stopped early: {found.stopped}"))
    merge = f"stockpot merge {output / RECIPE} -o MIX.safetensors"
    typer.echo(safe_text(f"see {output / PAGE}; merge with: {merge}"))
