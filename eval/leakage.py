"""What a test set shares with the training images: copies, near copies, groups that lie in both; and a biased order.

`check_leakage` is the entry; it computes and never changes a split. A score on images that were trained on is no score, so
it is given with and without those that are touched. docs/evaluations/leakage.md

Legend: Q test images, N train images, D width.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.storage.store import Store

from .duplicates import Kind, Near, Pair, merged, near, same
from .features import LabelledRows
from .knn import unit_rows
from .order_bias import Autocorrelation, order_of_labels, order_of_rows
from .probe import FloatArray, IntArray

NUM_NAMED = 3


class LeakageConfig(Config):
    """When two images are taken for one picture, and which keys belong together."""

    cosine: float = Field(0.99, gt=0, le=1)
    """Of two images' class tokens, from which they are near duplicates however many others are as near. With features of a
    copy detector (SSCD): 0.6 within a set and 0.45 between sets, as DINOv2 does."""
    ratio: float | None = Field(0.4, gt=0, lt=1)
    """Or the distance (1 - cosine) to a training image is at most this share of that to the one at place `neighbours`."""
    neighbours: int = Field(10, ge=2)
    """Training images that are looked at for each test image."""
    group: str | None = None
    """A regular expression searched in keys; what it finds, or its first group, names what must not lie in both splits: a
    clip, a patient, a scene. `^(.*)_` groups by what stands before the last underscore."""

    @field_validator("group")
    @classmethod
    def _compiles(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return group


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """One split in the order of its data set; what is not known is None and not looked at."""

    keys: tuple[str, ...]
    labels_N: IntArray
    cls_ND: FloatArray | None = None
    pixel_hashes: tuple[int, ...] | None = None
    source_hashes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakageReport:
    """What was found, for people, for pictures and for machines."""

    lines: tuple[str, ...]
    """One for each check, and one for each that was not made."""
    warnings: tuple[str, ...]
    """Those of them that someone must act on."""
    pairs: tuple[Pair, ...]
    """Rows of test and train images that show one picture."""
    touched_Q: NDArray[np.bool_]
    """Test images in one of the pairs."""
    facts: dict[str, Any]
    """Every number, as plain JSON values."""


def images_of(store: Store, rows: LabelledRows, cls_ND: FloatArray | None = None) -> Images:
    """What the index of a store says of these samples, with their features in the same order."""
    samples = {block: list(store.samples(block)) for block in {block for block, _ in rows.at}}
    found = [samples[block][row] for block, row in rows.at]
    return Images(
        keys=rows.keys,
        labels_N=rows.labels_N,
        cls_ND=cls_ND,
        pixel_hashes=tuple(sample.pixel_hash for sample in found),
        source_hashes=tuple(sample.source_sha256 for sample in found),
    )


def check_leakage(
    train: Images,
    test: Images,
    config: LeakageConfig,
    correct: Mapping[str, NDArray[np.bool_]] | None = None,
) -> LeakageReport:
    """Hold a test split against the training images.

    Args:
        correct: by probe, which test images it gets right; gives scores with and without the touched ones.

    Raises:
        UsageError: `group` matches no key.
        ResourceError: faiss is not installed.
    """
    alike = _near(train, test, config)
    pairs = merged([*_copies(train, test), *(alike.pairs if alike is not None else ())])
    touched_Q = np.zeros(len(test.keys), np.bool_)
    touched_Q[[pair.test for pair in pairs]] = True
    lines = [
        *_not_looked_for(train, test, alike, config),
        *_pair_lines(pairs, touched_Q, train, test),
        *_score_lines(touched_Q, correct or {}),
        *_group_lines(train.keys, test.keys, config.group),
        *_order_lines("train", train),
        *_order_lines("test", test),
    ]
    facts: dict[str, Any] = {"pairs": dict(Counter(pair.kind for pair in pairs)), "touched": int(touched_Q.sum())}
    for line in lines:
        facts |= line.facts
    return LeakageReport(
        lines=tuple(line.text for line in lines),
        warnings=tuple(line.text for line in lines if line.warns),
        pairs=pairs,
        touched_Q=touched_Q,
        facts=facts,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    warns: bool
    facts: Mapping[str, Any]


def _copies(train: Images, test: Images) -> list[Pair]:
    found: list[Pair] = []
    if train.source_hashes is not None and test.source_hashes is not None:
        found += same(train.source_hashes, test.source_hashes, "file")
    if train.pixel_hashes is not None and test.pixel_hashes is not None:
        found += same(train.pixel_hashes, test.pixel_hashes, "pixels")
    return found


def _near(train: Images, test: Images, config: LeakageConfig) -> Near | None:
    """None without features."""
    if train.cls_ND is None or test.cls_ND is None:
        return None
    return near(train.cls_ND, test.cls_ND, **config.model_dump(include={"cosine", "ratio", "neighbours"}))


def _not_looked_for(train: Images, test: Images, found: Near | None, config: LeakageConfig) -> Iterator[_Line]:
    if train.pixel_hashes is None or test.pixel_hashes is None:
        yield _Line("copies were not looked for: there are no hashes of pixels", False, {})
    if found is None:
        yield _Line("near duplicates were not looked for: there are no features", False, {})
    elif found.alike:
        num = min(config.neighbours, len(train.keys))
        text = f"near duplicates were not told by their cosine: most test images have {num} training images at"
        yield _Line(f"{text} {config.cosine:g} or more, so these features do not tell images apart", False, {})


def _pair_lines(pairs: Sequence[Pair], touched_Q: NDArray[np.bool_], train: Images, test: Images) -> Iterator[_Line]:
    num, kinds = int(touched_Q.sum()), Counter(pair.kind for pair in pairs)
    if not pairs:
        yield _Line(f"none of {len(touched_Q):,} test images is among the training images", False, {})
        return
    said: dict[Kind, str] = {"file": "the same file", "pixels": "the same pixels", "near": "near duplicates"}
    told = ", ".join(f"{kinds[kind]:,} {what}" for kind, what in said.items() if kinds[kind])
    named = [f"{test.keys[pair.test]} is {train.keys[pair.train]}" for pair in pairs[:NUM_NAMED]]
    others = sum(test.labels_N[pair.test] != train.labels_N[pair.train] for pair in pairs)
    differ = f", {others:,} of them with another label" if others else ""
    text = f"{num:,} of {len(touched_Q):,} test images ({num / len(touched_Q):.2%}) are among the training images"
    yield _Line(f"{text}: {told}{differ}; {'; '.join(named)}", True, {"pairs_with_another_label": int(others)})


def _score_lines(touched_Q: NDArray[np.bool_], correct: Mapping[str, NDArray[np.bool_]]) -> Iterator[_Line]:
    if not touched_Q.any() or touched_Q.all():
        return
    scores = {
        name: {"all": float(right_Q.mean()), "untouched": float(right_Q[~touched_Q].mean())}
        for name, right_Q in correct.items()
    }
    for name, score in scores.items():
        text = f"{name}: top-1 {score['all']:.4f} on all test images, {score['untouched']:.4f} without those touched"
        yield _Line(text, False, {"top1": scores})


def _group_lines(train: Sequence[str], test: Sequence[str], pattern: str | None) -> Iterator[_Line]:
    both = sorted(set(train) & set(test))
    if both:
        text = (
            f"{len(both):,} keys are in both splits, the first is {both[0]!r}; two stores may name other images alike"
        )
        yield _Line(text, False, {"keys_in_both": len(both)})
    if pattern is None:
        yield _Line("groups were not looked for: no `group` says which keys belong together", False, {})
        return
    groups = shared_groups(train, test, pattern)
    shared = [group for group, counts in groups.items() if min(counts) > 0]
    num = sum(groups[group][1] for group in shared)
    facts = {"groups": len(groups), "groups_in_both": len(shared), "test_images_of_groups_in_both": num}
    if not shared:
        yield _Line(f"none of {len(groups):,} groups lies in both splits", False, facts)
        return
    named = ", ".join(repr(group) for group in shared[:NUM_NAMED])
    text = f"{len(shared):,} of {len(groups):,} groups lie in both splits, with {num:,} of {len(test):,} test images: {named}"
    yield _Line(f"{text}; split by group: key hashes part what belongs together", True, facts)


def shared_groups(train: Sequence[str], test: Sequence[str], pattern: str) -> dict[str, tuple[int, int]]:
    """Images of each group in (train, test); a key that the pattern does not match is a group of its own.

    Raises:
        UsageError: the pattern matches no key.
    """
    compiled, found, num_matched = re.compile(pattern), [Counter[str](), Counter[str]()], 0
    for counts, keys in zip(found, (train, test), strict=True):
        for key in keys:
            match = compiled.search(key)
            num_matched += match is not None
            group = key if match is None else match[1 if compiled.groups else 0]
            counts[key if group is None else group] += 1
    if not num_matched:
        message = f"group {pattern!r} matches none of {len(train) + len(test):,} keys, such as {[*train, *test][0]!r}"
        raise UsageError(message, hint="correct the pattern; it is searched in the whole key")
    return {group: (found[0][group], found[1][group]) for group in sorted(found[0].keys() | found[1].keys())}


def _order_lines(split: str, images: Images) -> Iterator[_Line]:
    measured: dict[str, Autocorrelation] = {"labels": order_of_labels(images.labels_N)}
    if images.cls_ND is not None:
        measured["features"] = order_of_rows(unit_rows(images.cls_ND))
    for what, found in measured.items():
        numbers = f"autocorrelation {found.value:+.3f}, z {found.z:+.1f}"
        facts = {f"order_{split}_{what}": {"autocorrelation": found.value, "z": found.z}}
        if found.biased:
            text = f"{what} of {split} follow the order of the images ({numbers}): ingest with `order: hashed`"
        else:
            text = f"{what} of {split} do not follow the order of the images ({numbers})"
        yield _Line(text, found.biased, facts)
