"""What is chosen: which models give their UNet, and which their text encoders.

Every candidate of every procedure is one `Choice`: the uniform mix of some UNets with the uniform
mix of some text encoders. It becomes a recipe, and it has a key that follows from the contents of
its members, so that what was measured once is known to every other procedure, and after the pool
has grown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stockpot.checkpoints import Source, content_hash, hash_tensors
from stockpot.errors import LayoutError, PreflightError, Problem, UnknownNameError
from stockpot.layouts import Layout, as_checkpoint, detect, get_layout
from stockpot.recipes import Expr, PoolEntry, Recipe, make_recipe, mean, model

__all__ = ["Choice", "Member", "Pool", "survey_members"]

_ENCODERS = ("te", "te0", "te1")


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate: whose UNets and whose text encoders are averaged.

    Attributes:
        unets: Names of models, in the pool's order; at least one.
        encoders: The same for text encoders.

    Example:
        >>> str(Choice(("a", "b"), ("a",)))
        'UNet of a, b; text encoder of a'
    """

    unets: tuple[str, ...]
    encoders: tuple[str, ...]

    def __str__(self) -> str:
        if self.unets == self.encoders:
            return ", ".join(self.unets)
        return f"UNet of {', '.join(self.unets)}; text encoder of {', '.join(self.encoders)}"

    def without(self, name: str, part: str) -> Choice:
        """Leave one model out of one part.

        Args:
            name: The model.
            part: ``unet`` or ``te``.

        Raises:
            ValueError: Nothing would be left of that part, or the model is not in it.
        """
        had = self.unets if part == "unet" else self.encoders
        left = tuple(each for each in had if each != name)
        if not left or len(left) == len(had):
            raise ValueError(f"{name!r} cannot be left out of {had}")
        return Choice(left, self.encoders) if part == "unet" else Choice(self.unets, left)


@dataclass(frozen=True, slots=True)
class Member:
    """A model of the pool, and what identifies its parts.

    Attributes:
        name: What the pool calls it.
        unet: Hash of its UNet's weights; empty where it has no complete one.
        encoder: The same of its text encoders, all of them together.
        vae: The same of its VAE.
        prediction: ``v`` for a model that carries the marker of velocity prediction, else empty.
    """

    name: str
    unet: str
    encoder: str
    vae: str = ""
    prediction: str = ""


@dataclass(frozen=True)
class Pool:
    """The models to choose from.

    Attributes:
        members: In the order of the user.
        files: What a recipe's pool says of each: a path.
        layout: Architecture of all.
        vae: Name of the model whose VAE every candidate has.
        aside: Models that no mix may have, with the reason.
    """

    members: tuple[Member, ...]
    files: Mapping[str, str]
    layout: str
    vae: str
    aside: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The models that may be chosen."""
        return tuple(one.name for one in self.members if one.name not in self.aside)

    def member(self, name: str) -> Member:
        """Look a model up.

        Raises:
            UnknownNameError: The pool has no such model.
        """
        for one in self.members:
            if one.name == name:
                return one
        raise UnknownNameError("model", name, [one.name for one in self.members])

    def with_part(self, part: str) -> tuple[str, ...]:
        """Give the models that have a part, `names` in order.

        Args:
            part: ``unet`` or ``te``.
        """
        return tuple(name for name in self.names if self._hash(name, part))

    def twins(self, part: str) -> dict[str, str]:
        """Find models whose part is, bit by bit, that of an earlier model.

        Args:
            part: ``unet`` or ``te``.

        Returns:
            For each such model the first one that has the same.
        """
        first: dict[str, str] = {}
        found = {}
        for name in self.with_part(part):
            owner = first.setdefault(self._hash(name, part), name)
            if owner != name:
                found[name] = owner
        return found

    def distinct(self, part: str) -> tuple[str, ...]:
        """Give the models that have a part, one for each content.

        Args:
            part: ``unet`` or ``te``.
        """
        twins = self.twins(part)
        return tuple(name for name in self.with_part(part) if name not in twins)

    def sort(self, names: Iterable[str]) -> tuple[str, ...]:
        """Put models into the pool's order, each once."""
        chosen = set(names)
        return tuple(name for name in self.names if name in chosen)

    def key(self, choice: Choice) -> str:
        """Identify a candidate by its contents.

        Equal keys mean equal weights: names and the order of models do not count, how often a
        content takes part does.

        Args:
            choice: A candidate.

        Returns:
            32 hex digits.
        """
        hasher = hashlib.sha256()
        for part, names in (("unet", choice.unets), ("te", choice.encoders)):
            contents = sorted(self._hash(name, part) for name in names)
            hasher.update(f"{part}:{','.join(contents)};".encode())
        hasher.update(f"vae:{self.member(self.vae).vae}".encode())
        return hasher.hexdigest()[:32]

    def recipe(self, choice: Choice) -> Recipe:
        """Write a candidate as a recipe.

        Args:
            choice: A candidate.

        Returns:
            A recipe with the models it needs in its pool.

        Example:
            >>> pool = Pool((Member("a", "1", "2"), Member("b", "3", "2")),
            ...             {"a": "a.safetensors", "b": "b.safetensors"}, "sd1", "a", {})
            >>> print(pool.recipe(Choice(("a", "b"), ("b",))).to_yaml(), end="")
            stockpot: 1
            pool:
              a: a.safetensors
              b: b.safetensors
            mix:
              unet: mean(a, b)
              te: b
              vae: a
        """
        needed = {*choice.unets, *choice.encoders, self.vae}
        entries = {name: PoolEntry(file) for name, file in self.files.items() if name in needed}
        mix = {"unet": _mean(choice.unets), "te": _mean(choice.encoders), "vae": model(self.vae)}
        return make_recipe(mix, entries)

    def _hash(self, name: str, part: str) -> str:
        one = self.member(name)
        return one.unet if part == "unet" else one.encoder


