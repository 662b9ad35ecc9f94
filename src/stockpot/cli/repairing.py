"""``stockpot repair``: a damaged checkpoint in, a mended copy out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.merging import Restart
from stockpot.cli.output import note, print_json, safe_text, shown_progress
from stockpot.cli.stopping import stoppable

if TYPE_CHECKING:
    from stockpot.errors import Problem
    from stockpot.inspect import RepairPlan

__all__ = ["repair_file"]

_SHOWN = 10


def repair_file(
    file: Annotated[Path, typer.Argument(help="The damaged checkpoint; it is never changed.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The mended copy.")] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="A whole model of the same kind, to take missing and broken values from."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = (
        False
    ),
    restart: Restart = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Mend a checkpoint: position ids, names, shapes; with --base missing tensors and NaN too.

    All values are read first. Exit code 1 where nothing can be mended or a base is needed.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.errors import OutputExistsError
    from stockpot.inspect import Wanted, inspect_checkpoint, plan_repair, repair

    if output is None and not dry_run:
        raise typer.BadParameter("say where the mended copy goes, with -o; or try --dry-run")
    if output is not None and output.exists() and not overwrite and not dry_run:
        raise OutputExistsError(f"{output}: the file exists; --overwrite replaces it")
    with ExitStack() as stack:
        source = stack.enter_context(open_checkpoint(file))
        reference = stack.enter_context(open_checkpoint(base)) if base is not None else None
        plan = plan_repair(source, reference)
        if dry_run or output is None:
            _show(file, None, plan, (), json_)
            raise typer.Exit(1 if plan.needs_base or not plan.mended else 0)
        with stoppable() as stop, shown_progress() as progress:
            result = repair(
                source, output, base=reference, plan=plan, overwrite=overwrite, restart=restart,
                progress=progress, stop=stop, tell=note,
            )  # fmt: skip
    for problem in result.notes:
        note(f"note: {problem}")
    with open_checkpoint(output) as mended:
        after = inspect_checkpoint(mended, Wanted(deep=True))
    _show(file, output, plan, after.problems, json_)


def _show(
    file: Path,
    output: Path | None,
    plan: RepairPlan,
    after: tuple[Problem, ...],
    json_: bool,
) -> None:
    if json_:
        print_json(
            {
                "path": str(file),
                "output": str(output) if output is not None else None,
                "mended": _plain(plan.mended),
                "needs_base": _plain(plan.needs_base),
                "left": _plain(after if output is not None else plan.left),
            }
        )
        return
    done = "mended" if output is not None else "would be mended"
    _print(f"{done}:", plan.mended)
    _print("needs --base:", plan.needs_base)
    _print("stays:", after if output is not None else plan.left)
    if not plan.mended and not plan.needs_base:
        typer.echo(f"{safe_text(str(file))}: no problem that a repair would mend")
    if output is not None:
        typer.echo(f"{safe_text(str(output))}: written")


def _plain(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
    return [{"code": p.code, "key": p.where, "message": p.message} for p in problems]


def _print(heading: str, problems: tuple[Problem, ...]) -> None:
    if problems:
        typer.echo(heading)
    for problem in problems[:_SHOWN]:
        place = f"{problem.where}: " if problem.where else ""
        typer.echo(safe_text(f"  {problem.code}: {place}{problem.message}"))
    if len(problems) > _SHOWN:
        typer.echo(f"  … and {len(problems) - _SHOWN} more")
