"""Lint: what is allowed in a recipe and yet looks like a slip, or should at least be known.

One function a rule, and a table of them. A rule reads the recipe, its fold where it has one, and
what an importer noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

from stockpot.errors import RecipeError
from stockpot.layouts import get_layout

from .document import Recipe
from .expressions import Call, Expr, Name, Number
from .folding import Fold, fold
from .functions import find_function
from .guessing import likely_layout
from .numbers import number_text
from .printing import abbreviate
from .renaming import names_in, walk

if TYPE_CHECKING:
    from .importers import Imported

__all__ = ["RULES", "Finding", "lint"]

#: Names of models that others were trained from, as files are called in the wild.
_BASES = re.compile(
    r"(^|[^a-z])(base|sd[_-]?xl[_-]?base|sd[_-]?v?1[._-]?[45]|v1[_-]5|sd[_-]?v?2[._-]?[01]|"
    r"v2[_-][01]|512[_-]base|768[_-]v|stable[_-]?diffusion[_-]?(v|xl|2)|animefull|"
    r"illustrious[_-]?xl[_-]?v0)",
    re.IGNORECASE,
)
#: What the author's own merges look like: index, series, date, commit.
_OUTPUT = re.compile(r"^_?[a-z]{0,2}\d+\w*-.+-\d{6,10}(-[0-9a-f]{7})?$", re.IGNORECASE)
_INDEX = re.compile(r"^_?[a-z]{0,2}\d+[a-z]?-")
_RANDOM = ("ties_dropout", "dare", "drop", "della", "tgmd", "dgmla")
_ELECTING = ("ties", "ties_dropout", "tgmd", "dgmla")
_TITLES = {"te0": "te0 (CLIP-L)", "te1": "te1 (OpenCLIP-G)", "unet": "UNet", "vae": "VAE"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a reader of the recipe should know.

    Attributes:
        code: Short stable identifier.
        where: Line or place.
        message: What it is, with numbers where there are any.
        fix: What to do; empty where it is only to be known.

    Example:
        >>> Finding("unused-input", "pool.a", "nothing reads it", "remove it").to_json()["fix"]
        'remove it'
    """

    code: str
    where: str
    message: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """All fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.fix}" if self.fix else text


@dataclass(frozen=True)
class _Case:
    recipe: Recipe
    folded: Fold | None
    imported: Imported | None
    predictions: Mapping[str, str]
    calls: tuple[tuple[str, Call], ...]
    used: frozenset[str]
    places: Mapping[str, str] = field(default_factory=dict)

    def at(self, where: str) -> str:
        return self.places.get(where, where)


def lint(
    subject: Recipe | Imported,
    *,
    layout: str | None = None,
    predictions: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Find what is doubtful in a recipe.

    Args:
        subject: A recipe, or one that was imported: then with what the source said of itself.
        layout: Architecture of the models; by default what source and text tell.
        predictions: ``eps`` or ``v`` by name of the pool, for models of which that is known.

    Returns:
        Findings by rule, in the order of `RULES`; empty where nothing is doubtful.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> pool = {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt"}
        >>> for finding in lint(make_recipe("lerp(lerp(a, b, 1/2), c, 0.333)", pool)):
        ...     print(finding.code)
        rounded-ratio
        near-mean
    """
    from .importers import Imported  # not loaded by those who only merge

    imported = subject if isinstance(subject, Imported) else None
    recipe = imported.recipe if imported is not None else subject
    assert isinstance(recipe, Recipe)
    told = imported.facts.layout if imported is not None else None
    name = layout or told or likely_layout(recipe) or "sd1"
    findings: list[Finding] = []
    folded = None
    try:
        folded = fold(recipe, get_layout(name))
    except RecipeError as error:
        for problem in error.problems:
            if problem.code not in ("no-method", "unresolved-glob", "hole"):
                findings.append(
                    Finding(problem.code, problem.where, problem.message, problem.remedy)
                )
    case = _Case(
        recipe, folded, imported, predictions or {}, tuple(_calls(recipe)),
        frozenset(_used(recipe)), imported.places if imported is not None else {},
    )  # fmt: skip
    for rule in RULES.values():
        findings += rule(case)
    return findings


