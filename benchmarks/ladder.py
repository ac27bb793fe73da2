"""Proteus' ladder of baselines on a real teacher: what each objective adds, and what one photograph is worth.

`python benchmarks/ladder.py --data cifar10 --work /tmp/ladder` trains one student a rung and seed: the bed `vit` of testbed.py
(5,000 CIFAR-10 images, DINOv2-S of ten blocks, a small ViT), with conventional distillation (labels and the teacher's
logits), logits alone, hint (cls), cls and patches, all three objectives; and all three on 5,000 crops of one photograph
in place of the images. A seed fixes initialisation, order and masks.

CE and KL share one classifier, so the teacher needs logits of the labels' classes: a linear classifier fitted on its cls
tokens of the training images (scikit-learn's logistic regression; its C is what our probe chooses on held-out ones).

All is done by the product's own steps and kept under `--work`: stop and run again to go on, or share the work with
`--shard 0/2` and `--shard 1/2`; the same command without `--shard` then prints the table. Judged by kNN and linear probe.
"""

import argparse
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import threadpoolctl  # type: ignore[import-untyped]
import torch
import vits
from codec_students import alone
from harness import Bars, write_json
from paired import UNTRAINED, Line, flat, print_table, table_of
from testbed import VITS, config, unpack

from stillhouse.core.config import parse_config
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import encode_images, middle_pixels
from stillhouse.eval.judged import Judgement
from stillhouse.eval.logistic import LogisticConfig, LogisticProbe
from stillhouse.eval.run import Evaluation
from stillhouse.eval.subjects import Subject, exported_student, teacher_subject, untrained_student
from stillhouse.ledger import Ledger
from stillhouse.pipeline import run_distill, run_extract, run_ingest
from stillhouse.pipeline_config import PipelineConfig, student_folder
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage2_distill.result import STUDENT
from stillhouse.storage.store import Store

FULL, TEACHER = "full", "teacher"
OBJECTIVES: dict[str, dict[str, float]] = {
    "ce-kl": {"ce": 1.0, "kl": 1.0},
    "kl": {"kl": 1.0},
    "hint": {"token": 1.0},
    "token-feature": {"token": 1.0, "feature": 1.0},
    FULL: {"token": 1.0, "feature": 1.0, "patch": 1.0},
}
ONE_IMAGE = "full-one-image"
RUNGS = (*OBJECTIVES, ONE_IMAGE)
NUM_CLASSES = 10
PHOTOGRAPH = ("sklearn", "datasets/images/china.jpg")


