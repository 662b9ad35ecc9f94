"""All layouts: those that Stockpot brings, and those of other installed packages.

A package adds an architecture by an entry point of the group ``stockpot.layouts`` whose name is the
layout's and whose object is a `Layout`. What cannot be used is left out with a warning that says
why, so that a broken package never stops anybody who does not need it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from types import MappingProxyType

from stockpot.errors import LayoutError, UnknownNameError
from stockpot.layouts._layout import Layout
from stockpot.layouts.architectures import LAYOUTS

__all__ = ["COMPONENTS", "ENTRY_POINTS", "get_layout", "known_layouts"]

ENTRY_POINTS = "stockpot.layouts"
COMPONENTS = ("unet", "te", "te0", "te1", "vae")
"""What the components of a layout may be called: the names that recipes know."""


def get_layout(name: str) -> Layout:
    """Look up a layout.

    Args:
        name: ``sd1``, ``sd2``, ``sdxl``, ``zoo``, ``generic``, or one that an installed package
            added.

    Returns:
        The layout; its tables are made when first used.

    Raises:
        UnknownNameError: There is no such layout.

    Example:
        >>> get_layout("sdxl").title
        'Stable Diffusion XL'
    """
    # Who asks for one of ours need not wait for the search for others'.
    found = LAYOUTS.get(name) or known_layouts().get(name)
    if found is None:
        raise UnknownNameError("layout", name, known_layouts())
    return found


@functools.cache
def known_layouts() -> Mapping[str, Layout]:
    """All layouts by name: Stockpot's, then those of other packages in the order of their names.

    Packages are searched once, at the first call. One that cannot be used is left out with a
    warning.

    Returns:
        The layouts.

    Example:
        >>> list(known_layouts())[:3]
        ['sd1', 'sd2', 'sdxl']
    """
    from importlib.metadata import entry_points

    known = dict(LAYOUTS)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist else "an unknown package"
        try:
            layout = _checked(entry.load(), entry.name, known)
        # Whatever another package's code does wrong, it is that package that does not work.
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, LayoutError) else repr(error)
            warnings.warn(
                f"the architecture {entry.name!r} of the package {package} is left out: {reason}; "
                f"update or uninstall that package",
                stacklevel=2,
            )
        else:
            known[layout.name] = layout
    return MappingProxyType(known)


def _checked(found: object, name: str, known: Mapping[str, Layout]) -> Layout:
    if not isinstance(found, Layout):
        raise LayoutError(f"an entry point must be a Layout, but is a {type(found).__name__}")
    if found.name != name:
        raise LayoutError(f"the layout is called {found.name!r}, but its entry point {name!r}")
    if name in known:
        raise LayoutError("the name is taken")
    if not found.parts:
        raise LayoutError("it has no components")
    names = [part.component.name for part in found.parts]
    if len(set(names)) != len(names) or not set(names) <= set(COMPONENTS):
        raise LayoutError(
            f"its components must be different ones of {', '.join(COMPONENTS)}, "
            f"but are {', '.join(map(str, names))}"
        )
    prefixes = [part.component.prefix for part in found.parts]
    if not all(prefixes):
        raise LayoutError("each component must have a prefix")
    n_rows = sum(1 for part in found.parts for _ in part.rows())
    if len(found.specs) != n_rows + len(found.extras):
        raise LayoutError("a key stands twice in its tables")
    unknown = [key for key in found.telltales if key not in found.specs]
    if unknown:
        raise LayoutError(f"the telltale {unknown[0]!r} is none of its keys")
    return found
