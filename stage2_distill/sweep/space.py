"""The points of a sweep: what is overridden in each, and in which order a grid goes through them. Pure."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Trial:
    """A point of a space: its number from 0 on, and its values by dotted key."""

    number: int
    values: Mapping[str, Any]

    @property
    def overrides(self) -> list[str]:
        """What gives this point when it stands behind `stillhouse distill pipeline.yaml`."""
        return [f"{key}={text_of(value)}" for key, value in self.values.items()]


class _Dumper(yaml.SafeDumper):
    """YAML on one line: what cannot be printed is escaped."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def text_of(value: Any) -> str:
    """A value as an override reads it back, on one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1 << 20, allow_unicode=True, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def shown(value: Any) -> str:
    """A value for people: a number that was drawn has more digits than it means."""
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def grid(space: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """Every combination, the last key varying fastest."""
    points = itertools.product(*space.values())
    return [Trial(number, dict(zip(space, point, strict=True))) for number, point in enumerate(points)]


def edges(space: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Points in which every value comes once or more: the first of all keys, then each other one beside those."""
    first = {key: values[0] for key, values in space.items()}
    yield first
    for key, values in space.items():
        for value in values[1:]:
            yield {**first, key: value}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other one has: `lr` for `distill.lr`."""

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[-num:]) for num in range(1, len(parts) + 1)]

    taken = [end for key in keys for end in ends(key)]
    return {key: next((end for end in ends(key) if taken.count(end) == 1), key) for key in keys}