class Ladder:
    """The stores of the study and the pipeline of each rung."""

    def __init__(self, work: Path, data: Path | None, epochs: int, threads: int) -> None:
        self.work, self._data, self._epochs, self._threads = work, data, epochs, threads
        self._reporter, self._ledger = Reporter(), Ledger(work)

    def settings(self, rung: str) -> dict[str, Any]:
        """The pipeline of a rung. Students differ by their objectives, or by the store they are trained from."""
        found = config(self.work / "images", self.work, "vit", epochs=self._epochs)
        found["teachers"] = [self._teacher()]
        found["distill"] |= {"name": rung, "objectives": OBJECTIVES.get(rung, OBJECTIVES[FULL])}
        found["distill"]["threads"] = self._threads
        found["eval"] |= {"logistic": None, "threads": self._threads}
        if rung == ONE_IMAGE:
            found["store"] = str(self.work / "store-one-image")
            found["ingest"] = {"source": _crops(), "block_samples": found["ingest"]["block_samples"]}
            found["eval"]["store"] = str(self.work / "store")
        return found

    def pipeline(self, rung: str) -> PipelineConfig:
        return parse_config(PipelineConfig, self.settings(rung), where="ladder")

    def store(self, rung: str) -> Store:
        """The sealed store that the students of a rung are trained from; made when it is not there."""
        pipeline = self.pipeline(rung)
        with alone(self.work):
            if self._data is not None:
                unpack(self._data, self.work / "images")
            store, _ = run_ingest(pipeline, self._reporter, self._ledger)
            if not self._weights.exists():
                self._fit_classifier(store)
            run_extract(pipeline, store, self._reporter, self._ledger)
        return Store.open(pipeline.store_path)

    def run(self, rung: str, seed: int) -> Line:
        """One student, trained and judged, or found so."""
        images = self.store(FULL)  # on which all are judged
        pipeline, store = self.pipeline(rung), self.store(rung)
        (made,) = run_distill(pipeline, store, [seed], self._reporter, self._ledger)
        name, folder = f"{rung}-seed{seed}", student_folder(pipeline, seed) / STUDENT
        sees = images.teacher("vits").preprocessing.model_copy(update={"size": made.image_size})
        load = partial(exported_student, folder, name)
        judged = self._evaluation(images).judge(name, made.weights_sha256, load, sees=sees)
        return {"choice": rung, "seed": seed, **_scores(judged)}

    def references(self, seed: int) -> list[Line]:
        """The teacher, and a student of a seed as it was before it was trained; its rung does not matter."""
        images, pipeline = self.store(FULL), self.pipeline(FULL)
        spec = images.teacher("vits")
        teacher = self._evaluation(images).judge(
            "teacher",
            spec.weights_sha256,
            lambda: teacher_subject(pipeline.teacher_of("vits"), spec),
            sees=spec.preprocessing,
        )
        folder, name = student_folder(pipeline, seed) / STUDENT, f"untrained-seed{seed}"
        start = untrained_student(folder, name, seed)
        untrained = self._evaluation(images).judge(name, name, lambda: start, sees=start.preprocessing)
        return [
            {"choice": TEACHER, "seed": seed, **_scores(teacher)},
            {"choice": UNTRAINED, "seed": seed, **_scores(untrained)},
        ]

    def _evaluation(self, store: Store) -> Evaluation:
        return Evaluation(store, self.pipeline(FULL).eval, self.work / "eval", self._reporter)

    @property
    def _weights(self) -> Path:
        return self.work / "vits-with-classifier.safetensors"

    def _teacher(self) -> dict[str, Any]:
        args = {**VITS["model_args"], "num_classes": NUM_CLASSES}
        return {**VITS, "model_args": args, "checkpoint": str(self._weights), "levels": ["cls", "patch", "logits"]}

    def _fit_classifier(self, store: Store) -> None:
        """The teacher's weights with a classifier of the labels, as one file under timm's names."""
        from sklearn.linear_model import LogisticRegression

        plain = vits.weights(self.work)
        made = Teacher(TeacherConfig.model_validate({**VITS, "checkpoint": str(plain)}), view_size=store.spec.view_size)
        subject = Subject("vits", made.encoder, made.spec.preprocessing, made.spec.weights_sha256)
        judging = parse_config(EvalConfig, {"threads": self._threads}, where="eval")
        rows = Evaluation(store, judging, self.work / "eval", self._reporter)
        train, test = (
            encode_images(subject, middle_pixels(store, part, self._threads), part.labels_N, NUM_CLASSES, judging)
            for part in (rows.train, rows.test)
        )
        chosen = LogisticProbe(LogisticConfig(num_c=12)).run(train, test).chosen["c"]
        model = LogisticRegression(C=chosen, max_iter=2000).fit(train.cls, train.labels)
        print(
            f"classifier of the teacher: C {chosen:g}, top 1 {model.score(test.cls, test.labels):.3f} on held-out images"
        )
        found = safetensors.torch.load_file(plain)
        found["head.weight"] = torch.from_numpy(model.coef_).float().contiguous()
        found["head.bias"] = torch.from_numpy(model.intercept_).float().contiguous()
        part = self._weights.with_suffix(".part")
        safetensors.torch.save_file(found, part)
        part.rename(self._weights)


def _scores(judged: Judgement) -> dict[str, float]:
    return {name: scores["top1"] for name, scores in judged.scores.items()}


def _crops() -> dict[str, Any]:
    package, path = PHOTOGRAPH
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the photograph is part of {package}, which is not installed")
    photograph = Path(next(iter(spec.submodule_search_locations))) / path
    return {"kind": "crops", "paths": [str(photograph)], "num": 5000, "output_side": 128}


def _shard(text: str) -> tuple[int, int]:
    part, parts = (int(number) for number in text.split("/"))
    if not 0 <= part < parts:
        raise ValueError(text)
    return part, parts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.tar and test.tar; not needed once unpacked")
    parser.add_argument("--work", type=Path, required=True, help="where stores, students and scores go")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=RUNGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="do every N-th student from the I-th"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, one pass, logits alone")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.rungs = 1, 1, ("kl",)
    return options


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    threadpoolctl.threadpool_limits(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    ladder = Ladder(options.work, options.data, options.epochs, options.threads)
    every = [(rung, seed) for seed in range(options.seeds) for rung in options.rungs]
    lines: list[Line] = []
    for rung, seed in every[options.shard[0] :: options.shard[1]]:
        lines.append(ladder.run(rung, seed))
        print(lines[-1], flush=True)
    if options.shard != (0, 1):
        return
    if FULL in options.rungs:
        lines += [line for seed in range(options.seeds) for line in ladder.references(seed)]
    table, bars = table_of(lines, (TEACHER, *options.rungs, UNTRAINED), FULL), Bars()
    print_table(table, FULL)
    if FULL in table and "deviation" in table[FULL]["knn"]:
        gain = table[FULL]["knn"]["mean"] - table[UNTRAINED]["knn"]["mean"]
        bars.check("ladder.full.knn_gain_in_deviations", gain / table[FULL]["knn"]["deviation"], ">=", 10)
    bars.print()
    rows = {name: flat(row, FULL) for name, row in table.items()}
    write_json(options.json, bars, {f"ViT from ViT, {options.epochs} passes": rows})


if __name__ == "__main__":
    main()
