"""The house itself: rooms depend downwards, doors have signs, public names are what we promised."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stockpot

ROOT = Path(stockpot.__file__).parent

# Ground floor first; docs/design.md says why.
FLOORS = (
    ("errors",),
    ("checkpoints", "layouts", "methods", "recipes", "zoo"),
    ("engine", "compare", "scores"),
    ("draw",),
    ("report",),
    ("cli", "__main__"),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("stockpot.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_depend_downwards(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    upward = {room for room in imported_rooms(path) if FLOOR[room] > FLOOR[here]}
    assert not upward, f"{here} must not know of {upward}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_definition_has_a_docstring_and_no_file_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    assert not list(_silent(ast.parse(text).body))


def _silent(body: list[ast.stmt]) -> Iterator[str]:
    """Public definitions without a docstring; what is inside functions is nobody's door."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from _silent(node.body)


PUBLIC = {
    "stockpot.checkpoints": (
        "DTYPES DType FileHashes FileSink GeneratedSource Header JoinedSource MemorySink "
        "MemorySource SafetensorsFile Sink Source TensorInfo content_hash encode_header file_bytes "
        "file_hashes free_bytes get_dtype hash_tensors in_file_order open_checkpoint read_header"
    ),
    "stockpot.methods": (
        "BLOCK_ELEMENTS Gram GramAccumulator HAS_COMPILED_KERNEL Row RowFacts combine "
        "find_nonfinite one_blas_thread sum_grams widen"
    ),
    "stockpot.engine": (
        "DEFAULT_MEMORY Chunking Digests History InputRecord MergeResult Meter Plan Progress "
        "ProgressCallback Settings Step TensorPlan Term make_plan merge merge_in_memory open_pool "
        "parse_size read_history run_plan size_text take_chunks"
    ),
    "stockpot.compare": (
        "WEIGHTS Comparison ComponentFacts ComponentFindings Convergence Descent DistanceTable "
        "Duplicates Exclusion Explanation Families FamilyTree Findings Group Inspection Map "
        "ModelFacts Outlier Pairs Part Place Stage add_mixes compare delta_norms distance_table "
        "effective_dimension explain find_duplicates find_families find_family_tree find_outliers "
        "inspect_checkpoint list_stages load_comparison members_of_chain place_by_distance "
        "place_by_spectrum read_distance_table save_comparison scale_bar study trace_convergence "
        "recover_recipe simple_ratios"
    ),
    "stockpot.errors": (
        "CheckpointError HeaderError LayoutError MemoryBudgetError MissingExtraError OutputError "
        "OutputExistsError PreflightError Problem ProblemsError RecipeError StockpotError "
        "TruncatedFileError UnknownNameError VerificationError"
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_pinned(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    assert all(hasattr(module, public) for public in module.__all__)
