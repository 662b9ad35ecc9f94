"""How findings look on a terminal: one line a file, or everything about one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from stockpot.checkpoints import DTYPES, size_text
from stockpot.cli.output import safe_text
from stockpot.inspect import CODES, Inspection, Node, metadata_tree
from stockpot.layouts import get_layout

__all__ = [
    "component_lines",
    "headline",
    "precision",
    "print_details",
    "print_overview",
    "same_as",
    "short_paths",
    "summary",
]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim", None: "green"}
_SHOWN = 5
_WIDE = 160
_ROOMY = 110


def _console() -> Console:
    # Where nobody looks on a screen, nothing may be wrapped away.
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def headline(found: Inspection) -> str:
    """Name what a file is, for people.

    Args:
        found: The findings.

    Example:
        >>> headline(Inspection("a", "lora", "LoRA", "sd1", facts={"rank": "8"}))
        'Stable Diffusion 1 LoRA, rank 8'
    """
    text = found.title
    if found.architecture not in (None, "generic"):
        text = f"{get_layout(str(found.architecture)).title} {text}"
    if found.traits.purpose:
        text += f" for {found.traits.purpose}"
    if found.traits.prediction == "v":
        text += ", v-prediction"
    if found.traits.zero_terminal_snr:
        text += ", zero terminal SNR"
    for name in ("rank", "vectors"):
        if name in found.facts:
            text += f", {name} {found.facts[name]}"
    return text


def precision(found: Inspection) -> str:
    """Name the element types of the weights, the most frequent first.

    Args:
        found: The findings.
    """
    counts: dict[str, int] = {}
    for name, facts in found.components.items():
        if name not in ("other", "unknown", "ema") or len(found.components) == 1:
            for dtype, number in facts.dtypes.items():
                if DTYPES[dtype].is_float:
                    counts[dtype] = counts.get(dtype, 0) + number
    names = sorted(counts, key=lambda name: -counts[name])
    return "/".join(DTYPES[name].spoken for name in names)


def component_lines(found: Inspection) -> str:
    """Name the components that are there, missing and foreign.

    Args:
        found: The findings.
    """
    parts = [name for name in found.components if name not in ("other", "unknown", "model")]
    text = " ".join(parts)
    if found.missing:
        text += f" (no {', '.join(found.missing)})"
    if found.foreign:
        text += f" + {', '.join(found.foreign)}"
    return text.strip()


def summary(found: Inspection) -> str:
    """Say in one line what is wrong, the worst first, each code once.

    Args:
        found: The findings.
    """
    counts: dict[str, int] = {}
    for problem in found.problems:
        counts[problem.code] = counts.get(problem.code, 0) + 1
    order = {"error": 0, "warning": 1, "note": 2}
    codes = sorted(counts, key=lambda code: order[CODES[code].level])
    return ", ".join(code + (f" ×{counts[code]}" if counts[code] > 1 else "") for code in codes)


def same_as(shared: Mapping[str, Sequence[str]], base: Inspection | None) -> list[str]:
    """Say with whom a file shares components.

    Args:
        shared: Paths by component, the base first.
        base: The model to compare with.

    Returns:
        One sentence for each group of components that have the same holders.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, paths in shared.items():
        is_base = base is not None and paths[0] == base.path
        groups.setdefault(() if is_base else tuple(paths), []).append(name)
    lines = []
    for holders, names in groups.items():
        if not holders:
            lines.append(f"{', '.join(names)}: the base's")
            continue
        more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        lines.append(f"{', '.join(names)}: same as {PurePath(holders[0]).stem}{more}")
    return lines


def short_paths(paths: Sequence[str], width: int) -> list[str]:
    """Shorten paths for a column: without the folder that all share, then by their middle.

    Args:
        paths: All of them.
        width: Characters there are for one.

    Example:
        >>> short_paths(["/models/a.safetensors", "/models/sd1/b.safetensors"], 14)
        ['a.safetensors', 'sd1/b.s…ensors']
    """
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # some absolute and some not, or on several drives
        root = ""
    found = []
    for path in paths:
        text = safe_text(os.path.relpath(path, root) if root else path)
        if len(text) > width >= 8:
            tail = (width - 1) // 2
            text = f"{text[: width - 1 - tail]}…{text[-tail:]}"
        found.append(text)
    return found


