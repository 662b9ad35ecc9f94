"""The program `stockpot`: its commands, and how errors become messages and exit codes.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

import stockpot
from stockpot.cli import (
    adapting,
    comparing,
    components,
    converging,
    drawing,
    explaining,
    gridding,
    inspecting,
    merging,
    methods,
    recipes,
    repairing,
    replaying,
    scoring,
    selecting,
    showing,
    studying,
    telling,
    tuning,
    tuning_study,
    tuning_tree,
)
from stockpot.cli.clustering import ClusterCommand
from stockpot.cli.output import safe_text
from stockpot.errors import StockpotError

__all__ = ["app", "main"]

_COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspecting.inspect_files,
    "mean": merging.mean_of_files,
    "merge": merging.merge_recipe,
    "swap": components.swap_components,
    "extract": components.extract_component,
    "inject": components.inject_components,
    "prune": components.prune_model,
    "unprune": components.unprune_model,
    "convert": components.convert_model,
    "repair": repairing.repair_file,
    "methods": methods.list_methods,
    "score": scoring.score_pictures,
    "compare": comparing.compare_files,
    "explain": explaining.explain_mix,
    "convergence": converging.trace_growth,
    "verify": telling.verify_file,
    "replay": replaying.replay_file,
    "draw": drawing.draw_pictures,
    "grid": gridding.draw_grid_of,
    "tune-tree": tuning_tree.tune_tree,
    "select": selecting.select_of_pool,
    "study": studying.study_pool,
    "demo": showing.demo,
}
# They end soon and leave no garbage in circles; to look for it costs a fifth of their start.
_SHORT = ("mean", "merge")
# They take --cluster, with an address or without.
_HELPED = ("mean", "merge", "compare", "select", "tune-tree")
_GROUPS = {"recipe": recipes.app, "lora": adapting.app, "tune": tuning.app}
tuning.app.command("status")(tuning_study.show_status)
tuning.app.command("report")(tuning_study.write_report)
tuning.app.command("import")(tuning_study.import_tables)
recipes.app.command("of")(telling.recipe_of_file)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"stockpot {stockpot.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error came from.")
    ] = False,
) -> None:
    """Options of the program itself; `main` looks for ``--debug``."""


def _program(names: Iterable[str]) -> typer.Typer:
    """Put commands together; those that nobody asks for would cost time at every start."""
    program = typer.Typer(
        name="stockpot",
        help="Merge any number of Stable Diffusion checkpoints into one, and know what is in it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(_options)
    for name in names:
        if name in _COMMANDS:
            kind = ClusterCommand if name in _HELPED else None
            program.command(name, cls=kind)(_COMMANDS[name])
        else:
            program.add_typer(_GROUPS[name], name=name)
    return program


app = _program([*_COMMANDS, *_GROUPS])


def main() -> None:
    """Run the program.

    Exit codes: 0 for success, 1 for an error, 2 for wrong usage; 130 after Ctrl-C and 143 after
    SIGTERM.
    """
    debug = "--debug" in sys.argv[1:]
    # It is allowed anywhere, also behind a command.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        # A user needs what a warning says, not the line of code that says it.
        warnings.formatwarning = lambda message, *_, **__: f"warning: {safe_text(str(message))}\n"
    try:
        known = arguments[:1] if {*arguments[:1]} & {*_COMMANDS, *_GROUPS} else []
        program = _program(known) if known else app
        if known and known[0] in _SHORT:
            gc.set_threshold(1_000_000)
            # Merges have threads of their own; numpy's would only wait for work, in a loop.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        code = program(args=arguments, prog_name="stockpot", standalone_mode=True)
    except StockpotError as error:
        if debug:
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        for line in lines:
            print(f"error: {safe_text(line)}", file=sys.stderr)
        for line in getattr(error, "__notes__", []):
            print(f"note: {safe_text(line)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if debug:
            raise
        print("stopped; nothing was saved", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away; say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # What no room could explain better: a folder that vanished, a disk that fails.
        if debug:
            raise
        place = safe_text(str(error.filename or "the system"))
        print(f"error: {place}: {error.strerror or error}; is the disk there, whole, and yours to "
              "use? --debug shows where it happened", file=sys.stderr)  # fmt: skip
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        text = "close other programs, or allow less with --memory and --threads"
        print(f"error: the system has no memory left; {text}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code)
