"""Untrusted pickles: their data is read, and no class or function that they name is ever looked up or called.

Python's unpickler trusts the file: it calls what the file names, hashes whatever the file makes a key, and reserves the
memory that the file asks for. The reader here executes the opcodes of plain data itself. An object that a pickle would
build by a call is built by a function of the reader's user, or becomes a Foreign, which has no behaviour.
"""

import codecs
import pickletools
from collections.abc import Callable, Mapping
from typing import IO

from latte.files import CheckpointError

MOST_STEPS = 2_000_000  # opcodes in a file; a checkpoint of Latte-XL with its optimizer has a tenth of a million
MOST_MEMO = 1 << 32  # memo numbers that pickles write in four bytes
MOST_KEY = 1 << 60  # larger numbers can be chosen so that all of them have one hash


class Foreign:
    """Stands for an object that is not built.

    Attributes:
        name: What the file would call to build it, such as "argparse.Namespace".
        state: The attributes that the file gives it. Only the TorchScript reader uses them.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str):
        self.name, self.state = name[:100], None

    def __str__(self) -> str:
        return self.name


def table_of(pairs: object = (), *_: object) -> dict:
    """The dict that takes the place of an OrderedDict, which Python 2 files build from a list of pairs."""
    table = {}
    for key, value in pairs if isinstance(pairs, list) else ():
        table[plain_key(key)] = value
    return table


CONTAINERS = {
    "collections.OrderedDict": table_of,
    "collections.Counter": lambda *_: {},
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda items: items,  # a list in the file
    "builtins.frozenset": lambda items: items,
}


def plain_key(key: object) -> object:
    """A key of a table as it is, or a Foreign if hashing it could take long or crash, as for nested tuples."""
    if type(key) is str or key is None or type(key) is bool or (type(key) is int and abs(key) < MOST_KEY):
        return key
    return Foreign(f"a key of type {type(key).__name__}")


class PickleReader:
    """Reads pickles of any protocol as plain data.

    The results are None, booleans, numbers, text, bytes, lists (also for sets), tuples, dictionaries (also for ordered
    ones), Foreign objects, and what the caller's functions return.

    Args:
        names: The replacement of each name ("module.name") in the file: a constant, or a function that is called with
            the arguments in the file and must check them. An object that it returns may have a method `set_state`,
            which gets the state in the file; objects without one refuse any state.
        persistent: Makes an object from a persistent id, which refers to data outside of the pickle; None refuses all.
    """

    def __init__(self, names: Mapping[str, object], persistent: Callable[[object], object] | None = None):
        self.names, self.persistent = {**CONTAINERS, **names}, persistent
        self.steps = 0  # taken so far, in all pickles of a file

    def load(self, file: IO[bytes]) -> object:
        """Read one pickle, and leave the file position at its end.

        Args:
            file: Its `read` must not reserve more memory than the file has bytes left, as that of a BytesIO.

        Raises:
            CheckpointError: It asks for something that is not read; the message says what, and does not name the file.
            Exception: Of any type, if it is damaged.
        """
        self.stack: list = []
        self.outer: list[list] = []  # the stacks below each open mark
        self.memo: dict[int, object] = {}
        read = file.read
        while (code := read(1)) != b".":
            self.steps += 1
            if self.steps > MOST_STEPS:
                self.refuse_length()
            reader, action = OPCODES[code]
            value = reader(file) if reader else None
            if action is None:
                self.stack.append(value)
            else:
                action(self, value)
        return self.stack.pop()

    def count(self, steps: int) -> None:
        """Add to the steps. Raises CheckpointError if they are too many."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            self.refuse_length()

    def refuse_length(self) -> None:
        """Raise CheckpointError for too many steps."""
        raise CheckpointError(f"it holds more than {MOST_STEPS} objects, so it is not read")

    def to_mark(self) -> list:
        """Take what lies above the last mark off the stack."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def find(self, name: str) -> object:
        """The replacement of a name, which may be spelled as in Python 2."""
        name = name.replace("__builtin__.", "builtins.", 1)
        return self.names[name] if name in self.names else Foreign(name)

    def call(self, function: object, arguments: object) -> None:
        """Put the result of a call on the stack."""
        if isinstance(function, Foreign):
            self.stack.append(Foreign(function.name))
            return
        if not isinstance(arguments, list | tuple):  # a tensor of one number may claim to be 2 ** 60 of them
            raise CheckpointError(f"it gives a {type(arguments).__name__} as arguments, so it is not read")
        self.count(sum(len(part) for part in (arguments, *arguments) if isinstance(part, list | tuple)))  # copies
        self.stack.append(function(*arguments))

    def reduce(self, _: object) -> None:
        """REDUCE and NEWOBJ: a function or class, and its arguments."""
        arguments = self.stack.pop()
        self.call(self.stack.pop(), arguments)

    def reduce_with_keywords(self, _: object) -> None:
        """NEWOBJ_EX."""
        if self.stack.pop():
            self.stack[-2] = Foreign(getattr(self.stack[-2], "name", "an object with keywords"))
        self.reduce(None)

    def build(self, _: object) -> None:
        """BUILD: gives an object its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Foreign):
            target.state = state
        elif hasattr(type(target), "set_state"):
            target.set_state(state)
        elif not isinstance(target, dict):  # of an ordered dictionary: PyTorch keeps versions of modules there
            raise CheckpointError(f"it sets attributes of a {type(target).__name__}, so it is not read")

    def extend(self, items: list) -> None:
        """Add to the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise CheckpointError(f"it adds items to a {type(target).__name__}, so it is not read")

    def update(self, items: list) -> None:
        """Add keys and values, which alternate, to the table on the stack."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((plain_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Foreign):
            raise CheckpointError(f"it sets items of a {type(target).__name__}, so it is not read")

    def pops(self, count: int) -> list:
        """Take the last `count` items off the stack."""
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("the stack is empty")
        del self.stack[-count:]
        return items

    def mark(self, _: object) -> None:
        """MARK."""
        self.outer.append(self.stack)
        self.stack = []

    def remember(self, number: int | None) -> None:
        """PUT and its kin; None takes the next number."""
        number = len(self.memo) if number is None else number
        if not 0 <= number < MOST_MEMO:
            raise IndexError("a memo number is out of range")
        self.memo[number] = self.stack[-1]

    def global_by_stack(self, _: object) -> None:
        """STACK_GLOBAL."""
        module, name = self.pops(2)
        self.stack.append(self.find(f"{module:.100}.{name:.100}"))

    def refer(self, pid: object) -> None:
        """PERSID and BINPERSID."""
        if self.persistent is None:
            raise CheckpointError("it refers to data outside of the file, so it is not read")
        self.stack.append(self.persistent(pid))


