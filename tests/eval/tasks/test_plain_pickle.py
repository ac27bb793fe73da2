"""Plain data comes back as it was, whatever the protocol; nothing else is read, and nothing is ever run."""

import collections
import datetime
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import DataError, MissingError
from stillhouse.eval.tasks import plain_pickle
from stillhouse.eval.tasks.plain_pickle import GLOBALS, LITERALS, Refused, plain_value, read_plain_pickle

PLAIN: dict[str, Any] = {
    "imlist": ["a", "b\u00e9", "\N{SNOWMAN}"],
    "gnd": [
        {"bbx": [1.5, 2, -3, 4.0], "easy": np.array([1, 2, 300]), "hard": np.array([], np.int64)},
        {
            "junk": [True, False, None, -70000, 2**40, -(2**90)],
            3: b"ab",
            "t": ((), (1,), (1, 2), (1, (2,), 3), (1,) * 5),
        },
        {"m": np.arange(6, dtype=">f4").reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
        {"s": np.array(["x", "yy"]), "b": np.array([True, False]), "u": np.arange(3, dtype=np.uint8)},
    ],
    "empty": {},
}


def equal(one: Any, other: Any) -> bool:
    """Values, types, shapes and dtypes."""
    if isinstance(one, np.ndarray):
        same = isinstance(other, np.ndarray) and one.dtype == other.dtype and one.shape == other.shape
        return same and bool((one == other).all())
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back(protocol: int) -> None:
    assert equal(plain_value(pickle.dumps(PLAIN, protocol)), PLAIN)
    scalars = [np.int64(3), np.float32(0.5), np.bool_(True)]
    assert equal(plain_value(pickle.dumps(scalars, protocol)), [3, 0.5, True])


@pytest.mark.parametrize("fast", [True, False])
def test_containers_of_old_picklers(fast: bool) -> None:
    """Without a memo, and item by item."""
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 0)
    pickler.fast = fast
    pickler.dump({"a": [1, {"b": (2, 3)}], "c": [4]})
    assert plain_value(buffer.getvalue()) == {"a": [1, {"b": (2, 3)}], "c": [4]}


def test_an_array_of_python_2() -> None:
    """Its bytes are a text of protocol 2, and so are keys and names."""
    python_2 = (
        b"\x80\x02}U\x04easycnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x01\x00\xff\x7ftbs."
    )
    assert equal(plain_value(python_2), pickle.loads(python_2, encoding="latin1"))
    assert equal(plain_value(python_2), {"easy": np.array([1, 32767], np.int16)})


def test_every_opcode_is_read_or_refused() -> None:
    """What is neither a literal nor in the list of steps is refused by name, whatever stands on the stack."""
    known = {
        "PROTO",
        "FRAME",
        "MARK",
        "STOP",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    }
    known |= {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"}
    known |= {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"}
    known |= {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"} | LITERALS
    others = {opcode.name for opcode in pickletools.opcodes} - known
    assert {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "POP", "DUP"} <= others
    for name in others:
        machine = plain_pickle._Machine()
        machine.stack += [[], (), {}]
        with pytest.raises(Refused, match=f"^the opcode {name}$"):
            machine.step(name, None)


class Bomb:
    """Would make a file if it were ever called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_never_run(tmp_path: Path, protocol: int) -> None:
    bomb, file = tmp_path / "exploded", tmp_path / "bomb.pkl"
    data = pickle.dumps({"imlist": ["a"], "gnd": Bomb(bomb)}, protocol)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.pkl is refused: it holds the name '.*; only plain data is read"):
        read_plain_pickle(file)
    assert not bomb.exists()
    pickle.loads(data)
    assert bomb.exists(), "or the test would show nothing"


def commands() -> list[bytes]:
    """Well-known ways to make a reader of pickles call something."""
    return [
        b"cos\nsystem\n(S'touch exploded'\ntR.",
        b"(S'touch exploded'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch exploded'\no.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x08fromfile\x93\x8c\x01a\x85R.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy\nndarray\n)R.",
        b"cnumpy\nndarray\n.",
        b"(lcnumpy\ndtype\na.",
        b"}cnumpy\ndtype\nN\x86b.",
        b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'12345678'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
        b"\x80\x02}))s.",
        b"Pexternal\n.",
        b"\x82\x01.",
    ]


@pytest.mark.parametrize("data", commands())
def test_known_attacks_are_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused):
        plain_value(data)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "value", [{1, 2}, 1j, datetime.date(2020, 1, 1), collections.OrderedDict(a=1), range(3), np.array([{}])]
)
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(Refused):
        plain_value(pickle.dumps([value]))


def test_names_are_words() -> None:
    """They are told apart by their text, and none of the list is a way to anything."""
    assert set(GLOBALS.values()) == {"ndarray", "dtype", "encode", "bytes", "reconstruct", "scalar", "frombuffer"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damaged_files_are_an_error_that_names_them(tmp_path: Path, protocol: int) -> None:
    data, file = pickle.dumps(PLAIN, protocol), tmp_path / "gnd.pkl"
    with pytest.raises(MissingError, match=r"gnd\.pkl is not there"):
        read_plain_pickle(file)
    for end in range(0, len(data), 7):
        file.write_bytes(data[:end])
        with pytest.raises(DataError, match=r"gnd\.pkl (cannot be read as a pickle|is refused)"):
            read_plain_pickle(file)
    random = np.random.default_rng(protocol)
    for place in random.integers(0, len(data), 200).tolist():
        file.write_bytes(data[:place] + bytes([data[place] ^ int(random.integers(1, 256))]) + data[place + 1 :])
        try:
            read_plain_pickle(file)  # another letter of a name is another name
        except DataError as error:
            assert "gnd.pkl" in str(error)


def test_nested_references_take_no_time() -> None:
    """2^60 leaves if anybody walked them."""
    nested: Any = (1,)
    for _ in range(60):
        nested = (nested, nested)
    assert type(plain_value(pickle.dumps({"a": nested}))["a"]) is tuple
    with pytest.raises(Refused, match="a mapping of something else than names and numbers"):
        plain_value(pickle.dumps({(1,): 1}))


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", 10)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps("a" * 20))
    with pytest.raises(Exception, match="is larger than 10 bytes"):
        read_plain_pickle(tmp_path / "a.pkl")
