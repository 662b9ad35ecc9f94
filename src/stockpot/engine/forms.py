"""The forms in which a merged model is written: a checkpoint, one component's file, a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stockpot.checkpoints import (
    DTYPES,
    Arrangement,
    FileSink,
    FolderSink,
    Place,
    RenamingSink,
    Sink,
    TensorInfo,
)
from stockpot.engine.pipelines import pipeline_texts
from stockpot.engine.plan import Plan, TensorPlan
from stockpot.errors import PreflightError, Problem
from stockpot.layouts import diffusers_places
from stockpot.recipes import Recipe

__all__ = ["Form", "Pipeline", "arranged", "in_form", "make_sink"]

Form = Literal["checkpoint", "bare", "diffusers"]

"""``checkpoint``: one file, keys with their component's prefix. ``bare``: one component's file,
keys without it, as programs want a VAE, a text encoder or a UNet alone. ``diffusers``: a folder
with a file for each component, and their configurations."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a diffusers folder holds besides weights.

    Attributes:
        config: A diffusers folder to take configurations, the scheduler's file and tokenizers
            from. None: they follow from the architecture, and there is no tokenizer.
        prediction: What the UNet predicts, ``epsilon`` or ``v_prediction``. None: the model's
            marker says so, else `config`, else noise.

    Example:
        >>> Pipeline(prediction="v_prediction").config is None
        True
    """

    config: Path | None = None
    prediction: str | None = None


def in_form(recipe: Recipe, form: Form) -> Recipe:
    """The same recipe, written in another form.

    Args:
        recipe: Any recipe.
        form: ``checkpoint`` is what is meant where a recipe says nothing.

    Returns:
        The recipe that says so.
    """
    said = None if form == "checkpoint" else form
    return replace(recipe, save=replace(recipe.save, form=said))


def arranged(
    plan: Plan, pipeline: Pipeline = Pipeline()  # noqa: B008 - frozen
) -> tuple[Plan, Arrangement | None]:  # fmt: skip
    """Fit a plan to the form in which its recipe wants the result.

    Args:
        plan: What will be done.
        pipeline: For a diffusers folder.

    Returns:
        The plan without what the form has no place for, which its notes name, and where its
        tensors go; None where they go under their own names into one file.

    Raises:
        PreflightError: The result does not suit the form.
        LayoutError: Nobody knows what the keys are called in diffusers.
    """
    form = plan.fold.recipe.save.form
    if form == "bare":
        return plan, _bare(plan)
    if form == "diffusers":
        return _diffusers(plan, pipeline)
    return plan, None


def make_sink(
    path: Path,
    plan: Plan,
    arrangement: Arrangement | None,
    metadata: Mapping[str, str],
    *,
    overwrite: bool,
    verify: bool,
    facts: Mapping[str, str] | None = None,
    restart: bool = False,
    recheck: bool = False,
) -> Sink:
    """Open the output.

    Args:
        path: Its final name.
        plan: What will be written.
        arrangement: Where tensors go.
        metadata: A stand-in of at least the final length.
        overwrite: Whether a file may be replaced; a folder never is.
        verify: Whether to read everything back.
        facts: What a stopped run must have had in common to be gone on from; None: it never is.
        restart: Throw away what a stopped run left.
        recheck: Read again all that it left.

    Returns:
        The sink.
    """
    files = arrangement.infos(plan.infos) if arrangement is not None else {"": plan.infos}
    if arrangement is not None and list(files) != [""]:
        return FolderSink(
            path, arrangement, plan.infos, metadata, verify=verify, facts=facts, restart=restart,
            recheck=recheck,
        )  # fmt: skip
    sink = FileSink(
        path, files[""], metadata, overwrite=overwrite, verify=verify, facts=facts,
        restart=restart, recheck=recheck,
    )  # fmt: skip
    return sink if arrangement is None else RenamingSink({"": sink}, arrangement, plan.infos)


def _bare(plan: Plan) -> Arrangement:
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
    relative = plan.layout.relative_key
    return Arrangement(
        {
            key: (Place("", relative(key), info.shape, 0, info.n_elements),)
            for key, info in plan.infos.items()
        }
    )


def _diffusers(plan: Plan, pipeline: Pipeline) -> tuple[Plan, Arrangement]:
    layout = plan.layout
    tensors = {}
    for key, tensor in plan.tensors.items():
        spec = layout.spec_of(key)
        # The same numbers in the layout's shape, as the folder will be read.
        shape = spec.shape if spec and spec.accepts(tensor.info.shape) else tensor.info.shape
        tensors[key] = replace(tensor, info=replace(tensor.info, shape=shape))
    places = diffusers_places(layout, {key: tensor.info for key, tensor in tensors.items()})
    markers = {} if layout.name == "sd2" else _markers(plan)
    kept = {key: tensor for key, tensor in tensors.items() if key in places} | markers
    left_out = [
        key
        for key in tensors
        if key not in kept and layout.cell_of(key).component != "other"
        and not _is_counter(plan, key)
    ]  # fmt: skip
    notes = [*plan.notes]
    if left_out:
        shown = ", ".join(left_out[:_SHOWN]) + (", …" if len(left_out) > _SHOWN else "")
        notes.append(
            Problem(
                "no-place",
                f"left out, because diffusers has no place for them: {len(left_out)} of the keys",
                shown,
            )
        )
    texts, text_notes = pipeline_texts(
        plan, pipeline.config, pipeline.prediction, zero_snr="ztsnr" in plan.tensors
    )
    if not places:
        raise PreflightError([Problem("empty", "nothing is left that diffusers has a place for")])
    plan = replace(plan, tensors=kept, notes=(*notes, *text_notes))
    return plan, Arrangement({**places, **dict.fromkeys(markers, ())}, texts)


def _markers(plan: Plan) -> dict[str, TensorPlan]:
    """Markers stand in the scheduler's file; they are read back as tensors without elements."""
    found = {}
    for key in ("v_pred", "ztsnr"):
        if key in plan.tensors:
            info = TensorInfo(key, DTYPES["F32"], (0,))
            found[key] = TensorPlan(info, plan.tensors[key].cell, "make")
    return found


def _is_counter(plan: Plan, key: str) -> bool:
    spec = plan.layout.spec_of(key)
    return spec is not None and spec.role == "counter"
