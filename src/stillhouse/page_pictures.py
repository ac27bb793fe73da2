"""The pictures of a report: stored views beside patch maps, and the nearest neighbours of a few test images."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import LabelledRows, middle_pixels, patch_maps
from stillhouse.eval.leakage import LeakageReport
from stillhouse.eval.pictures import pca_rgb
from stillhouse.eval.report_data import PictureRow, PictureSheet
from stillhouse.eval.report_sheets import Leakage, LeakPair, Neighbour, NeighbourRow, NeighbourSheet
from stillhouse.eval.run import Evaluation
from stillhouse.eval.subjects import exported_student, untrained_student
from stillhouse.stage2_distill.result import STUDENT
from stillhouse.storage.decode import decode
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.views import render

from .judging import Judged
from .pipeline import RunResult
from .pipeline_config import StudentsConfig, student_folder

SHARED = {"file": "the same file", "pixels": "the same pixels", "near": "a near copy"}
"""What a pair of a kind shares, in words."""


def view_pictures(config: StudentsConfig, result: RunResult) -> PictureSheet | None:
    """Stored views beside patch maps: the teacher's from the store, those of the student before and after training.

    None when the store has no patches of the teacher.
    """
    store, student, seed = result.store, result.students[0], result.judged.seeds[0]
    if "patch" not in store.teacher(student.teacher).levels:
        return None
    shown = _shown(store, config.eval.pictures)
    pixels = np.stack([_view(store, view, block, row) for view, block, row in shown])
    codec, grid = store.codec(student.teacher, "patch"), store.teacher(student.teacher).levels["patch"].grid
    stored = [codec.decode(store.codes(student.teacher, "patch", v, b, [i]))[0] for v, b, i in shown]
    maps = [pca_rgb(stored, [grid or (1, len(stored[0]))] * len(stored))]
    folder = student_folder(config, seed) / STUDENT
    for subject in (exported_student(folder, "student"), untrained_student(folder, "untrained", seed)):
        tokens, its_grid = patch_maps(subject, pixels, config.eval)
        maps.append(pca_rgb(tokens, [its_grid] * len(tokens)))
    samples = [store.samples(block)[row] for _, block, row in shown]
    pictures = [
        PictureRow(
            key=sample.key,
            view=view,
            pixels=pixels[n],
            maps=tuple(each[n] for each in maps),
            label=sample.label or "",
        )
        for n, ((view, _, _), sample) in enumerate(zip(shown, samples, strict=True))
    ]
    return PictureSheet(encoders=("teacher", "student", "untrained"), rows=tuple(pictures))


def _shown(store: Store, num: int) -> list[tuple[int, int, int]]:
    """(view, block, row) of up to `num` training samples: the labels in turn, the views in turn."""
    queues: dict[str | None, list[tuple[int, int]]] = {}
    for block in store.plan.blocks_of(TRAIN):
        samples = store.samples(block)
        for row in store.good_rows(block).tolist():
            queues.setdefault(samples[row].label, []).append((block, row))
        if min(map(len, queues.values()), default=0) >= num:
            break
    mixed = [at for group in zip_longest(*queues.values()) for at in group if at is not None]
    return [(n % store.spec.num_views, block, row) for n, (block, row) in enumerate(mixed[:num])]


def _view(store: Store, view: int, block: int, row: int) -> npt.NDArray[np.uint8]:
    """uint8 [S, S, 3]: one stored view, replayed."""
    image = decode(store.image_bytes(block, row))
    return render(image, store.view_params(view, block)[row], store.spec.view_size)


def neighbour_pictures(config: StudentsConfig, judged: Judged) -> NeighbourSheet | None:
    """What teacher and first student put nearest to a few test images, as it was kept when they were judged.

    None without the kNN probe, and of subjects that were judged before neighbours were kept.
    """
    evaluation, subjects = judged.evaluation, (judged.teacher, judged.students[0])
    found = [subject.neighbours for subject in subjects if subject.neighbours is not None]
    if len(found) < len(subjects):
        return None
    train, test, shown = evaluation.train, evaluation.test, found[0].test[: config.eval.pictures]
    tests = _pixels_of(evaluation.store, test, shown, config.eval.threads)
    near = [row for its in found for nearest in its.train[: len(shown)] for row in nearest]
    trains = _pixels_of(evaluation.store, train, near, config.eval.threads)

    def neighbour(row: int, similarity: float, label: int) -> Neighbour:
        its = int(train.labels_N[row])
        name, right = evaluation.classes[its], its == label
        return Neighbour(key=train.keys[row], label=name, similarity=similarity, right=right, pixels=trains[row])

    rows = []
    for number, row in enumerate(shown):
        label = int(test.labels_N[row])
        pairs = [zip(its.train[number], its.similarity[number], strict=True) for its in found]
        rows.append(
            NeighbourRow(
                key=test.keys[row],
                label=evaluation.classes[label],
                pixels=tests[row],
                neighbours=tuple(tuple(neighbour(at, cosine, label) for at, cosine in its) for its in pairs),
            )
        )
    return NeighbourSheet(encoders=("teacher", "student"), rows=tuple(rows), num_train=len(train.keys))


def leakage_sheet(found: LeakageReport, evaluation: Evaluation, config: EvalConfig) -> Leakage:
    """What a search for leakage found, with the first of its pairs to look at."""
    train, test, store, shown = evaluation.train, evaluation.test, evaluation.store, found.pairs[: config.pictures]
    trains = _pixels_of(store, train, [pair.train for pair in shown], config.threads) if shown else {}
    tests = _pixels_of(store, test, [pair.test for pair in shown], config.threads) if shown else {}
    pairs = tuple(
        LeakPair(
            test_key=test.keys[pair.test],
            train_key=train.keys[pair.train],
            how=SHARED[pair.kind] + ("" if pair.cosine is None else f", cosine {pair.cosine:.3f}"),
            test=tests[pair.test],
            train=trains[pair.train],
        )
        for pair in shown
    )
    return Leakage(lines=found.lines, warnings=found.warnings, pairs=pairs, num_pairs=len(found.pairs))


def _pixels_of(
    store: Store, rows: LabelledRows, wanted: Sequence[int], threads: int
) -> dict[int, npt.NDArray[np.uint8]]:
    """row -> uint8 [S, S, 3]: what the encoders were shown of some labelled images."""
    numbers = sorted(set(wanted))
    some = LabelledRows(
        tuple(rows.at[n] for n in numbers), tuple(rows.keys[n] for n in numbers), rows.labels_N[numbers]
    )
    return dict(zip(numbers, middle_pixels(store, some, threads), strict=True))
