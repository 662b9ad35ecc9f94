"""What this room raises besides the errors of the whole package."""

from __future__ import annotations

from collections.abc import Iterable

from stockpot.errors import Problem, RecipeError

__all__ = ["MissingModelError", "one_problem"]


class MissingModelError(RecipeError):
    """Models that a mix needs for a key do not have that key, and no `|` says what to do.

    Attributes:
        models: Their names in the pool.

    Example:
        >>> str(MissingModelError(["a"], "unet.IN00"))
        "unet.IN00: the mix needs a key that 'a' lacks; say whose key to take instead: (…) | base"
    """

    def __init__(self, models: Iterable[str], where: str) -> None:
        self.models = tuple(models)
        listed = ", ".join(map(repr, self.models))
        super().__init__(
            [
                Problem(
                    "missing-model",
                    f"the mix needs a key that {listed} lacks",
                    where,
                    "say whose key to take instead: (…) | base",
                )
            ]
        )


def one_problem(code: str, message: str, where: str = "", remedy: str = "") -> RecipeError:
    """Make the error of a single problem.

    Args:
        code: Short stable identifier.
        message: The rule and what came instead.
        where: Place in the recipe.
        remedy: What to do about it.

    Example:
        >>> str(one_problem("too-long", "a recipe may have 10 bytes", remedy="split it"))
        'a recipe may have 10 bytes; split it'
    """
    return RecipeError([Problem(code, message, where, remedy)])
