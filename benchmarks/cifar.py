"""What each probe says of EfficientNet-Lite0 on CIFAR-10, beside scikit-learn and brute force on the same features.

`python benchmarks/cifar.py --data DIR --work DIR`: 500 images a class and 100 a class of testbed.py at 128 pixels, split by
key hash. `DIR` is a folder with `train.tar` and `test.tar`. kNN is held against cosines of all pairs in float64, logistic
regression, in both published forms, against scikit-learn's L-BFGS at the C that the probe chose.
"""

import argparse
from pathlib import Path

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
import torch
from harness import Bars, write_json
from testbed import LITE0, config, unpack

from stillhouse.core.config import parse_config
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.probe import Features, IntArray
from stillhouse.eval.run import Evaluation, probes_of
from stillhouse.eval.standardise import Standardiser
from stillhouse.eval.subjects import Subject
from stillhouse.ledger import Ledger
from stillhouse.pipeline import run_ingest
from stillhouse.pipeline_config import PipelineConfig
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage1_extract.teachers import Teacher


def brute_force(train: Features, test: Features, k: int, temperature: float) -> IntArray:
    """Class numbers of the test images: softmax-weighted votes of the k largest cosines, in float64."""
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train.cls.astype(float), test.cls.astype(float))
    ]
    cosines_QN = unit[1] @ unit[0].T
    nearest_QK = np.argsort(-cosines_QN, axis=1, kind="stable")[:, :k]
    votes_QC = np.zeros((len(cosines_QN), train.num_classes))
    for row, places in enumerate(nearest_QK):
        weights = np.exp(cosines_QN[row, places] / temperature)
        np.add.at(votes_QC[row], train.labels[places], weights / weights.sum())
    said: IntArray = votes_QC.argmax(axis=1)
    return said


def scikit(train: Features, test: Features, c: float, *, standardise: bool) -> IntArray:
    """Class numbers by scikit-learn's multinomial logistic regression, in float64."""
    from sklearn.linear_model import LogisticRegression

    fit, held = train.cls.astype(np.float64), test.cls.astype(np.float64)
    if standardise:
        scaling = Standardiser.fit(train.cls)
        fit, held = scaling.apply(train.cls), scaling.apply(test.cls)
    said: IntArray = LogisticRegression(C=c, max_iter=3000, tol=1e-8).fit(fit, train.labels).predict(held)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=12_500, help="of the linear probe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpoolctl.threadpool_limits(options.threads)
    unpack(options.data, options.work / "images")
    pipeline = parse_config(PipelineConfig, config(options.work / "images", options.work, "cnn"), where="cifar")
    store, _ = run_ingest(pipeline, Reporter(), Ledger(options.work))
    teacher = Teacher(TeacherConfig.model_validate(LITE0), view_size=store.spec.view_size)
    subject = Subject("lite0", teacher.encoder, teacher.spec.preprocessing, teacher.spec.weights_sha256)
    tables: dict[str, dict[str, float]] = {}
    for preset in ("dinov2", "proteus"):
        settings = {"linear": {"iterations": options.iterations}, "logistic": {"preset": preset}}
        judging = parse_config(EvalConfig, {**settings, "threads": options.threads}, where="eval")
        evaluation = Evaluation(store, judging, options.work / "eval", Reporter())
        given = (subject.name, subject.weights_sha256, lambda: subject)
        judged = evaluation.judge(*given, sees=subject.preprocessing)
        train, test = evaluation.features(*given, sees=subject.preprocessing)
        for probe in probes_of(judging):
            row = {
                "top1": judged.scores[probe.name]["top1"],
                "mean_per_class": judged.scores[probe.name]["mean_per_class"],
            }
            said = judged.predictions[probe.name]
            if probe.name == "knn" and judging.knn is not None:
                other = brute_force(train, test, int(judged.chosen["knn"]["k"]), judging.knn.temperature)
            elif probe.name.startswith("logistic"):
                other = scikit(train, test, judged.chosen[probe.name]["c"], standardise=preset == "proteus")
            else:
                tables[probe.name] = row
                continue
            row |= {
                "top1_of_the_other": float((other == test.labels).mean()),
                "same_answers": float((other == said).mean()),
            }
            tables[probe.name] = row
            print(probe.name, judged.chosen[probe.name], row, flush=True)
    title = (
        f"EfficientNet-Lite0 on CIFAR-10 at 128 pixels: {len(test.labels)} test images, {len(train.labels)} to fit on"
    )
    write_json(options.json, Bars(), {title: tables})


if __name__ == "__main__":
    main()