def _calls(recipe: Recipe) -> Iterator[tuple[str, Call]]:
    seen: set[int] = set()
    for room, sums in (("let", recipe.let), ("mix", recipe.mix)):
        for name, root in sums.items():
            for node in walk(root):
                if isinstance(node, Call) and id(node) not in seen:
                    seen.add(id(node))
                    yield f"{room}.{name}", node


def _used(recipe: Recipe) -> set[str]:
    """Names that the mix reads, through any number of steps."""
    stack = [name for root in recipe.mix.values() for name in names_in(root)]
    found: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(names_in(recipe.let[name]) if name in recipe.let else ())
    return found | (set(recipe.pool) if "pool" in found else set())


def _duplicates(case: _Case) -> Iterator[Finding]:
    """Two entries that are one file, or have the same content."""
    from .importers import model_key

    seen: dict[tuple[str, str], str] = {}
    for name, entry in case.recipe.pool.items():
        if entry.is_hole:
            continue
        path = re.sub(r"[/\\]+", "/", entry.file).removeprefix("./").lower()
        plain = _INDEX.sub("", model_key(entry.file)).lower()
        # What is left must be a name: `_202a-202te` and `_204a-202te` have none.
        plain = plain if re.search("[a-z]{4}", plain) else ""
        keys = [("duplicate-file", path), ("duplicate-content", entry.hash or ""),
                ("duplicate-content", entry.sha256 or ""), ("duplicate-name", plain)]  # fmt: skip
        for key in keys:
            if key[1] and key in seen:
                what = {"duplicate-file": "is the same file as", "duplicate-content":
                        "has the same content as", "duplicate-name":
                        "has, but for its index, the same name as"}[key[0]]  # fmt: skip
                yield Finding(key[0], case.at(f"pool.{name}"),
                              f"it {what} {seen[key]!r}, and so counts twice",
                              "remove one, unless double weight is meant")  # fmt: skip
                break
        for key in keys:
            seen.setdefault(key, name)


def _bases(case: _Case) -> Iterator[Finding]:
    """A base that is no base model."""
    deltas: dict[str, tuple[int, str]] = {}

    def count(base: Expr, n: int, where: str) -> None:
        if isinstance(base, Name):
            before = deltas.get(base.name, (0, where))
            deltas[base.name] = (before[0] + n, before[1])

    # A method's own result minus its base is one of sd-mecha's ways of writing, and no delta more.
    results = {name for name, e in case.recipe.let.items() if isinstance(e, Call)}

    for where, call in case.calls:
        function = find_function(call.function)
        if function is not None and function.parameters[:1] == ("base",) and call.args:
            # A method over a method's result has no new deltas, so the largest call counts.
            known = deltas.get(getattr(call.args[0], "name", ""), (0, ""))[0]
            count(call.args[0], max(0, len(call.args) - 1 - known), where)
        elif call.function == "subtract" and not (set(names_in(call.args[0])) & results):
            count(call.args[1], 1, where)
    for name, (n, where) in deltas.items():
        entry = case.recipe.pool.get(name)
        looks = bool(_BASES.search(entry.file if entry is not None else name))
        if n >= 3 and (entry is None or not (looks or _BASES.search(name))):
            what = "the result of a step" if entry is None else "not known as a base model"
            yield Finding("base-not-base", case.at(where), f"{n} deltas are taken against "
                          f"{name!r}, which is {what}", "take them against the model that the "
                          "others were trained from")  # fmt: skip


def _self_deltas(case: _Case) -> Iterator[Finding]:
    """A model minus itself."""
    for where, call in case.calls:
        function = find_function(call.function)
        based = function is not None and function.parameters[:1] == ("base",)
        same: Expr | None = None
        if based and call.args and call.args[0] in call.args[1:]:
            same = call.args[0]
        elif call.function == "subtract" and call.args[0] == call.args[1]:
            same = call.args[0]
        elif call.function == "add_difference" and len(call.args) > 2:
            same = call.args[1] if call.args[1] == call.args[2] else None
        if same is not None:
            votes = ", and votes as such" if based else ""
            yield Finding("self-delta", case.at(where),
                          f"{abbreviate(same)} minus itself is zero everywhere{votes}",
                          "take it out, unless the vote is meant")  # fmt: skip


