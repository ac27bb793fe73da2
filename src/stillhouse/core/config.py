"""Config files: YAML is data, read strictly into frozen pydantic models.

Every section's model lives beside the code that it configures and derives from `Config`. This file only loads.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UsageError

MAX_CONFIG_CHARS = 1 << 20

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config section: frozen, unknown keys refused. A number may come as text (YAML's 1e-3 does)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON form; equal configs have equal digests."""
        return config_digest(self.model_dump(mode="json"))


def config_digest(value: Any) -> str:
    """First 16 hex digits of the sha256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_config(model: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read `path` as `model`, then apply `section.key=value` overrides.

    Raises:
        UsageError: no such file, not YAML, an unknown key (the nearest known one is named), a value out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"config {path}: {error.strerror or error}", hint="name a file that exists") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config {path}: not UTF-8 text (byte {error.start})") from error
    if len(text) > MAX_CONFIG_CHARS:
        raise UsageError(f"config {path}: {len(text)} characters; a config has at most {MAX_CONFIG_CHARS}")
    loaded = _parse_yaml(text, f"config {path}")
    if not isinstance(loaded, dict):
        raise UsageError(f"config {path}: expected a mapping of sections, got {type(loaded).__name__}")
    for override in overrides:
        _apply_override(loaded, override)
    return parse_config(model, loaded, where=f"config {path}", text=text)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, not a silent last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def parse_config(model: type[C], value: Any, *, where: str, text: str = "") -> C:
    """Validate `value` as `model`; the first problem becomes one UsageError that names key, rule and remedy."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(f"{where}{_explain(model, error, text)}") from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise UsageError(f"override {override!r} is not of the form section.key=value")
    value = _parse_yaml(raw, f"override {override!r}") if raw else None
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as a string
    parts = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        step: int | str = int(part) if isinstance(node, list) and part.isdigit() else part
        try:
            child = node[step]
        except (KeyError, IndexError, TypeError):
            child = None
        if child is None and isinstance(node, dict):
            child = node[step] = {}
        if not isinstance(child, dict | list):
            raise UsageError(f"override {override!r}: {'.'.join(parts[: depth + 1])!r} is not a section")
        node = child
    last = parts[-1]
    try:
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError) as error:
        raise UsageError(f"override {override!r}: no element {last!r} in the list") from error


def _explain(model: type[BaseModel], error: ValidationError, text: str) -> str:
    """The first problem of a validation error as one line."""
    problems = error.errors(include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    line = _line_of(text, path[-1]) if path else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, path[:-1]))
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{line}: unknown key {dotted!r}; {remedy}{more}"
    if problem["type"] == "missing":
        return f": {dotted!r} is required and not given{more}"
    got = "" if isinstance(problem["input"], dict) else f"; got {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{line}: {dotted or 'config'}: {message}{got}{more}"


def _line_of(text: str, key: str) -> str:
    hits = [n for n, row in enumerate(text.splitlines(), 1) if re.match(rf"\s*(- )?{re.escape(key)}\s*:", row)]
    return f":{hits[0]}" if len(hits) == 1 else ""


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> set[str]:
    """Keys allowed at `path` below `model`; union members and list indices in the path are walked through."""
    models = {model}
    for part in path:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        found = {found for annotation in fields for found in _models_in(annotation)}
        models = found or models
    return {key for m in models for key in m.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
