"""A reader of pickles that writes down what they say and does nothing of it.

A pickle is a program for a stack machine whose instructions import and call anything. This machine
knows the instructions that ``torch.save`` makes and turns each into plain data: a call of a name in
`pickle_names` becomes a record of what it would have made, every other name ends the reading.
There is nothing here that imports, calls or looks attributes up by a name from the file. Bytes,
steps and nesting are bounded, dictionaries are kept as lists of pairs (so that nobody can choose
keys that are slow to hash), and data are never walked recursively.
Source: ``pickletools`` in Python's library documents the instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

from stockpot.checkpoints.pickle_calls import result_of, storage_of
from stockpot.checkpoints.pickle_names import Name, Role, meaning_of
from stockpot.checkpoints.pickle_records import Opaque, Pairs, PickleStream, StorageRef

__all__ = ["read_pickle"]

MAX_STEPS = 1_000_000
MAX_MARKS = 256


@final
@dataclass(frozen=True, slots=True)
class Pickled:
    """What a pickle says.

    Attributes:
        value: None, booleans, numbers, strings, bytes, lists, tuples, and the records of
            `pickle_records`. Lists and pairs may contain themselves.
        storages: Every storage that it refers to, by key.
    """

    value: Any
    storages: Mapping[str, StorageRef]


def read_pickle(stream: PickleStream) -> Pickled:
    """Read one pickle.

    Args:
        stream: Where it begins; afterwards, what follows it.

    Returns:
        The value, as data, and the storages.

    Raises:
        UnsafeFileError: It names something that no checkpoint needs, or uses an instruction that
            ``torch.save`` never makes.
        HeaderError: It is damaged, or larger than any real one.
        TruncatedFileError: It ends before it is complete.
    """
    machine = _Machine(stream)
    return Pickled(machine.run(), machine.storages)


class _Machine:
    """One run over one pickle."""

    def __init__(self, stream: PickleStream) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def run(self) -> Any:
        first = True
        take = self.stream.take
        for _ in range(MAX_STEPS):
            self.stream.at = self.stream.position
            code = take(1)[0]
            if code == _STOP:
                if len(self.stack) != 1 or self.marks:
                    self.stream.damaged("it ends with something left over")
                return self.stack[0]
            if (code == _PROTO) != first:
                self.stream.unsafe("a pickle must begin with its protocol and name it once")
            first = False
            do = _INSTRUCTIONS.get(code)
            if do is None:
                self.stream.unsafe(f"instruction {_named(code)} is not one that torch.save makes")
            do(self)
        self.stream.damaged(f"a pickle of tensors may have {MAX_STEPS} instructions")

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        # What lies below a mark is out of reach.
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.stream.damaged("it takes more from the stack than there is")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            self.stream.damaged("it goes back to a mark that is not there")
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.stream.damaged("it looks at an empty stack")
        return self.stack[-1]

    def number(self, form: str) -> int:
        found: int = struct.unpack(form, self.stream.take(struct.calcsize(form)))[0]
        return found

    def text(self, n_bytes: int) -> str:
        try:
            return self.stream.take(n_bytes).decode("utf-8")
        except UnicodeDecodeError:
            self.stream.damaged("a text is not UTF-8")

    def tuple_of(self, n_items: int) -> None:
        items = [self.pop() for _ in range(n_items)]
        self.push(tuple(reversed(items)))

    def remember(self, place: int) -> None:
        self.memo[place] = self.top()

    def recall(self, place: int) -> None:
        if place not in self.memo:
            self.stream.damaged(f"it recalls value {place}, which it never kept")
        self.push(self.memo[place])

    # Containers.

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Opaque:
            self.stream.damaged("it appends to something that is no list")

    def add(self, values: list[Any]) -> None:
        if type(self.top()) is not Opaque:
            self.stream.damaged("it adds to something that is no set")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            self.stream.damaged("a key has no value")
        if type(target) is Pairs:
            target.items.extend(zip(values[::2], values[1::2], strict=True))
        elif type(target) is not Opaque:
            self.stream.damaged("it puts items into something that is no dictionary")

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if type(target) is Opaque:
            target.state = state
        # Ordered dictionaries of modules carry version numbers as attributes.
        elif type(target) is not Pairs:
            self.stream.unsafe("it sets attributes of something that has none")

    # Names and calls.

    def name(self, module: str, name: str) -> Name:
        meaning = meaning_of(module, name)
        if meaning is None:
            full = f"{module}.{name}"
            short = full if len(full) <= 80 else f"{full[:79]}…"
            self.stream.unsafe(
                f"a checkpoint may name tensors, containers and training leftovers, "
                f"but this one names {short!a}"
            )
        return Name(module, name, meaning)

    def global_name(self) -> None:
        try:
            module, name = (self.stream.line().decode("utf-8") for _ in range(2))
        except UnicodeDecodeError:
            self.stream.damaged("a name is not UTF-8")
        self.push(self.name(module, name))

    def stacked_name(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            self.stream.unsafe("a name must be text")
        self.push(self.name(module, name))

    def make(self, what: Any, arguments: Any) -> None:
        """Write down what an object of a class would be; classes are leftovers or dictionaries."""
        if type(what) is not Name or what.meaning.role not in (Role.INERT, Role.DICT):
            self.stream.unsafe("it makes an object of something that is no known class")
        if type(arguments) is not tuple:
            self.stream.damaged("arguments are no tuple")
        self.push(Pairs() if what.meaning.role is Role.DICT else Opaque(str(what)))

    def make_plain(self) -> None:
        arguments, what = self.pop(), self.pop()
        self.make(what, arguments)

    def make_with_names(self) -> None:
        if type(self.pop()) is not Pairs:
            self.stream.damaged("named arguments are no dictionary")
        arguments, what = self.pop(), self.pop()
        self.make(what, arguments)

    def make_marked(self) -> None:
        values = self.pop_marked()
        if not values:
            self.stream.damaged("an object has no class")
        self.make(values[0], tuple(values[1:]))

    def call(self) -> None:
        arguments, what = self.pop(), self.pop()
        if type(what) is not Name:
            self.stream.unsafe("it calls something that is no name")
        if type(arguments) is not tuple:
            self.stream.damaged("arguments are no tuple")
        self.push(result_of(self.stream, what, arguments))

    def storage(self) -> None:
        made = storage_of(self.stream, self.pop())
        if type(made) is StorageRef:
            known = self.storages.setdefault(made.key, made)
            if (known.root_elements, known.itemsize) != (made.root_elements, made.itemsize):
                self.stream.damaged("one storage has two sizes")
        self.push(made)

    # The rest.

    def protocol(self) -> None:
        version = self.number("<B")
        if not 2 <= version <= 5:
            self.stream.unsafe(f"pickle protocol {version} is not one that torch.save uses")

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            self.stream.damaged(f"it nests deeper than {MAX_MARKS}")
        self.marks.append(len(self.stack))

    def pop_any(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def one_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def old_text(self, n_bytes: int) -> None:
        # Python 2 did not tell text from bytes.
        raw = self.stream.take(n_bytes)
        try:
            self.push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.push(raw)


def _named(code: int) -> str:
    names = {
        0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
        0x8B: "LONG4", ord("P"): "PERSID", ord("i"): "INST", ord("I"): "INT", ord("L"): "LONG",
        ord("F"): "FLOAT", ord("S"): "STRING", ord("V"): "UNICODE", ord("g"): "GET",
        ord("p"): "PUT", ord("2"): "DUP",
    }  # fmt: skip
    return f"{names.get(code, 'unknown')} (0x{code:02x})"


_STOP, _PROTO = ord("."), 0x80


_Do = Callable[[_Machine], None]


def _pushes(value: Any) -> _Do:
    return lambda machine: machine.push(value)


def _counted(form: str, push: Callable[[_Machine, int], None]) -> _Do:
    """An instruction that is followed by a number."""
    return lambda machine: push(machine, machine.number(form))


def _push_text(machine: _Machine, n_bytes: int) -> None:
    machine.push(machine.text(n_bytes))


def _push_bytes(machine: _Machine, n_bytes: int) -> None:
    machine.push(machine.stream.take(n_bytes))


def _push_long(machine: _Machine, n_bytes: int) -> None:
    machine.push(int.from_bytes(machine.stream.take(n_bytes), "little", signed=True))


def _push_float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.stream.take(8))[0])


def _pairs_of_marked(machine: _Machine) -> None:
    values = machine.pop_marked()
    machine.push(Pairs())
    machine.set_items(values)


def _skip_frame(machine: _Machine) -> None:
    machine.number("<Q")


_INSTRUCTIONS: Mapping[int, _Do] = MappingProxyType(
    {
        _PROTO: _Machine.protocol,
        0x95: _skip_frame,
        ord("("): _Machine.mark,
        ord("0"): _Machine.pop_any,
        ord("1"): lambda machine: None if machine.pop_marked() else None,
        # Plain values.
        ord("N"): _pushes(None),
        0x88: _pushes(True),
        0x89: _pushes(False),
        ord("J"): _counted("<i", _Machine.push),
        ord("K"): _counted("<B", _Machine.push),
        ord("M"): _counted("<H", _Machine.push),
        0x8A: _counted("<B", _push_long),
        ord("G"): _push_float,
        ord("X"): _counted("<I", _push_text),
        0x8C: _counted("<B", _push_text),
        0x8D: _counted("<Q", _push_text),
        ord("B"): _counted("<I", _push_bytes),
        ord("C"): _counted("<B", _push_bytes),
        0x8E: _counted("<Q", _push_bytes),
        0x96: _counted("<Q", _push_bytes),
        ord("T"): _counted("<I", _Machine.old_text),
        ord("U"): _counted("<B", _Machine.old_text),
        # Containers.
        ord(")"): _pushes(()),
        0x85: lambda machine: machine.tuple_of(1),
        0x86: lambda machine: machine.tuple_of(2),
        0x87: lambda machine: machine.tuple_of(3),
        ord("t"): lambda machine: machine.push(tuple(machine.pop_marked())),
        ord("]"): lambda machine: machine.push([]),
        ord("l"): lambda machine: machine.push(machine.pop_marked()),
        ord("a"): lambda machine: machine.extend([machine.pop()]),
        ord("e"): lambda machine: machine.extend(machine.pop_marked()),
        ord("}"): lambda machine: machine.push(Pairs()),
        ord("d"): _pairs_of_marked,
        ord("s"): _Machine.one_item,
        ord("u"): lambda machine: machine.set_items(machine.pop_marked()),
        0x8F: lambda machine: machine.push(Opaque("builtins.set")),
        0x90: lambda machine: machine.add(machine.pop_marked()),
        0x91: lambda machine: machine.push(Opaque("builtins.frozenset", machine.pop_marked())),
        # What was kept.
        ord("q"): _counted("<B", _Machine.remember),
        ord("r"): _counted("<I", _Machine.remember),
        0x94: lambda machine: machine.remember(len(machine.memo)),
        ord("h"): _counted("<B", _Machine.recall),
        ord("j"): _counted("<I", _Machine.recall),
        # Names, objects, storages.
        ord("c"): _Machine.global_name,
        0x93: _Machine.stacked_name,
        ord("R"): _Machine.call,
        ord("b"): _Machine.build,
        0x81: _Machine.make_plain,
        0x92: _Machine.make_with_names,
        ord("o"): _Machine.make_marked,
        ord("Q"): _Machine.storage,
    }
)
"""Every instruction that is known; others end the reading."""
