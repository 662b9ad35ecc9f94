"""Infotexts: what web UIs write into a picture, read and written as A1111 does."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

from stockpot.draw.freeu import FreeU, FreeUStage
from stockpot.draw.guidance import Thresholding
from stockpot.draw.hires import Hires
from stockpot.draw.requests import (
    Named,
    PlotAxis,
    ReadRequest,
    Request,
    number_text,
    pairs_text,
    text_pairs,
)
from stockpot.draw.settings import DrawSettings
from stockpot.errors import Problem, RequestError, StockpotError

__all__ = ["parse_infotext", "write_infotext"]

_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_NEGATIVE = "Negative prompt:"
_LEAST_FIELDS = 3


def parse_infotext(text: str, where: str = "infotext") -> ReadRequest:
    """Read an infotext.

    Args:
        text: Prompt, negative prompt and one line of settings.
        where: What to call it in messages.

    Returns:
        The request, and what it tells of that will not be done.

    Raises:
        RequestError: There are no settings, or one is impossible; all problems at once.

    Example:
        >>> read = parse_infotext("a cat\\nSteps: 9, Sampler: Euler, CFG scale: 4, Seed: 7")
        >>> read.request.prompt, read.request.seed
        ('a cat', 7)
    """
    *lines, last = text.strip().split("\n")
    found = _FIELD.findall(last)
    if len(found) < _LEAST_FIELDS:
        raise RequestError([Problem("no-settings", "an infotext ends with a line of settings such "
                                    "as `Steps: 20, Sampler: Euler, …`, but this does not",
                                    where)])  # fmt: skip
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in lines:
        line = line.strip()
        if line.startswith(_NEGATIVE):
            negative = [line.removeprefix(_NEGATIVE).strip()]
        elif negative is not None:
            negative.append(line)
        else:
            prompt.append(line)
    fields = {name: _unquoted(value.strip()) for name, value in found}
    return _Card(fields, where).read("\n".join(prompt), "\n".join(negative or []))


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


class _Card:
    """The fields of one infotext; what nobody takes is left over."""

    def __init__(self, fields: dict[str, str], where: str) -> None:
        self._fields, self._where = dict(fields), where
        self._problems: list[Problem] = []

    def read(self, prompt: str, negative: str) -> ReadRequest:
        size = self._size("Size")
        steps, guidance = self._int("Steps", 20), self._float("CFG scale", 7.0)
        plot = self._plot()
        settings = self._made(
            DrawSettings,
            steps=steps,
            cfg=max(1.0, guidance),
            sampler=self._take("Sampler", "Euler"),
            negative=negative,
            width=size[0] if size else None,
            height=size[1] if size else None,
            batch=1,
            schedule=self._take("Schedule type", "Automatic"),
            clip_skip=self._int("Clip skip", 1),
            emphasis=self._take("Emphasis", "Original"),
            noise="CPU" if self._take("RNG", "GPU") == "CPU" else "NV",
            step_delta=self._int("ENSD", 0),
            variation_seed=self._int("Variation seed", 0),
            variation=self._float("Variation seed strength", 0.0),
            cfg_rescale=self._float("CFG Rescale phi", 0.0),
            thresholding=self._thresholding(),
            freeu=self._freeu(steps),
            hires=self._hires(),
            tiling=self._take("Tiling") == "True",
        )
        request = Request(
            prompt,
            self._int("Seed", -1),
            settings,
            1,
            Named(self._take("Model"), self._take("Model hash").lower()),
            Named(self._take("VAE"), self._take("VAE hash").lower()),
            text_pairs(self._take("TI hashes")),
            text_pairs(self._take("Lora hashes")),
            plot,
            self._take("Version"),
        )
        if self._problems:
            raise RequestError(self._problems)
        notes = [
            Problem("not-done", f"`{name}: {value}` is not known here, and nothing is done about "
                    "it", self._where)
            for name, value in self._fields.items()
            if not name.startswith("Stockpot")
        ]  # fmt: skip
        if guidance < 1:
            notes.append(Problem("not-done", f"guidance of {guidance:g} is drawn as 1, which is no "
                                 "guidance", self._where))  # fmt: skip
        extra = tuple(self._fields.items())
        return ReadRequest(replace(request, extra=extra), tuple(notes))

    def _take(self, name: str, default: str = "") -> str:
        return self._fields.pop(name, default)

    def _problem(self, name: str, message: str) -> None:
        self._problems.append(Problem("infotext", message, f"{self._where}: {name}"))

    def _int(self, name: str, default: int) -> int:
        value = self._take(name, str(default))
        try:
            return int(value)
        except ValueError:
            self._problem(name, f"a whole number is needed, but got {value!r}")
            return default

    def _float(self, name: str, default: float) -> float:
        value = self._take(name, str(default))
        try:
            return float(value)
        except ValueError:
            self._problem(name, f"a number is needed, but got {value!r}")
            return default

    def _size(self, name: str) -> tuple[int, int] | None:
        value = self._take(name)
        found = _SIZE.fullmatch(value)
        if value and not found:
            self._problem(name, f"a size such as 512x768 is needed, but got {value!r}")
        return (int(found.group(1)), int(found.group(2))) if found else None

    def _made(self, make: Any, **values: Any) -> Any:
        try:
            return make(**values)
        except (ValueError, TypeError, StockpotError) as error:
            self._problem(make.__name__, str(error))
            return make()

    def _hires(self) -> Hires | None:
        upscaler = self._take("Hires upscaler")
        size = self._size("Hires resize") or (0, 0)
        scale = self._float("Hires upscale", 2.0)
        steps = self._int("Hires steps", 0)
        sampler = self._take("Hires sampler")
        prompt, negative = self._take("Hires prompt"), self._take("Hires negative prompt")
        cfg = self._float("Hires CFG Scale", 0.0)
        if not upscaler:
            return None
        made = self._made(
            Hires,
            scale=scale,
            width=size[0],
            height=size[1],
            upscaler=upscaler,
            steps=steps,
            denoising=self._float("Denoising strength", 0.75),
            sampler="" if sampler == "Use same sampler" else sampler,
            prompt=prompt,
            negative=negative,
            cfg=cfg,
        )
        return made if isinstance(made, Hires) else None

    def _freeu(self, steps: int) -> FreeU | None:
        stages, schedule = self._take("FreeU Stages"), self._take("FreeU Schedule")
        version = self._int("FreeU Version", 1)
        if not stages:
            return None
        try:
            start, stop, smooth, *_ = [*_ratios(schedule or "0.0, 1.0, 0.0", steps)]
            return FreeU(tuple(FreeUStage(**stage) for stage in json.loads(stages)),
                         start, stop, smooth, version)  # fmt: skip
        except (ValueError, TypeError) as error:
            self._problem("FreeU", str(error))
            return None

    def _thresholding(self) -> Thresholding | None:
        enabled = self._take("Dynamic thresholding enabled") == "True"
        default = Thresholding()
        values = {
            "mimic_scale": self._float("Mimic scale", default.mimic_scale),
            "percentile": self._float("Threshold percentile", default.percentile),
            "mimic_mode": self._take("Mimic mode", default.mimic_mode),
            "mimic_min": self._float("Mimic scale minimum", default.mimic_min),
            "cfg_mode": self._take("CFG mode", default.cfg_mode),
            "cfg_min": self._float("CFG scale minimum", default.cfg_min),
            "power": self._float(
                "Scheduler value", self._float("Power scheduler value", default.power)
            ),
            "separate_channels": self._take("Separate Feature Channels", "True") == "True",
            "startpoint": self._take("Scaling Startpoint", default.startpoint),
            "variability": self._take("Variability Measure", default.variability),
            "phi": self._float("Interpolate Phi", default.phi),
        }
        made = self._made(Thresholding, **values) if enabled else None
        return made if isinstance(made, Thresholding) else None

    def _plot(self) -> tuple[PlotAxis, ...]:
        if self._fields.get("Script") != "X/Y/Z plot":
            return ()
        self._take("Script")
        axes = []
        for axis in "XYZ":
            kind, values = self._take(f"{axis} Type"), self._take(f"{axis} Values")
            if kind:
                axes.append(PlotAxis(axis, kind, values))
        return tuple(axes)


def _ratios(text: str, steps: int) -> list[float]:
    """FreeU's schedule: numbers with a point are shares, the others steps; the third is no time."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 3:
        raise ValueError(f"a schedule is start, stop, smoothness; but got {text!r}")
    ends = [float(p) if "." in p else int(p) / steps for p in parts[:2]]
    return [*ends, float(parts[2])]


