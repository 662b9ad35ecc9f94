"""What a plan will cost: passes, bytes, memory and time, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.engine.budget import DEFAULT_MEMORY, take_chunks
from stockpot.engine.graph import Apply, Graph, make_graph
from stockpot.engine.plan import Plan
from stockpot.layouts import get_layout
from stockpot.methods import HAS_COMPILED_KERNEL, Device, runs_on_devices
from stockpot.recipes import Function, fold, make_recipe

__all__ = ["Estimate", "MethodCosts", "estimate_plan", "method_costs"]

# Speeds of one core: bytes read and hashed from the page cache, and a row's elements in a pass of a
# method. Rough on purpose: chosen between what the geometric median and DGMLA take where
# bench/methods_speed.py prints the guess beside the time; a merge of few files waits for disks.
_READ_BYTES_S = 2.5e9
_PASS_ELEMENTS_S = 7e8
_GIVEN = {"p": "0.1", "eps": "-0.1", "rank": "8", "low": "0", "high": "1", "t": "0.5"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a merge takes.

    Attributes:
        n_passes: How often the inputs of the tensor that needs most are read.
        read_bytes: Bytes that are read, all passes counted.
        written_bytes: Bytes of the output.
        n_bytes: Most memory that buffers and methods take.
        threads: Tensors worked on at once.
        seconds: A guess from typical speeds of a core; disks may be slower.
    """

    n_passes: int
    read_bytes: int
    written_bytes: int
    n_bytes: int
    threads: int
    seconds: float


def estimate_plan(
    plan: Plan,
    *,
    memory: int = DEFAULT_MEMORY,
    threads: int = 1,
    chunk_elements: int | None = None,
    compiled: bool = HAS_COMPILED_KERNEL,
    device: Device | None = None,
) -> Estimate:
    """Say what a plan will cost.

    Args:
        plan: What will run.
        memory: Ceiling in bytes.
        threads: Wanted threads.
        chunk_elements: A fixed length of chunks.
        compiled: Whether the C kernel runs.
        device: Where methods that have a form for it run; their time is guessed as the processor's.

    Returns:
        The costs.

    Raises:
        MemoryBudgetError: It needs more memory than it may have.
    """
    chunking = take_chunks(
        plan, memory, threads, chunk_elements, compiled=compiled,
        host_doubles=device.host_doubles if device else 0,
    )  # fmt: skip
    work = 0.0
    for tensor in plan.tensors.values():
        work += (tensor.read_bytes * tensor.n_passes + 2 * tensor.info.n_bytes) / _READ_BYTES_S
        if tensor.graph is None:
            continue
        n_elements = tensor.info.n_elements
        for i in tensor.graph.applies:
            node = tensor.graph.nodes[i]
            assert isinstance(node, Apply)
            n = len(node.inputs)
            work += n * n_elements * (node.method.n_passes(node.parameters) + 1) / _PASS_ELEMENTS_S
            work += node.method.effort(tensor.info.shape)
    return Estimate(
        plan.n_passes, plan.read_bytes, plan.written_bytes, chunking.n_bytes, chunking.threads,
        work / chunking.threads,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MethodCosts:
    """What a method takes, whatever it is written with.

    Attributes:
        n_passes: How often its inputs are read; with hashing where contents decide.
        memory: What it keeps, for people.
        on_devices: The methods in it that run on a device where one is named.
    """

    n_passes: int
    memory: str
    on_devices: tuple[str, ...] = ()


def method_costs(function: Function) -> MethodCosts:
    """Say what a call of a function takes, with its options' defaults.

    Args:
        function: A method or a composed function.

    Returns:
        The costs.

    Example:
        >>> from stockpot.recipes import FUNCTIONS
        >>> method_costs(FUNCTIONS["median"])
        MethodCosts(n_passes=2, memory='a panel', on_devices=('median',))
        >>> method_costs(FUNCTIONS["dgmla"]).n_passes
        4
    """
    graph = _probe(function)
    if graph is None:
        return MethodCosts(1, "a panel")
    words: dict[str, None] = {}
    for i in graph.applies:
        node = graph.nodes[i]
        assert isinstance(node, Apply)
        words.setdefault(node.method.memory.removeprefix("a panel").lstrip(";, "))
    words.pop("", None)
    there = tuple(name for name in graph.methods if runs_on_devices(name))
    return MethodCosts(graph.n_passes, "; ".join(["a panel", *words]), there)


def _probe(function: Function) -> Graph | None:
    """The graph of a call over three models; None for what is linear algebra."""
    deltas = function.takes == "deltas"
    parts = []
    for name in function.inputs:
        if name.startswith("*"):
            parts += [f"{m} - base" if deltas else m for m in ("a", "b", "c")]
        else:
            parts.append("a - base" if name == "delta" else name)
    parts += [f"{o.name}={_GIVEN[o.name]}" for o in function.options
              if o.default is None and o.name in _GIVEN]  # fmt: skip
    text = f"{function.name}({', '.join(parts)})"
    text = f"mean({text})" if function.gives == "list" else text
    text = f"base + {text}" if deltas else text
    pool = {name: f"{name}.safetensors" for name in ("base", "a", "b", "c")}
    folded = fold(make_recipe(text, pool), get_layout("generic"))
    row = next(iter(folded.rows.values()))
    return None if all(isinstance(atom, str) for atom in row) else make_graph(row)
