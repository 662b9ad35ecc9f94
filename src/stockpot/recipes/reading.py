"""Text to recipes; everything that is wrong is found in one go, with line numbers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stockpot.errors import Problem, RecipeError, UnknownNameError

from .document import Origin, PoolEntry, Recipe, Save
from .entries import ENTRY_FIELDS
from .errors import one_problem
from .evaluating import evaluate
from .expressions import Expr
from .grammar import MAX_NODES, parse_counted
from .strict_yaml import MAX_BYTES, Mapped, Node, Scalar, load

__all__ = ["parse_located", "parse_recipe", "read_recipe"]

#: Most names, numbers, calls and operators in all expressions of a recipe; below a second's work.
MAX_PARTS = 50_000
_TOP = ("stockpot", "pool", "let", "mix", "save", "origin")


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a file.

    Args:
        path: A YAML file in UTF-8 of at most 1 MiB.

    Raises:
        RecipeError: As `parse_recipe`; also for a file that cannot be read, is too large or not
            UTF-8.

    Example:
        >>> read_recipe("nowhere.yaml")
        Traceback (most recent call last):
        ...
        stockpot.errors.RecipeError: nowhere.yaml: the recipe cannot be read: No such file or ...
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise one_problem(
            "unreadable", f"the recipe cannot be read: {error.strerror}", str(path)
        ) from error
    if len(data) > MAX_BYTES:
        raise one_problem("too-long", f"a recipe may have {MAX_BYTES} bytes, but this has more",
                          str(path), "average sets, or split the recipe")  # fmt: skip
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise one_problem("encoding", f"a recipe must be UTF-8, but {error.reason} at byte "
                          f"{error.start}", str(path), "save it as UTF-8") from error  # fmt: skip
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str = "<recipe>") -> Recipe:
    """Read a recipe from text, and check all that can be checked without files.

    Args:
        text: One YAML document; `docs/recipe.md` specifies it.
        source: What to call it in messages.

    Raises:
        RecipeError: With every problem that was found, each with its line.

    Example:
        >>> recipe = parse_recipe('''
        ... stockpot: 1
        ... pool: {a: a.safetensors, b: b.safetensors}
        ... mix: {unet: 0.25*a + 0.75*b, te: a}
        ... ''')
        >>> recipe.mix["te"]
        <a>
    """
    return parse_located(text, source)[0]


def parse_located(text: str, source: str = "<recipe>") -> tuple[Recipe, dict[str, str]]:
    """Read a recipe from text, and say on which line each of its parts stands.

    Args:
        text: As for `parse_recipe`.
        source: What to call it in messages.

    Returns:
        The recipe, and places such as ``recipe.yaml:3: pool.a`` by names such as ``pool.a``.

    Raises:
        RecipeError: As `parse_recipe`.

    Example:
        >>> text = "stockpot: 1\\npool: {a: a.ckpt}\\nmix:\\n  unet: a\\n"
        >>> parse_located(text, "x.yaml")[1]["mix.unet"]
        'x.yaml:4: mix.unet'
    """
    root, problems = load(text, source)
    reader = _Reader(source, problems)
    return reader.recipe(root), reader.places


class _Reader:
    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source, self.problems = source, problems
        self.places: dict[str, str] = {}
        # Unreadable lets: what reads them is not to be reported as well.
        self.lost: set[str] = set()
        self.parts_left, self.full = MAX_PARTS, False

    def report(self, code: str, message: str, line: int, what: str, remedy: str = "") -> None:
        where = f"{self.source}:{line}: {what}" if what else f"{self.source}:{line}"
        self.problems.append(Problem(code, message, where, remedy))

    def recipe(self, root: Node) -> Recipe:
        top = self.mapping(root, "", _TOP)
        version = top.get("stockpot")
        if version is None:
            self.report("version", "a recipe must say its version", root.line, "",
                        "start with `stockpot: 1`")  # fmt: skip
        elif self.text(version, "stockpot") not in ("1", None):
            self.report("version", "this version reads recipes of version 1", version.line,
                        "stockpot", "write `stockpot: 1`, or update Stockpot")  # fmt: skip
        for key in ("pool", "mix"):
            if key not in top:
                self.report("missing-key", f"a recipe must have `{key}`", root.line, "")
        pool = self.pool(top.get("pool"))
        let = self.expressions(top.get("let"), "let")
        mix = self.expressions(top.get("mix"), "mix")
        recipe = Recipe(
            pool, mix, let, self.save(top.get("save")), origin=self.origin(top.get("origin"))
        )
        for problem in recipe.problems():
            # What is missing, or there but unreadable, is reported already.
            if problem.code != "empty" or _is_empty(top.get(problem.where)):
                self.locate(problem)
        if pool and not self.full:
            found = evaluate(pool, let, mix, None, self.places, self.lost)
            self.problems += found.problems
        if self.problems:
            raise RecipeError(self.problems)
        return recipe

    def locate(self, problem: Problem) -> None:
        where = self.places.get(problem.where, f"{self.source}: {problem.where}")
        self.problems.append(Problem(problem.code, problem.message, where, problem.remedy))

    def mapping(self, node: Node | None, what: str, known: Collection[str] = ()) -> dict[str, Node]:
        if node is None or (isinstance(node, Scalar) and node.empty):
            return {}
        if not isinstance(node, Mapped):
            subject = f"`{what}`" if what else "a recipe"
            self.report(
                "type",
                f"{subject} must be a mapping of names to values",
                node.line,
                "",
                "write one `name: value` a line",
            )
            return {}
        for key, line in node.lines.items():
            place = f"{what}.{key}" if what else key
            self.places[place] = f"{self.source}:{line}: {place}"
            if known and key not in known:
                self.report("unknown-key", str(UnknownNameError("key", key, known)), line, what)
        return node.items

    def text(self, node: Node, what: str) -> str | None:
        if isinstance(node, Scalar) and not node.empty:
            return node.text
        got = "nothing" if isinstance(node, Scalar) else "a list or a mapping"
        self.report("type", f"a text is needed, but got {got}", node.line, what,
                    "put an expression that starts with a bracket in single quotes"
                    if got != "nothing" and what[:3] in ("mix", "let") else "")  # fmt: skip
        return None

    def pool(self, node: Node | None) -> dict[str, PoolEntry]:
        pool = {}
        for name, value in self.mapping(node, "pool").items():
            what = f"pool.{name}"
            if not isinstance(value, Mapped):
                # An unreadable entry keeps its name, so that expressions can still be judged.
                pool[name] = PoolEntry(self.text(value, what) or "?")
                continue
            found = {
                key: self.text(field, f"{what}.{key}")
                for key, field in self.mapping(value, what, ENTRY_FIELDS).items()
                if key in ENTRY_FIELDS and not _says_nothing(key, field)
            }
            if "file" not in found and "unknown" not in found:
                self.report("missing-key", "an entry must have `file`, or `unknown` with what is "
                            "known of it", value.line, what)  # fmt: skip
            file = found.pop("file", None)
            pool[name] = PoolEntry(file or ("" if found.get("unknown") else "?"), **found)
        return pool

    def expressions(self, node: Node | None, room: str) -> dict[str, Expr]:
        found = {}
        for name, value in self.mapping(node, room).items():
            what = f"{room}.{name}"
            text = self.text(value, what)
            try:
                if text is not None and not self.full:
                    found[name], parts = parse_counted(text, self.parts_left)
                    self.parts_left -= parts
            except RecipeError as error:
                if self.parts_left < MAX_NODES and error.problems[0].code == "too-many":
                    self.full = True
                    self.report(
                        "too-many",
                        f"the expressions of a recipe may have {MAX_PARTS} parts together, "
                        "but these have more",
                        value.line,
                        what,
                        "average sets: mean(pool)",
                    )
                    continue
                for problem in error.problems:
                    place = f"{what}, {problem.where}" if problem.where else what
                    self.report(problem.code, problem.message, value.line, place, problem.remedy)
            finally:
                if room == "let" and name not in found:
                    self.lost.add(name)
        return found

    def origin(self, node: Node | None) -> Origin | None:
        if node is None:
            return None
        fields = self.mapping(node, "origin", ("format", "records"))
        name = self.text(fields["format"], "origin.format") if "format" in fields else None
        if "format" not in fields:
            self.report("missing-key", "an origin must have `format`", node.line, "origin")
        items = self.mapping(fields.get("records"), "origin.records").items()
        records = {key: self.text(value, f"origin.records.{key}") or "" for key, value in items}
        return Origin(name or "?", records)

    def save(self, node: Node | None) -> Save:
        fields = self.mapping(node, "save", ("file", "dtype", "form"))
        file = self.text(fields["file"], "save.file") if "file" in fields else None
        form = self.text(fields["form"], "save.form") if "form" in fields else None
        dtype = fields.get("dtype")
        if isinstance(dtype, Mapped):
            items = self.mapping(dtype, "save.dtype").items()
            table = {key: self.text(value, f"save.dtype.{key}") or "?" for key, value in items}
            return Save(file, table, form)
        kind = self.text(dtype, "save.dtype") if dtype is not None else None
        return Save(file, kind, form)


def _says_nothing(key: str, node: Node) -> bool:
    return key != "file" and isinstance(node, Scalar) and node.empty


def _is_empty(node: Node | None) -> bool:
    return (isinstance(node, Mapped) and not node.items) or (
        isinstance(node, Scalar) and node.empty
    )