def write_infotext(request: Request) -> str:
    """Write an infotext as A1111 does.

    Args:
        request: What was drawn; its `seed` is that of the picture.

    Returns:
        The text; `parse_infotext` reads the same request back.

    Example:
        >>> print(write_infotext(Request("a cat", 7, DrawSettings(steps=9, sampler="Euler"))))
        a cat
        Steps: 9, Sampler: Euler, CFG scale: 7, Seed: 7, RNG: CPU
    """
    fields = {name: value for name, value in _fields(request).items() if value}
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items())
    negative = f"\n{_NEGATIVE} {request.settings.negative}" if request.settings.negative else ""
    return f"{request.prompt}{negative}\n{line}".strip()


def _quoted(value: str) -> str:
    odd = any(mark in value for mark in ",\n:") or (value[:1] == value[-1:] == '"')
    return json.dumps(value, ensure_ascii=False) if odd else value


def _fields(request: Request) -> dict[str, str]:
    """Every field in A1111's order; empty ones are not written."""
    settings = request.settings
    hires, sized = settings.hires, settings.width and settings.height
    fields = {
        "Steps": str(settings.steps),
        "Sampler": settings.sampler,
        "Schedule type": settings.schedule if settings.schedule != "Automatic" else "",
        "CFG scale": number_text(settings.cfg),
        "Seed": str(request.seed),
        "Size": f"{settings.width}x{settings.height}" if sized else "",
        "Model hash": request.model.hash,
        "Model": request.model.name,
        "VAE hash": request.vae.hash,
        "VAE": request.vae.name,
        "Variation seed": str(settings.variation_seed) if settings.variation else "",
        "Variation seed strength": number_text(settings.variation) if settings.variation else "",
        "Denoising strength": number_text(hires.denoising) if hires else "",
        "Clip skip": str(settings.clip_skip) if settings.clip_skip > 1 else "",
        "ENSD": str(settings.step_delta) if settings.step_delta else "",
        "RNG": "CPU" if settings.noise == "CPU" else "",
        "Tiling": "True" if settings.tiling else "",
        "CFG Rescale phi": number_text(settings.cfg_rescale) if settings.cfg_rescale else "",
        **_freeu_fields(settings.freeu),
        **_hires_fields(hires),
        **_thresholding_fields(settings.thresholding),
        "Lora hashes": pairs_text(request.lora_hashes),
        "TI hashes": pairs_text(request.ti_hashes),
        "Emphasis": settings.emphasis if settings.emphasis != "Original" else "",
    }
    if request.plot:
        fields["Script"] = "X/Y/Z plot"
    for axis in request.plot:
        fields[f"{axis.axis} Type"] = axis.kind
        fields[f"{axis.axis} Values"] = axis.text
    return {**fields, **dict(request.extra), "Version": request.version}


