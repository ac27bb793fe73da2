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
    text, loaded = _load_tree(path, overrides)
    try:
        return model.model_validate(loaded)
    except ValidationError as error:
        keys = _keys(loaded, _first(error))
        origin = next((override for override in reversed(overrides) if _is_about(override, keys)), None)
        where = f"config {path}" if origin is None else f"override {origin!r}"
        raise UsageError(f"{where}{_explain(model, error, loaded, text if origin is None else '')}") from error


def sections_of(path: Path, overrides: Sequence[str] = ()) -> set[str]:
    """The top-level keys of a config file with overrides applied. UsageError as for `load_config`."""
    return {str(key) for key in _load_tree(path, overrides)[1]}


def _load_tree(path: Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(the text of a config file, what it says with overrides applied)."""
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
    return text, loaded


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


def config_of(model: type[C], overrides: Sequence[str]) -> C:
    """A config of `key=value` alone, every other value its default.

    Raises:
        UsageError: an unknown key (the nearest known one is named), a value out of range.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(model, tree, where="setting")


def parse_config(model: type[C], value: Any, *, where: str) -> C:
    """Validate `value` as `model`; the first problem becomes one UsageError that names key, rule and remedy."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(f"{where}{_explain(model, error, value)}") from error


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


def _first(error: ValidationError) -> Any:
    """The problem to tell of: an unknown key, which may be the cause of the others, or else the first."""
    problems = error.errors(include_url=False)
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])


def _keys(value: Any, problem: Any) -> list[str]:
    """The keys of a problem's place as the user wrote them: without pydantic's names of union members."""
    keys, loc = [], problem["loc"]
    for depth, part in enumerate(loc):
        known = part in (range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ())
        if known or depth == len(loc) - 1:
            keys.append(str(part))
            value = value[part] if known else None
    return [*keys, "kind"] if problem["type"].startswith("union_tag") else keys


def _is_about(override: str, keys: Sequence[str]) -> bool:
    """True when the override gave the value at `keys`, or a section around it."""
    given = override.partition("=")[0].split(".")
    return given == list(keys[: len(given)])


def _explain(model: type[BaseModel], error: ValidationError, value: Any, text: str = "") -> str:
    """The problem to tell of as the rest of a line that begins with where the value is from."""
    problem, num = _first(error), error.error_count()
    keys = _keys(value, problem)
    dotted = ".".join(keys)
    line = _line_of(text, keys[-1]) if keys else ""
    more = f" (and {num - 1} more)" if num > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, [str(part) for part in problem["loc"][:-1]]))
        return f"{line}: unknown key {dotted!r}; {_nearest(keys[-1], known, 'known keys')}{more}"
    if problem["type"] == "union_tag_invalid":
        kind, kinds = problem["ctx"]["tag"], re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
        return f"{line}: {dotted}: unknown kind {kind!r}; {_nearest(kind, kinds, 'known kinds')}{more}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f": {dotted!r} is required and not given{more}"
    got = "" if isinstance(problem["input"], dict) else f"; got {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{line}: {f'{dotted}: ' if dotted else ''}{message}{got}{more}"


def _nearest(name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(known)}"


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
