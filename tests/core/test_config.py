"""Config files: what is accepted, and the exact words for what is not."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from stillhouse.core.config import MAX_CONFIG_CHARS, Config, config_digest, load_config, parse_config
from stillhouse.core.errors import UsageError


class Inner(Config):
    rate: float = 0.1
    steps: int = Field(default=5, ge=1)
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()


class Item(Config):
    name: str
    weight: float = 1.0


class Round(Config):
    kind: Literal["round"] = "round"


class Flat(Config):
    kind: Literal["flat"] = "flat"
    size: int = 1


class Main(Config):
    title: str
    inner: Inner = Inner()
    items: tuple[Item, ...] = ()
    table: dict[str, float] = Field(default_factory=dict)
    choice: Inner | Item | None = None
    pair: tuple[int, int] = (1, 2)
    shape: Annotated[Round | Flat, Field(discriminator="kind")] = Round()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pipeline.yaml"


def load(path: Path, text: str, *overrides: str) -> Main:
    path.write_text(text, encoding="utf-8")
    return load_config(Main, path, overrides)


def refusal(path: Path, text: str, *overrides: str) -> str:
    """The message behind 'config PATH'."""
    with pytest.raises(UsageError) as caught:
        load(path, text, *overrides)
    return str(caught.value).removeprefix(f"config {path}")


def test_a_file_becomes_a_frozen_model(path: Path) -> None:
    text = "title: Größe\ninner: {rate: 2, sizes: [1, 2]}\nitems:\n  - name: one\ntable: {x: 1e-3}\nchoice: {name: n}\n"
    config = load(path, text)
    assert config == Main(
        title="Größe",
        inner=Inner(rate=2.0, sizes=(1, 2)),
        items=(Item(name="one"),),
        table={"x": 0.001},
        choice=Item(name="n"),
    )
    with pytest.raises(ValidationError, match="frozen"):
        config.title = "x"  # type: ignore[misc]


UNKNOWN = {
    "title: x\ninner:\n  rat: 1\n": ":3: unknown key 'inner.rat'; did you mean 'rate'?",
    "title: x\ninner:\n  zzzzz: 1\n": ":3: unknown key 'inner.zzzzz'; known keys: kind, rate, sizes, steps",
    "titel: x\n": ":1: unknown key 'titel'; did you mean 'title'? (and 1 more)",
    "title: x\nitems:\n  - name: a\n  - name: b\n    wait: 1\n": (
        ":5: unknown key 'items.1.wait'; did you mean 'weight'?"
    ),
    "title: x\ninner: {rat: 1}\n": ": unknown key 'inner.rat'; did you mean 'rate'?",
    "title: x\ninner:\n  rat: 1\nchoice:\n  rat: 2\n": (": unknown key 'inner.rat'; did you mean 'rate'? (and 3 more)"),
    "title: x\nchoice:\n  nam: y\n": ":3: unknown key 'choice.nam'; did you mean 'name'? (and 2 more)",
}
WRONG = {
    "inner: {}\n": ": 'title' is required and not given",
    "title: x\nitems:\n  - weight: 1\n": ": 'items.0.name' is required and not given",
    "title: x\ninner: 5\n": ":2: inner: Input should be a valid dictionary or instance of Inner; got 5",
    "title: x\ninner:\n": ":2: inner: Input should be a valid dictionary or instance of Inner; got None",
    "title: x\ninner:\n  steps: 0\n": ":3: inner.steps: Input should be greater than or equal to 1; got 0",
    "title: x\ninner:\n  steps: 5.5\n": (
        ":3: inner.steps: Input should be a valid integer, got a number with a fractional part; got 5.5"
    ),
    "title: x\ninner:\n  rate: quick\n  steps: many\n": (
        ":3: inner.rate: Input should be a valid number, unable to parse string as a number; got 'quick' (and 1 more)"
    ),
    "title: 5\n": ":1: title: Input should be a valid string; got 5",
    "title: x\ninner:\n  kind: c\n": ":3: inner.kind: Input should be 'a' or 'b'; got 'c'",
    "title: x\npair: [1]\n": ": 'pair.1' is required and not given",
    "title: x\n1: 2\n": ":2: 1: Keys should be strings; got 1",
}
NOT_YAML = {
    "title: [1\n": (
        ': not valid YAML: while parsing a flow sequence in "<unicode string>", line 1, column 8: title: [1 ^ '
        "expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 2, column 1: ^"
    ),
    "title: x\ninner: {rate: 1, rate: 2}\n": (
        ": not valid YAML: key 'rate' is given twice in \"<unicode string>\", line 2, column 18: "
        "inner: {rate: 1, rate: 2} ^"
    ),
    "title: 2020-13-45\n": ": not valid YAML: month must be in 1..12",
    "": ": expected a mapping of sections, got NoneType",
    "- 1\n": ": expected a mapping of sections, got list",
    "x" * (MAX_CONFIG_CHARS + 1): f": {MAX_CONFIG_CHARS + 1} characters; a config has at most {MAX_CONFIG_CHARS}",
}


@pytest.mark.parametrize("text", [*UNKNOWN, *WRONG, *NOT_YAML], ids=range(len(UNKNOWN | WRONG | NOT_YAML)))
def test_what_is_refused_and_how(path: Path, text: str) -> None:
    assert refusal(path, text) == (UNKNOWN | WRONG | NOT_YAML)[text]


@pytest.mark.parametrize("text", ["[" * 5000, "title: !!python/object/apply:os.system [true]\n", "a: &x [*x]\n"])
def test_yaml_that_is_not_data(path: Path, text: str) -> None:
    assert refusal(path, text).startswith((": not valid YAML: ", ":1: unknown key 'a'"))


def test_merged_keys_are_no_duplicates(path: Path) -> None:
    config = load(path, "title: x\ninner: &a {rate: 3}\nchoice:\n  <<: *a\n  rate: 4\n")
    assert config.choice == Inner(rate=4)


def test_files_that_are_not_there(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(Main, path)
    assert str(caught.value) == f"config {path}: No such file or directory; name a file that exists"
    with pytest.raises(UsageError) as caught:
        load_config(Main, path.parent)
    assert str(caught.value) == f"config {path.parent}: Is a directory; name a file that exists"


def test_files_that_are_not_text(path: Path) -> None:
    path.write_bytes(b"title: \xff")
    with pytest.raises(UsageError) as caught:
        load_config(Main, path)
    assert str(caught.value) == f"config {path}: not UTF-8 text (byte 7)"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("inner.rate=1e-3", Main(title="x", inner=Inner(rate=0.001))),
        ("inner.rate=-1.5E+2", Main(title="x", inner=Inner(rate=-150.0))),
        ("inner.rate=.5", Main(title="x", inner=Inner(rate=0.5))),
        ("inner.rate=7", Main(title="x", inner=Inner(rate=7.0))),
        ("inner.sizes=[3, 4]", Main(title="x", inner=Inner(sizes=(3, 4)))),
        ("inner.kind=b", Main(title="x", inner=Inner(kind="b"))),
        ("inner={rate: 2, steps: 3}", Main(title="x", inner=Inner(rate=2, steps=3))),
        ("items=[{name: n}]", Main(title="x", items=(Item(name="n"),))),
        ("table.new=2", Main(title="x", table={"new": 2.0})),
        ("title=a=b", Main(title="a=b")),
        ("title='7'", Main(title="7")),
        ("title=two words", Main(title="two words")),
        ("choice=null", Main(title="x")),
        ("choice=", Main(title="x")),
    ],
)
def test_overrides(path: Path, override: str, expected: Main) -> None:
    assert load(path, "title: x\n", override) == expected


def test_overrides_reach_into_lists(path: Path) -> None:
    text = "title: x\nitems: [{name: a}, {name: b}]\ninner: {sizes: [1, 2]}\n"
    assert load(path, text, "items.1.weight=2.5").items == (Item(name="a"), Item(name="b", weight=2.5))
    assert load(path, text, "items.0={name: z}").items == (Item(name="z"), Item(name="b"))
    assert load(path, text, "inner.sizes.1=9").inner.sizes == (1, 9)


def test_the_last_override_wins_over_the_file(path: Path) -> None:
    assert load(path, "title: x\ninner: {steps: 2}\n", "inner.steps=3", "inner.steps=4").inner.steps == 4
    assert load(path, "title: x\ninner:\n", "inner.steps=3").inner.steps == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "override 'steps' is not of the form section.key=value"),
        ("=5", "override '=5' is not of the form section.key=value"),
        ("title.sub=2", "override 'title.sub=2': 'title' is not a section"),
        ("items.5.name=q", "override 'items.5.name=q': 'items.5' is not a section"),
        ("items.5=q", "override 'items.5=q': no element '5' in the list"),
        ("items.one=q", "override 'items.one=q': no element 'one' in the list"),
        ("inner.rat=1", "override 'inner.rat=1': unknown key 'inner.rat'; did you mean 'rate'?"),
        ("choice.rat=1", "override 'choice.rat=1': unknown key 'choice.rat'; did you mean 'rate'? (and 2 more)"),
        (
            "inner.rate=1e-3x",
            "override 'inner.rate=1e-3x': inner.rate: Input should be a valid number, unable to parse string as",
        ),
        ("title=", "override 'title=': title: Input should be a valid string; got None"),
        ("shape.kind=rond", "override 'shape.kind=rond': shape.kind: unknown kind 'rond'; did you mean 'round'?"),
        ("inner={rate: x}", "override 'inner={rate: x}': inner.rate: Input should be a valid number, unable to parse"),
    ],
)
def test_overrides_that_are_refused(path: Path, override: str, said: str) -> None:
    assert refusal(path, "title: x\nitems: [{name: a}]\n", override).startswith(said)


def test_the_override_that_decided_is_the_one_to_blame(path: Path) -> None:
    said = refusal(path, "title: x\n", "inner.rate=2", "inner.steps=no", "inner.steps=0", "title=y")
    assert said == "override 'inner.steps=0': inner.steps: Input should be greater than or equal to 1; got 0"
    assert refusal(path, "title: 5\n", "inner.rate=2").startswith(":1: title: ")


def test_kinds_are_named_when_none_fits(path: Path) -> None:
    assert (
        refusal(path, "title: x\nshape: {kind: rond}\n") == ": shape.kind: unknown kind 'rond'; did you mean 'round'?"
    )
    assert refusal(path, "title: x\nshape: {kind: q}\n") == ": shape.kind: unknown kind 'q'; known kinds: round, flat"
    assert refusal(path, "title: x\nshape: {}\n") == ": 'shape.kind' is required and not given"
    assert refusal(path, "title: x\nshape: {kind: flat, siz: 1}\n") == (
        ": unknown key 'shape.siz'; did you mean 'size'?"
    )


def test_an_override_that_is_not_yaml(path: Path) -> None:
    assert refusal(path, "title: x\n", "title=[1").startswith("override 'title=[1': not valid YAML: ")


def test_values_from_elsewhere_name_their_place() -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(Main, {"title": 1}, where="spec of /store")
    assert str(caught.value) == "spec of /store: title: Input should be a valid string; got 1"


def test_digests() -> None:
    """printf '{"a":"ü","b":1}' | sha256sum, and independence of the order of keys."""
    assert config_digest({"b": 1, "a": "ü"}) == config_digest({"a": "ü", "b": 1}) == "4e7ff4080b1a00ac"
    assert Main(title="x").digest() == Main(title="x", inner=Inner()).digest() != Main(title="y").digest()
    assert len(Main(title="x").digest()) == 16
