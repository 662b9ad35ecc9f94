"""The forms in which a merged model is written: a checkpoint, one component's file, a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from stockpot.checkpoints import (
    Arrangement,
    FileSink,
    FolderSink,
    Place,
    RenamingSink,
    Sink,
)
from stockpot.engine.plan import Plan
from stockpot.errors import PreflightError, Problem

__all__ = ["FORMS", "Form", "arranged", "make_sink"]

Form = Literal["checkpoint", "bare"]

FORMS: tuple[Form, ...] = ("checkpoint", "bare")
"""``checkpoint``: one file, keys with their component's prefix. ``bare``: one component's file,
keys without it, as programs want a VAE, a text encoder or a UNet alone."""


def arranged(plan: Plan, form: Form) -> tuple[Plan, Arrangement | None]:
    """Fit a plan to the form in which its result is written.

    Args:
        plan: What will be done.
        form: One of `FORMS`.

    Returns:
        The plan without what the form has no place for, which its notes name, and where its
        tensors go; None where they go under their own names into one file.

    Raises:
        PreflightError: The result does not suit the form.
    """
    if form == "bare":
        return _bare(plan)
    return plan, None


def make_sink(
    path: Path,
    plan: Plan,
    arrangement: Arrangement | None,
    metadata: Mapping[str, str],
    *,
    overwrite: bool,
    verify: bool,
) -> Sink:
    """Open the output.

    Args:
        path: Its final name.
        plan: What will be written.
        arrangement: Where tensors go.
        metadata: A stand-in of at least the final length.
        overwrite: Whether a file may be replaced; a folder never is.
        verify: Whether to read everything back.

    Returns:
        The sink.
    """
    if arrangement is None:
        return FileSink(
            path, plan.infos, metadata, overwrite=overwrite, verify=verify, plan=plan.digest
        )
    files = arrangement.infos(plan.infos)
    if list(files) == [""]:
        sink = FileSink(
            path, files[""], metadata, overwrite=overwrite, verify=verify, plan=plan.digest
        )
        return RenamingSink({"": sink}, arrangement, plan.infos)
    return FolderSink(path, arrangement, plan.infos, metadata, verify=verify, plan=plan.digest)


def _bare(plan: Plan) -> tuple[Plan, Arrangement]:
    found = dict.fromkeys(tensor.cell.component for tensor in plan.tensors.values())
    if len(found) != 1 or not plan.layout.n_required.get(next(iter(found))):
        raise PreflightError(
            [
                Problem(
                    "not-one-component",
                    "a file without prefixes holds one component (a UNet, a text encoder or a "
                    f"VAE), but this would hold {', '.join(found)}",
                    remedy="name one of them, or keep the prefixes",
                )
            ]
        )
    places = {}
    for key, tensor in plan.tensors.items():
        info = tensor.info
        name = plan.layout.relative_key(key)
        places[key] = (Place("", name, info.shape, 0, info.n_elements),)
    return plan, Arrangement(places)
