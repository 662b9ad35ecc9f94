"""The libraries that only drawing needs."""

from __future__ import annotations

from importlib.util import find_spec

from stockpot.errors import MissingExtraError

__all__ = ["require_libraries"]

_LIBRARIES = ("accelerate", "diffusers", "transformers", "PIL", "jinja2", "torchsde")


def require_libraries() -> None:
    """Check that everything of the `draw` extra is installed, without loading any of it.

    Raises:
        MissingExtraError: Something is not; the message says what to type.

    Example:
        >>> require_libraries()
    """
    for name in _LIBRARIES:
        # `find_spec` raises for a module that was put in place by hand, without a spec.
        try:
            found = find_spec(name) is not None
        except ValueError:
            found = False
        if not found:
            error = MissingExtraError("drawing", "draw")
            raise error from ModuleNotFoundError(f"No module named {name!r}", name=name)