def _unknown_parents(case: _Case) -> Iterator[Finding]:
    """Models that nobody could name."""
    for name, entry in case.recipe.pool.items():
        if entry.is_hole:
            hint = f"; {entry.note}" if entry.note else ""
            yield Finding("unknown-parent", case.at(f"pool.{name}"), f"nobody knows which file "
                          f"the {entry.unknown} is{hint}", "give the entry a `file`")  # fmt: skip


def _rounded_ratios(case: _Case) -> Iterator[Finding]:
    """A fraction typed as a decimal."""
    for where, call in case.calls:
        if call.function not in ("lerp", "weighted_sum") or len(call.args) != 3:
            continue
        ratio = call.args[2]
        meant = _meant(ratio.value) if isinstance(ratio, Number) else None
        if meant is not None and isinstance(ratio, Number):
            error = ratio.value - meant
            text = number_text(ratio.value)
            yield Finding("rounded-ratio", case.at(where),
                          f"{text} is {_small(error)} from {meant}, "
                          f"{_small(error / meant * 100)} %", f"write {meant}")  # fmt: skip


def _meant(ratio: Fraction) -> Fraction | None:
    """The 1/k or 1 - 1/k that a decimal of 2 to 9 digits was rounded from."""
    digits = next((d for d in range(1, 10) if 10**d % ratio.denominator == 0), None)
    if digits is None or digits < 2 or not 0 < ratio < 1:
        return None
    for value, flip in ((ratio, False), (1 - ratio, True)):
        k = round(1 / value)
        near = Fraction(1, k)
        if k > 1 and near != value and abs(near - value) * 2 <= Fraction(1, 10**digits):
            return 1 - near if flip else near
    return None


def _small(value: Fraction) -> str:
    return f"{float(value):+.2g}"


def _own_outputs(case: _Case) -> Iterator[Finding]:
    """A pool that has what the recipe, or one before it in its series, made."""
    from .importers import model_key

    made = {model_key(case.recipe.save.file or ""), *map(model_key, case.recipe.let)}
    if case.imported is not None:
        made.add(model_key(case.imported.facts.output))
    made.discard("")
    for name, entry in case.recipe.pool.items():
        if entry.is_hole:
            continue
        key = model_key(entry.file)
        if key in made:
            yield Finding("own-output", case.at(f"pool.{name}"),
                          "its name is that of a model which this recipe makes",
                          "read the step instead of the file")  # fmt: skip
        elif _OUTPUT.match(key):
            yield Finding("own-output", case.at(f"pool.{name}"), "its name is that of an earlier "
                          "merge of the series, whose models then count again",
                          "import both recipes together, and see the shares")  # fmt: skip


def _predictions(case: _Case) -> Iterator[Finding]:
    """An eps model and one for v-prediction."""
    kinds: dict[str, list[str]] = {}
    for name in case.recipe.pool:
        if name in case.used:
            named = "v" if re.search(r"v[ _-]?pred", name, re.IGNORECASE) else "unknown"
            kinds.setdefault(case.predictions.get(name, named), []).append(name)
    others = kinds.get("eps", []) + kinds.get("unknown", [])
    if kinds.get("v") and others:
        sure = "" if kinds.get("eps") and case.predictions else ", as far as names tell"
        yield Finding("mixed-prediction", case.at(f"pool.{kinds['v'][0]}"), f"{len(kinds['v'])} "
                      f"models predict v and {len(others)} do not{sure}",
                      "such models do not mix; take the ones or the others")  # fmt: skip


def _changed_meanings(case: _Case) -> Iterator[Finding]:
    """Methods whose words meant different things over the versions."""
    for note in case.imported.notes if case.imported is not None else ():
        if note.code in ("election", "changed-meaning"):
            yield Finding("changed-meaning", note.where, note.message, note.remedy)
    for where, call in case.calls:
        if call.function in _ELECTING:
            if "elect" not in dict(call.options) and call.function != "tgmd":
                yield Finding("changed-meaning", case.at(where), "it does not say how signs are "
                              "elected", 'write elect="count" or elect="magnitude"')  # fmt: skip


