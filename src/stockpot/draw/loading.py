"""From a checkpoint in the original names to the parts of a diffusers pipeline.

The layout says which keys a component has and under which other names files carry them; diffusers'
own converter, which reads dictionaries as well as files, renames what is left. Nothing touches a
disk but the source itself, so a merge in memory loads like a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.checkpoints import Source
from stockpot.draw.libraries import require_libraries
from stockpot.errors import LayoutError
from stockpot.layouts import Component, Layout, detect

if TYPE_CHECKING:
    import torch

__all__ = ["DRAWABLE", "Parts", "load_parts"]

DRAWABLE = ("sd1", "zoo")
"""Layouts that can be drawn."""

_SHOWN = 3


@dataclass(frozen=True)
class Parts:
    """What a picture is made with.

    Attributes:
        name: The checkpoint's name, for messages.
        unet: diffusers' `UNet2DConditionModel`.
        vae: diffusers' `AutoencoderKL`.
        text_encoder: transformers' `CLIPTextModel`.
        tokenizer: transformers' `CLIPTokenizer`.
        noise: The noise schedule, as in ``scheduler_config.json``, its ``prediction_type`` set.
    """

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: dict[str, Any]


def load_parts(
    model: Source,
    config: Path,
    *,
    vae: Source | None = None,
    te: Source | None = None,
    prediction: str | None = None,
    device: str = "cpu",
) -> Parts:
    """Load every part of a model, in float32.

    Args:
        model: A checkpoint of one of the layouts in `DRAWABLE`; position ids, EMA copies,
            schedules and NovelAI's text encoder names do not disturb.
        config: A diffusers folder; its weights, if any, are not read.
        vae: Where to take the VAE from instead: a checkpoint, or a file of the VAE alone.
        te: Where to take the text encoder from instead.
        prediction: ``epsilon`` or ``v_prediction``; by default ``v_prediction`` where the model has
            the ``v_pred`` marker, else what the folder says.
        device: A torch device.

    Returns:
        The parts, in evaluation mode.

    Raises:
        LayoutError: The architecture cannot be drawn, a component is missing or incomplete, or
            the folder describes another model.
        MissingExtraError: diffusers is not installed.
    """
    require_libraries()
    layout = _drawable_layout(model)
    states = {
        name: _read_component(source or model, layout, name, model)
        for name, source in (("unet", None), ("te", te), ("vae", vae))
    }
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTokenizer

    return Parts(
        model.name,
        _converted(UNet2DConditionModel, states["unet"], config, "unet", model.name).to(device),
        _converted(AutoencoderKL, states["vae"], config, "vae", (vae or model).name).to(device),
        _text_encoder(states["te"], layout, config, (te or model).name).to(device),
        CLIPTokenizer.from_pretrained(str(config / "tokenizer"), local_files_only=True),
        _noise(model, config, prediction),
    )


def _drawable_layout(model: Source) -> Layout:
    answer = detect({key: info.shape for key, info in model.tensors.items()})
    if answer.layout.name not in DRAWABLE:
        raise LayoutError(
            f"{model.name}: drawing knows the layouts {', '.join(DRAWABLE)}, but this file is "
            f"{answer.layout.title} ({'; '.join(answer.evidence)})"
        )
    return answer.layout


def _read_component(
    source: Source, layout: Layout, name: str, model: Source
) -> dict[str, torch.Tensor]:
    """All required weights of a component, by canonical key, in canonical shapes."""
    component = next(part for part in layout.components if part.name == name)
    shapes = {key: info.shape for key, info in source.tensors.items()}
    fit = layout.fit(shapes)
    added = ""
    if name in fit.missing_components:
        # A file of one component has its keys without the prefix.
        added = component.prefix
        fit = layout.fit({added + key: shape for key, shape in shapes.items()})
    wrong = [item for item in fit.mismatched if item[0].startswith(component.prefix)]
    if wrong:
        key, got, expected = wrong[0]
        raise LayoutError(
            f"{source.name}: {key.removeprefix(added)}: {layout.title} has {list(expected)} here, "
            f"but got {list(got)}"
        )
    missing = fit.missing_in.get(name, ())
    if missing:
        raise LayoutError(_missing_message(source, component, missing, fit.missing_components))
    found = {}
    for key in source.tensors:
        spec = layout.spec_of(added + key)
        if spec is None or spec.optional or spec.cell.component != name:
            continue
        if spec.key != added + key and spec.key in found:
            continue  # two names for one tensor: the canonical one counts
        found[spec.key] = _read_tensor(source, key).reshape(spec.shape)
    return found


def _missing_message(
    source: Source, component: Component, missing: tuple[str, ...], absent: tuple[str, ...]
) -> str:
    remedy = {"vae": "; give one with vae=", "te": "; give one with te="}.get(component.name, "")
    if component.name in absent:
        return f"{source.name}: the checkpoint has no {component.title}{remedy}"
    names = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
    return (
        f"{source.name}: the {component.title} lacks {len(missing)} of its keys ({names}); "
        f"the file is incomplete{remedy}"
    )


def _read_tensor(source: Source, key: str) -> torch.Tensor:
    import torch

    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    info = source.info(key)
    kind = kinds.get(info.dtype.name)
    if kind is None:
        raise LayoutError(f"{source.name}: {key}: weights must be floats, but got {info.dtype}")
    data = torch.empty(info.n_bytes, dtype=torch.uint8)
    source.read_into(key, 0, info.n_elements, data.numpy().data)
    return data.view(kind).to(torch.float32).reshape(info.shape)


def _converted(
    kind: Any, state: dict[str, torch.Tensor], config: Path, folder: str, name: str
) -> Any:
    """Load a state in the original names into a diffusers model, all of it."""
    n_elements = sum(tensor.numel() for tensor in state.values())
    try:
        module = kind.from_single_file(
            state, config=str(config), subfolder=folder, local_files_only=True
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise LayoutError(
            f"{name}: the weights do not fit {config / folder / 'config.json'}: {error}"
        ) from error
    # diffusers leaves parameters that it finds no weights for on the meta device, and passes
    # over weights that the model has no place for.
    parameters = dict(module.named_parameters())
    empty = [key for key, parameter in parameters.items() if parameter.is_meta]
    n_loaded = sum(parameter.numel() for parameter in parameters.values())
    if empty or n_loaded != n_elements:
        raise LayoutError(
            f"{name}: the weights do not fit {config / folder / 'config.json'}: it describes "
            f"{n_loaded:,} parameters, but the file has {n_elements:,}"
        )
    return module.eval().requires_grad_(False)


def _text_encoder(state: dict[str, torch.Tensor], layout: Layout, config: Path, name: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = config / "text_encoder"
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder), local_files_only=True))
    relative = {layout.relative_key(key): tensor for key, tensor in state.items()}
    if not hasattr(encoder, "text_model"):
        # transformers 5.6 took a level out of the names.
        relative = {key.removeprefix("text_model."): value for key, value in relative.items()}
    try:
        encoder.load_state_dict(relative, strict=True)
    except RuntimeError as error:
        raise LayoutError(
            f"{name}: the text encoder does not fit {folder / 'config.json'}: {error}"
        ) from error
    encoder.requires_grad_(False).train(False)
    return encoder


def _noise(model: Source, config: Path, prediction: str | None) -> dict[str, Any]:
    if prediction not in (None, "epsilon", "v_prediction"):
        raise ValueError(
            f"`prediction` must be 'epsilon' or 'v_prediction', but got {prediction!r}"
        )
    file = config / "scheduler" / "scheduler_config.json"
    noise: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "v_pred" in model.tensors:
        noise["prediction_type"] = "v_prediction"
    if "ztsnr" in model.tensors:
        noise["rescale_betas_zero_snr"] = True
    if prediction is not None:
        noise["prediction_type"] = prediction
    return noise