def read_quoted(file: IO[bytes]) -> str:
    """Read the argument of STRING: text of Python 2 in quotes, whose bytes become characters of Latin-1."""
    return codecs.escape_decode(file.readline().strip()[1:-1])[0].decode("latin1")


def pushed(make: Callable[["PickleReader"], object]) -> Callable[["PickleReader", object], None]:
    """An action that puts the value of `make` on the stack."""

    def action(reader: PickleReader, _: object) -> None:
        value = make(reader)  # first, since it may change which stack is the reader's
        reader.stack.append(value)

    return action


ACTIONS: dict[str, Callable[[PickleReader, object], object] | None] = {  # None: the argument goes on the stack
    **dict.fromkeys(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"]),
    **dict.fromkeys(["STRING", "BINSTRING", "SHORT_BINSTRING"]),
    **dict.fromkeys(["UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"]),
    **dict.fromkeys(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"]),
    "NONE": None,
    "NEWTRUE": pushed(lambda _: True),
    "NEWFALSE": pushed(lambda _: False),
    "EMPTY_TUPLE": pushed(lambda _: ()),
    "EMPTY_LIST": pushed(lambda _: []),
    "EMPTY_SET": pushed(lambda _: []),
    "EMPTY_DICT": pushed(lambda _: {}),
    "TUPLE1": pushed(lambda reader: tuple(reader.pops(1))),
    "TUPLE2": pushed(lambda reader: tuple(reader.pops(2))),
    "TUPLE3": pushed(lambda reader: tuple(reader.pops(3))),
    "TUPLE": pushed(lambda reader: tuple(reader.to_mark())),
    "FROZENSET": pushed(PickleReader.to_mark),
    "LIST": pushed(PickleReader.to_mark),
    "DICT": lambda reader, _: (items := reader.to_mark(), reader.stack.append({}), reader.update(items)),
    "APPEND": lambda reader, _: reader.extend(reader.pops(1)),
    "APPENDS": lambda reader, _: reader.extend(reader.to_mark()),
    "ADDITEMS": lambda reader, _: reader.extend(reader.to_mark()),
    "SETITEM": lambda reader, _: reader.update(reader.pops(2)),
    "SETITEMS": lambda reader, _: reader.update(reader.to_mark()),
    "MARK": PickleReader.mark,
    "POP": lambda reader, _: reader.stack.pop() if reader.stack else reader.to_mark(),
    "POP_MARK": lambda reader, _: reader.to_mark(),
    "DUP": pushed(lambda reader: reader.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleReader.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda reader, number: reader.stack.append(reader.memo[number])),
    "GLOBAL": lambda reader, name: reader.stack.append(reader.find(name.replace(" ", ".", 1))),
    "STACK_GLOBAL": PickleReader.global_by_stack,
    "INST": lambda reader, name: reader.call(reader.find(name.replace(" ", ".", 1)), reader.to_mark()),
    "OBJ": lambda reader, _: (items := reader.to_mark(), reader.call(items[0], items[1:])),
    "REDUCE": PickleReader.reduce,
    "NEWOBJ": PickleReader.reduce,
    "NEWOBJ_EX": PickleReader.reduce_with_keywords,
    "BUILD": PickleReader.build,
    "PERSID": PickleReader.refer,
    "BINPERSID": lambda reader, _: reader.refer(reader.stack.pop()),
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
}
OPCODES = {  # an opcode's byte: the reader of its argument, and what it does
    opcode.code.encode("latin1"): (
        read_quoted if opcode.name == "STRING" else opcode.arg and opcode.arg.reader,
        ACTIONS[opcode.name],
    )
    for opcode in pickletools.opcodes
    if opcode.name in ACTIONS
}