def _order(case: _Case) -> Iterator[Finding]:
    """What depends on the order of models."""
    results = {n for n, e in case.recipe.let.items()
               if isinstance(e, Call) and not _linear(e.function)}  # fmt: skip
    for where, call in case.calls:
        if call.function in _RANDOM and case.imported is not None:
            yield Finding("order-dependence", case.at(where), f"the masks of `{call.function}` "
                          "follow the order of the models where it was made, and not here: the "
                          "result is alike and not equal", "")  # fmt: skip
        if not _linear(call.function) and find_function(call.function) is not None:
            nested = [a.name for a in call.args if isinstance(a, Name) and a.name in results]
            same = [n for n in nested if getattr(case.recipe.let[n], "function", "")
                    == call.function]  # fmt: skip
            if same:
                yield Finding("order-dependence", case.at(where), f"`{call.function}` of its own "
                              f"result {same[0]!r} depends on what came first",
                              "give all models to one call")  # fmt: skip


def _linear(function: str) -> bool:
    row = find_function(function)
    return row is None or row.linear


def _unused(case: _Case) -> Iterator[Finding]:
    """Inputs that have no effect."""
    read = case.used if case.folded is None else {*case.folded.models}
    for name, entry in case.recipe.pool.items():
        if name not in read and "*" not in name and entry.status != "rejected":
            zero = " with a share other than 0" if name in case.used else ""
            yield Finding("unused-input", case.at(f"pool.{name}"), f"nothing reads it{zero}",
                          "remove it, or check the ratios")  # fmt: skip
    for name in case.recipe.let:
        if name not in case.used:
            yield Finding("unused-input", case.at(f"let.{name}"), "nothing reads it", "remove it")


def _plain_means(case: _Case) -> Iterator[Finding]:
    """A chain that is a mean, or was meant to be one."""
    if case.folded is None or all(_is_mean(e) for e in case.recipe.mix.values()):
        return
    exact, near = [], []
    for row in case.folded.table():
        if not all(isinstance(atom, str) for atom in row.coefficients):
            continue
        values = list(row.coefficients.values())
        component = row.cells[0].component
        whole = sum(c.component == component for c in case.folded.rows) == len(row.cells)
        if component in ("ema", "other", "unknown") or len(values) < 2 or not whole:
            continue
        share = Fraction(1, len(values))
        off = max(abs(value - share) for value in values)
        title = _TITLES.get(component, component)
        if off <= Fraction(1, 10**12):
            exact.append((title, len(values), off))
        elif off <= share / 20:
            low, high = float(min(values)), float(max(values))
            near.append(f"{title}: {len(values)} models, shares from {low:.5f} to {high:.5f} "
                        f"where a mean has {float(share):.5f}")  # fmt: skip
    at = case.at(f"mix.{next(iter(case.recipe.mix))}")
    if exact:
        worst = float(max(off for _, _, off in exact))
        shown = ", ".join(f"{title} of {n} models" for title, n, _ in exact)
        yield Finding("plain-mean", at, f"it is a plain mean: {shown}"
                      + (f", to within {worst:.1g}" if worst else ", exactly"),
                      "write mean(…): one step, one rounding")  # fmt: skip
    if near:
        yield Finding("near-mean", at, f"it is nearly a plain mean: {'; '.join(near)}",
                      "write mean(…), if that was meant")  # fmt: skip


def _is_mean(expression: Expr) -> bool:
    return isinstance(expression, Name) or (
        isinstance(expression, Call) and expression.function == "mean"
    )


def _fold_warnings(case: _Case) -> Iterator[Finding]:
    """Shares that do not sum to one."""
    for problem in case.folded.warnings if case.folded is not None else ():
        if problem.code == "sum-not-one":
            yield Finding(problem.code, problem.where, problem.message, problem.remedy)


def _notes(case: _Case) -> Iterator[Finding]:
    """What an importer had to decide, as far as no other rule says it."""
    said = ("unknown-parent", "candidate", "unread-record", "election", "changed-meaning")
    for note in case.imported.notes if case.imported is not None else ():
        if note.code not in said:
            yield Finding(note.code, note.where, note.message, note.remedy)


#: Rules by name, in the order of their findings.
RULES: Mapping[str, Callable[[_Case], Iterator[Finding]]] = MappingProxyType(
    {
        "duplicates": _duplicates,
        "bases": _bases,
        "self-deltas": _self_deltas,
        "unknown-parents": _unknown_parents,
        "rounded-ratios": _rounded_ratios,
        "own-outputs": _own_outputs,
        "predictions": _predictions,
        "changed-meanings": _changed_meanings,
        "order": _order,
        "unused": _unused,
        "plain-means": _plain_means,
        "fold-warnings": _fold_warnings,
        "notes": _notes,
    }
)