def print_overview(
    inspections: Sequence[Inspection],
    shared: Mapping[str, Mapping[str, Sequence[str]]],
    base: Inspection | None = None,
) -> None:
    """Print a table, one line a file.

    Args:
        inspections: The findings.
        shared: From `stockpot.inspect.shared_components`.
        base: The model that components were compared with.
    """
    console = _console()
    roomy = console.width >= _ROOMY
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("what")
    table.add_column("components")
    if roomy:
        table.add_column("types")
        table.add_column("size", justify="right", no_wrap=True)
    hashed = any(shared.get(one.path) for one in inspections)
    if hashed:
        table.add_column("shares")
    table.add_column("findings")
    names = short_paths([one.path for one in inspections], max(24, console.width // 4))
    for name, one in zip(names, inspections, strict=True):
        cells = [Text(name), Text(safe_text(headline(one))), Text(component_lines(one))]
        if roomy:
            cells += [Text(precision(one)), Text(size_text(one.n_bytes) if one.n_bytes else "")]
        if hashed:
            cells.append(Text(safe_text("; ".join(same_as(shared.get(one.path, {}), base)))))
        table.add_row(*cells, Text(summary(one) or "none", style=_STYLES[one.level]))
    console.print(table)
    n_bad = sum(one.level == "error" for one in inspections)
    total = size_text(sum(one.n_bytes for one in inspections))
    console.print(f"{len(inspections)} files, {total}; {n_bad} with errors")


def print_details(
    found: Inspection,
    shared: Mapping[str, Sequence[str]],
    base: Inspection | None = None,
) -> None:
    """Print everything about one file.

    Args:
        found: The findings.
        shared: Its part of `stockpot.inspect.shared_components`.
        base: The model that components were compared with.
    """
    console = _console()
    console.print(Text(safe_text(found.path), style="bold", overflow="fold"))
    console.print(Text(f"  {safe_text(headline(found))}", style="cyan"))
    for sentence in found.evidence:
        console.print(Text(f"    {safe_text(sentence)}", style="dim"))
    if found.components:
        console.print(_components(found))
    for label, value in facts_of(found, shared, base):
        console.print(Text.assemble((f"  {label:<18}", "dim"), safe_text(value)))
    _print_problems(console, found)
    for node in metadata_tree(found.metadata):
        console.print(_tree(node))
    console.print()


def _components(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("component", "tensors", "missing", "parameters", "size", "types", "content hash"):
        right = name in ("tensors", "missing", "parameters", "size")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for facts in found.components.values():
        table.add_row(
            Text(safe_text(f"  {facts.name}")),
            f"{facts.n_keys:,}",
            f"{facts.n_missing:,}" if facts.n_missing else "",
            f"{facts.n_params:,}",
            size_text(facts.n_bytes),
            ", ".join(
                f"{DTYPES[dtype].spoken} ×{number}" if len(facts.dtypes) > 1
                else DTYPES[dtype].spoken
                for dtype, number in facts.dtypes.items()
            ),
            Text(facts.hash or "(ask with --hash)", style="" if facts.hash else "dim"),
        )  # fmt: skip
    return table


def facts_of(
    found: Inspection, shared: Mapping[str, Sequence[str]], base: Inspection | None
) -> Iterator[tuple[str, str]]:
    """Name and value of everything that fits on a line.

    Args:
        found: The findings.
        shared: Its part of `stockpot.inspect.shared_components`.
        base: The model that components were compared with.

    Yields:
        Pairs, both untrusted text.
    """
    if found.missing:
        yield "missing", ", ".join(found.missing)
    for title, n_keys in found.foreign.items():
        yield "foreign", f"{title} ({n_keys} keys)"
    yield from found.facts.items()
    traits, waste = found.traits, found.waste
    if traits.prediction:
        yield "predicts", f"{traits.prediction} (said by {traits.prediction_from})"
    if traits.zero_terminal_snr:
        yield "noise schedule", "ends at zero signal (ztsnr)"
    if traits.input_channels not in (None, 4):
        yield "input channels", f"{traits.input_channels} ({traits.purpose})"
    for name, state in traits.position_ids.items():
        yield "position ids", f"{state} in {name}"
    if waste.ema:
        yield "EMA copy", size_text(waste.ema)
    if waste.wide:
        exact = "" if waste.lossless is None else f", {size_text(waste.lossless)} without a change"
        yield "fp16 would save", size_text(waste.wide) + exact
    for line in same_as(shared, base):
        yield "shares", line
    if found.content_hash:
        yield "content hash", found.content_hash
    if found.file_hashes:
        hashes = found.file_hashes
        yield "sha256", hashes.sha256
        yield "AutoV2", hashes.autov2
        yield "AutoV3 (addnet)", hashes.autov3 or "none: not a safetensors file"
        yield "legacy", hashes.legacy
        yield "embedding", hashes.embedding
    if found.toolkit:
        yield "toolkit", found.toolkit


def _print_problems(console: Console, found: Inspection) -> None:
    counts: dict[str, int] = {}
    for problem in found.problems:
        counts[problem.code] = counts.get(problem.code, 0) + 1
        if counts[problem.code] > _SHOWN:
            continue
        line = f"  {CODES[problem.code].level}: {problem.code}: {problem}"
        console.print(Text(safe_text(line), style=_STYLES[CODES[problem.code].level]))
    for code, number in counts.items():
        if number > _SHOWN:
            text = f"  … and {number - _SHOWN} more of {code}; --json lists them"
            console.print(Text(text, style="dim"))


def _tree(node: Node) -> Tree:
    tree = Tree(_label(node), guide_style="dim")
    _grow(tree, node)
    return tree


def _grow(tree: Tree, node: Node) -> None:
    # Bounded depth: the metadata room cuts deeper trees.
    for child in node.children:
        _grow(tree.add(_label(child)), child)


def _label(node: Node) -> Text:
    value = safe_text(node.value)
    return Text.assemble((safe_text(node.label), "bold"), f"  {value}" if value else "")
