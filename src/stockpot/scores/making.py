"""The table of scorers, and how a name becomes a scorer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from stockpot.errors import ScorerError, UnknownNameError
from stockpot.scores._base import Scale, Scorer, Setting
from stockpot.scores.aesthetic import CafeAesthetic, LaionAesthetic
from stockpot.scores.attributes import AttributeJudge
from stockpot.scores.callables import load_plugin, plugins
from stockpot.scores.clip import ClipReward
from stockpot.scores.clip_scores import ClipScore, PickScore
from stockpot.scores.commands import CommandScorer
from stockpot.scores.hpsv2 import HpsV2
from stockpot.scores.human import HumanChoice
from stockpot.scores.hybrid import Hybrid
from stockpot.scores.imagereward import ImageReward
from stockpot.scores.piqe import Piqe
from stockpot.scores.statistics import Colourfulness, Contrast, Detail, Sharpness

__all__ = ["SCORERS", "make_scorer", "read_scales", "scales_to_json"]

SCORERS: Mapping[str, type[Scorer]] = MappingProxyType(
    {
        "aesthetic": LaionAesthetic,
        "attributes": AttributeJudge,
        "cafe": CafeAesthetic,
        "clip": ClipReward,
        "clipscore": ClipScore,
        "colourfulness": Colourfulness,
        "contrast": Contrast,
        "detail": Detail,
        "hpsv2": HpsV2,
        "human": HumanChoice,
        "imagereward": ImageReward,
        "pickscore": PickScore,
        "piqe": Piqe,
        "sharpness": Sharpness,
    }
)
"""Every scorer of Stockpot by its name. `attributes` and `clip` know the zoo's pictures only."""

_COMMAND = "command:"
_TERM = re.compile(
    r"\s*(?P<sign>[+-]?)\s*(?:(?P<weight>\d+\.?\d*|\.\d+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*"
)


def make_scorer(
    name: str,
    setting: Setting = Setting(),  # noqa: B008 - frozen
    scales: Mapping[str, Scale] | None = None,
) -> Scorer:
    """Make a scorer from what people type.

    Args:
        name: One of `SCORERS`; the name of an entry point of the group ``stockpot.scores``;
            ``command:PROGRAM ARGUMENTS``; or a weighted sum of the first two kinds, such as
            ``0.7*imagereward + 0.3*aesthetic - 0.1*contrast``.
        setting: Folder, device and the like.
        scales: For a weighted sum: mean and SD of each scorer that has none of its own.

    Returns:
        The scorer, loaded.

    Raises:
        UnknownNameError: There is no such scorer.
        ScorerError: It cannot be loaded, or scales are missing.
        stockpot.zoo.ZooNotInstalled: It needs the zoo, which is not installed.

    Examples:
        >>> make_scorer("attributes").range
        'mean log-probability of the named attributes, -10 to 0'
    """
    if name.startswith(_COMMAND):
        return CommandScorer(name.removeprefix(_COMMAND))
    # A name may have a hyphen; then it is no difference.
    terms = None if name in SCORERS or name in plugins() else _terms(name)
    if terms is None or terms == [(name, 1.0)]:
        return _make_one(name, setting)
    return Hybrid.from_scales([(_make_one(n, setting), weight) for n, weight in terms], scales)


def _make_one(name: str, setting: Setting) -> Scorer:
    if name in SCORERS:
        return SCORERS[name].make(setting)
    offered = plugins()
    if name in offered:
        return load_plugin(offered[name], setting)
    raise UnknownNameError("scorer", name, {*SCORERS, *offered})


def _terms(text: str) -> list[tuple[str, float]] | None:
    """Names with weights; None if the text is no sum."""
    found: list[tuple[str, float]] = []
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or (found and not term.group("sign")):
            return None
        sign = -1.0 if term.group("sign") == "-" else 1.0
        found.append((term.group("name"), sign * float(term.group("weight") or 1)))
        at = term.end()
    return found or None


def read_scales(path: Path) -> dict[str, Scale]:
    """Read scales from a file.

    Args:
        path: JSON: ``{"aesthetic": {"mean": 5.3, "sd": 0.6}}``.

    Returns:
        Scales by scorer.

    Raises:
        ScorerError: The file is not there or says something else.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Scale(float(s["mean"]), float(s["sd"])) for name, s in said.items()}
    except ScorerError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ScorerError(f"{path}: cannot be read as scales of scorers: {error!r}") from error


def scales_to_json(scales: Mapping[str, Scale]) -> str:
    """Write scales as text.

    Args:
        scales: By scorer.

    Returns:
        What `read_scales` reads.
    """
    plain = {name: {"mean": s.mean, "sd": s.sd} for name, s in sorted(scales.items())}
    return json.dumps(plain, indent=2) + "\n"
