"""Pickles of plain data, read without running anything in them: containers, text, numbers and numpy arrays.

Some official ground truths are pickles, and `pickle.load` does whatever a file says. Here the opcodes are taken apart by
`pickletools` and interpreted one by one: a global is a word that is compared with a list, never something that is
imported, and what may be done with one is written out below. Everything else is refused.

Protocols 0 to 5. Text of Python 2 is read as Latin-1, which is how numpy's arrays keep their bytes in it.
"""

import pickletools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stillhouse.core.errors import DataError, MissingError, one_line
from stillhouse.storage.foreign import read_capped, short

MAX_BYTES = 64 << 20
HINT = "it is not the official file: fetch it again, or give the same as .json"

GLOBALS: Mapping[str, str] = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "__builtin__ bytes": "bytes",
    "builtins bytes": "bytes",
    **{
        f"numpy.{core}.{name}": word
        for core in ("core", "_core")
        for name, word in (
            ("multiarray _reconstruct", "reconstruct"),
            ("multiarray scalar", "scalar"),
            ("numeric _frombuffer", "frombuffer"),
        )
    },
}
"""The only globals that a file may name, and our words for them."""

LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
"""Opcodes that `pickletools` hands over with their value."""

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][0-9]{1,4})")


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle file.

    Raises:
        MissingError: there is no such file.
        DataError: it is no pickle, too large, or holds anything but plain data; names what it was.
    """
    data = read_capped(path, MAX_BYTES)
    if data is None:
        raise MissingError(f"{path} is not there", hint="unpack the whole data set, or correct `path`")
    try:
        return plain_value(data)
    except Refused as error:
        raise DataError(f"{path} is refused: it holds {error}; only plain data is read", hint=HINT) from error
    except Exception as error:  # pickletools raises nearly anything on damaged bytes
        raise DataError(f"{path} cannot be read as a pickle: {one_line(error)}", hint=HINT) from error


def plain_value(data: bytes) -> Any:
    """The value of a pickle of plain data.

    Raises:
        Refused: it holds something else.
        Exception: it is damaged.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            (value,) = _plain(machine.take(len(machine.stack)))
            return value
        machine.step(opcode.name, argument)
    raise ValueError("it has no end")


class Refused(ValueError):
    """What a well-formed pickle holds that is not plain data."""


def _refuse(what: str) -> NoReturn:
    raise Refused(what)


@dataclass(frozen=True, slots=True)
class _Global:
    word: str


@dataclass(eq=False, slots=True)
class _Dtype:
    """A dtype under construction: its code, then its byte order."""

    code: str

    def set_state(self, state: Any) -> None:
        _, order, subdtype, names, fields, *_ = state
        if (subdtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            _refuse(f"a structured dtype {short(self.code)}")
        self.code = order + self.code.lstrip("<>|=")


@dataclass(eq=False, slots=True)
class _Array:
    """An array under construction."""

    value: Any = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(dtype, shape, data, "F" if fortran else "C")


class _Machine:
    """A stack, marks and a memo, as pickle's own."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Obey one opcode."""
        if name in LITERALS:
            self.stack.append(argument)
            return
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(name == "NEWTRUE")
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.take(0 if name == "EMPTY_TUPLE" else int(name[-1]))))
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "EMPTY_LIST" | "LIST":
                self.stack.append([] if name == "EMPTY_LIST" else self.since_mark())
            case "EMPTY_DICT":
                self.stack.append({})
            case "DICT":
                pairs = self.since_mark()
                self.stack.append({})
                self.set_items(pairs)
            case "APPEND" | "APPENDS":
                self.append(self.take(1) if name == "APPEND" else self.since_mark())
            case "SETITEM" | "SETITEMS":
                self.set_items(self.take(2) if name == "SETITEM" else self.since_mark())
            case "GLOBAL":
                self.name(argument)
            case "STACK_GLOBAL":
                self.name(" ".join(map(str, self.take(2))))
            case "REDUCE":
                called, arguments = self.take(2)
                self.stack.append(_made(called, arguments))
            case "BUILD":
                self.build(*self.take(1))
            case _:
                _refuse(f"the opcode {name}")

    def take(self, num: int) -> list[Any]:
        """The last `num` values, gone from the stack; arrays must be whole by now."""
        first = len(self.stack) - num
        if first < (self.marks[-1] if self.marks else 0):
            raise ValueError("a value is missing")
        taken = self.stack[first:]
        del self.stack[first:]
        return [_whole(value) for value in taken]

    def since_mark(self) -> list[Any]:
        taken = self.take(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return taken

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            _refuse(f"a {type(self.stack[-1]).__name__} that is appended to")
        self.stack[-1].extend(_plain(values))

    def set_items(self, pairs: list[Any]) -> None:
        """Names and numbers alone are keys: the hash of nested tuples could take for ever."""
        if type(self.stack[-1]) is not dict or not all(type(key) in (str, int) for key in pairs[::2]):
            _refuse("a mapping of something else than names and numbers")
        self.stack[-1].update(zip(pairs[::2], _plain(pairs[1::2]), strict=True))

    def name(self, name: str) -> None:
        if name not in GLOBALS:
            _refuse(f"the name {short(name)}")
        self.stack.append(_Global(GLOBALS[name]))

    def build(self, state: Any) -> None:
        if not isinstance(self.stack[-1], _Array | _Dtype):
            _refuse(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].set_state(state)


def _whole(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    return value.value if value.value is not None else _refuse("an array without a state")


def _plain(values: list[Any]) -> list[Any]:
    if any(isinstance(value, _Global | _Dtype) for value in values):
        _refuse("a class")
    return values


def _made(called: Any, arguments: Any) -> Any:
    """What a call of one of the known globals gives."""
    match called, arguments:
        case _Global(word="reconstruct"), (_Global(word="ndarray"), (0,), _):
            return _Array()
        case _Global(word="dtype"), (str() as code, *_):
            return _Dtype(code)
        case _Global(word="encode"), (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
        case _Global(word="bytes"), ():
            return b""
        case _Global(word="scalar"), (dtype, data):
            return _array(dtype, (), data, "C").item()
        case _Global(word="frombuffer"), (data, dtype, shape, str() as order):
            return _array(dtype, shape, data, order)
    word = called.word if isinstance(called, _Global) else type(called).__name__
    _refuse(f"a call of {word} that numpy does not write")


def _array(dtype: Any, shape: Any, data: Any, order: str) -> Any:
    """A numpy array of numbers or text from its bytes."""
    if not isinstance(dtype, _Dtype) or not _DTYPE.fullmatch(dtype.code):
        _refuse(f"an array of {short(getattr(dtype, 'code', dtype))}")
    if isinstance(data, str):  # bytes of Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        _refuse("an array that is not kept as bytes")
    made = np.frombuffer(data, dtype.code) if data else np.empty(0, dtype.code)
    return made.reshape(shape, order="F" if order == "F" else "C").copy()