def _freeu_fields(freeu: FreeU | None) -> dict[str, str]:
    if freeu is None:
        return {}
    default = asdict(FreeUStage())
    stages = [
        {
            name: value
            for name, value in asdict(stage).items()
            if name in ("backbone_factor", "skip_factor") or value != default[name]
        }
        for stage in freeu.stages
    ]
    return {
        "FreeU Stages": json.dumps(stages),
        "FreeU Schedule": ", ".join(
            repr(float(x)) for x in (freeu.start, freeu.stop, freeu.smoothness)
        ),
        "FreeU Version": str(freeu.version) if freeu.version != 1 else "",
    }


def _hires_fields(hires: Hires | None) -> dict[str, str]:
    if hires is None:
        return {}
    sized = hires.width or hires.height
    return {
        "Hires prompt": hires.prompt,
        "Hires negative prompt": hires.negative,
        "Hires upscale": "" if sized else number_text(hires.scale),
        "Hires resize": f"{hires.width}x{hires.height}" if sized else "",
        "Hires steps": str(hires.steps) if hires.steps else "",
        "Hires sampler": hires.sampler,
        "Hires CFG Scale": number_text(hires.cfg) if hires.cfg else "",
        "Hires upscaler": hires.upscaler,
    }


def _thresholding_fields(found: Thresholding | None) -> dict[str, str]:
    if found is None:
        return {}
    mimics, guides = found.mimic_mode != "Constant", found.cfg_mode != "Constant"
    return {
        "Dynamic thresholding enabled": "True",
        "Mimic scale": number_text(found.mimic_scale),
        "Separate Feature Channels": str(found.separate_channels),
        "Scaling Startpoint": found.startpoint,
        "Variability Measure": found.variability,
        "Interpolate Phi": number_text(found.phi),
        "Threshold percentile": number_text(found.percentile),
        "Mimic mode": found.mimic_mode if mimics else "",
        "Mimic scale minimum": number_text(found.mimic_min) if mimics else "",
        "CFG mode": found.cfg_mode if guides else "",
        "CFG scale minimum": number_text(found.cfg_min) if guides else "",
        "Scheduler value": number_text(found.power) if mimics or guides else "",
    }