def survey_members(
    sources: Mapping[str, Source], files: Mapping[str, str], vae: str | None = None
) -> Pool:
    """Read every model once, and find out what can be chosen.

    Args:
        sources: Open checkpoints by name.
        files: Path of each, for recipes.
        vae: Whose VAE every candidate has; by default the first model's that has one.

    Returns:
        The pool. Models of the smaller kind of prediction are set aside, since no mix can have
        both.

    Raises:
        PreflightError: Models of several architectures, no model with a whole UNet, text encoder
            or VAE, or `vae` has none.
        CheckpointError: A file cannot be read.
    """
    seen = {name: as_checkpoint(source) for name, source in sources.items()}
    found = {name: detect({key: info.shape for key, info in source.tensors.items()})
             for name, source in seen.items()}  # fmt: skip
    kinds: dict[str, list[str]] = {}
    for name, one in found.items():
        kinds.setdefault(one.layout.name, []).append(name)
    problems = [
        Problem("architecture", f"a pool has one architecture, but this model is {kind} and "
                f"{next(iter(kinds))} came first", name, "select among models of one kind")
        for kind, names in list(kinds.items())[1:] for name in names
    ]  # fmt: skip
    if problems:
        raise PreflightError(problems)
    try:
        layout = get_layout(next(iter(kinds)))
    except StopIteration:
        raise PreflightError([Problem("pool", "a pool needs at least one model")]) from None
    complete = {
        name: {part for part in layout.n_required if not one.fit.missing_in.get(part)}
        for name, one in found.items()
    }
    members = tuple(_member(name, seen[name], layout, complete[name]) for name in sources)
    with_vae = [one.name for one in members if one.vae]
    for part, names in (
        ("UNet", [one for one in members if one.unet]),
        ("text encoder", [one for one in members if one.encoder]),
        ("VAE", with_vae),
    ):
        if not names:
            problems.append(Problem("incomplete", f"no model of the pool has a complete {part}"))
    if vae is not None and vae not in with_vae:
        problems.append(Problem("vae", "every candidate gets this model's VAE, but it has none",
                                vae, f"take one of {', '.join(with_vae[:5])}"))  # fmt: skip
    if problems:
        raise PreflightError(problems)
    return Pool(members, files, layout.name, vae or with_vae[0], _set_aside(members))


def _mean(names: Sequence[str]) -> Expr:
    return model(names[0]) if len(names) == 1 else mean(*(model(name) for name in names))


def _member(name: str, source: Source, layout: Layout, complete: set[str]) -> Member:
    encoders = [part for part in layout.n_required if part in _ENCODERS]
    unet = _weights_hash(source, layout, ("unet",)) if "unet" in complete else ""
    whole = encoders and all(part in complete for part in encoders)
    encoder = _weights_hash(source, layout, tuple(encoders)) if whole else ""
    vae = _weights_hash(source, layout, ("vae",)) if "vae" in complete else ""
    return Member(name, unet, encoder, vae, "v" if "v_pred" in source.tensors else "")


def _weights_hash(source: Source, layout: Layout, components: tuple[str, ...]) -> str:
    """Hash a component's required weights under their canonical names.

    Position ids and other leftovers do not count: whether a file carries them says nothing of
    what it draws.
    """
    infos = {}
    for key, info in source.tensors.items():
        spec = layout.spec_of(key)
        if spec is not None and spec.cell.component in components and not spec.optional:
            infos[key] = info
    if not infos:
        raise LayoutError(f"{source.name}: no weights of {', '.join(components)}")
    hashes = hash_tensors(source, list(infos))
    return content_hash(infos, hashes, layout.canonical_key)[:32]


def _set_aside(members: Sequence[Member]) -> dict[str, str]:
    velocity = [one.name for one in members if one.unet and one.prediction == "v"]
    noise = [one.name for one in members if one.unet and one.prediction != "v"]
    if not velocity or not noise:
        return {}
    fewer, what = (
        (velocity, "velocity, and most others noise")
        if len(velocity) <= len(noise)
        else (noise, "noise, and most others velocity")
    )
    return {name: f"it predicts {what}; no mix can have both" for name in fewer}
