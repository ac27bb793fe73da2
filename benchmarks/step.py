"""A training step fed from a store against the same step fed from RAM, and decoding on one core against faiss.

`python benchmarks/step.py --work DIR` reads the store of a bed (see testbed.py), encodes its tokens with each codec of
`--choices` and runs slices of steps in turn: from the store through the loader, and with the very batches of those steps held
in memory, pixels and codes. Rendered pixels are kept by the loader from the first pass on, as in any run of several passes.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from harness import Bars, alternate, parser, print_table, write_json
from recode import recode
from testbed import BEDS, config

from stillhouse.core.config import parse_config
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.decoders import build_decoder
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.store import Store

CHOICES = ("fp16", "ecsq:2+ecsq:0.92", "klt:2+klt:0.92", "pq:160")
DEFAULT = "fp16"
SLICE = 16
"""Steps of a slice."""
FAISS_TOKENS = 16_384


def plain(choice: str) -> str:
    """A choice as a name on disk."""
    return choice.replace(":", "-").replace("+", "_")


def contestants(store: Store, settings: DistillConfig) -> dict[str, Callable[[int], int]]:
    """`store` and `ram`: each does a slice of steps and returns how many."""
    taught = taught_by(settings, store)
    trainer = Trainer(settings, store, taught)
    loader = Loader(store, {one.name: one.levels for one in taught}, settings, trainer.student.image_size)
    trainer.begin(loader.steps_per_epoch)
    for _ in itertools.chain.from_iterable(loader.epoch(epoch) for epoch in range(store.spec.num_views)):
        pass  # every view is rendered once
    endless = _endless(loader)
    held = [_copy(batch) for batch in itertools.islice(_endless(loader), SLICE)]

    def steps(batches: Iterator[Batch]) -> int:
        for batch in batches:
            trainer.train_step(batch)
        return SLICE

    return {
        "store": lambda number: steps(itertools.islice(endless, SLICE)),
        "ram": lambda number: steps(iter(held)),
    }


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def _copy(batch: Batch) -> Batch:
    codes = {teacher: {level: each.copy() for level, each in levels.items()} for teacher, levels in batch.codes.items()}
    return Batch(batch.pixels_BSSC.copy(), codes, batch.pairs)


def decode_rates(store: Store, source: str, bars: Bars) -> dict[str, dict[str, float]]:
    """Million tokens a second on one core: the decoders of training, and faiss' `sa_decode` of as many bytes as `pq`."""
    codec, features = store.codec(source, "patch"), store.features(source, "patch")
    blocks = store.plan.blocks_of("train")
    tokens = np.concatenate([codec.decode(features.read(0, block)) for block in blocks[:3]])
    dim = tokens.shape[-1]
    part = max(m for m in range(1, dim // 8 + 1) if dim % m == 0)
    rows = tokens[: FAISS_TOKENS // tokens.shape[1]]
    peer = faiss.IndexPQ(dim, part, 8)
    peer.pq.cp.min_points_per_centroid = 1
    peer.train(tokens.reshape(-1, dim))
    peer_codes = peer.sa_encode(np.ascontiguousarray(rows.reshape(-1, dim)))
    device, work = torch.device("cpu"), {}
    for choice in (DEFAULT, "bf16", "int8", "int4", "ecsq:1", "klt:1", f"pq:{part}"):
        fitted = fit_codec(choice, tokens)
        codes = torch.from_numpy(fitted.encode(rows))
        work[choice] = _work(build_decoder(fitted, device), codes)

    def sa_decode(number: int) -> int:
        peer.sa_decode(peer_codes)
        return len(peer_codes)

    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rounds = alternate({**work, "faiss": sa_decode}, 9)
    torch.set_num_threads(threads[0])
    faiss.omp_set_num_threads(threads[1])
    bars.check("codecs.decode_default_over_faiss", rounds.ratio(DEFAULT, "faiss"), ">=", 4)
    return {
        name: {"mtok_per_s": rounds.median(name) / 1e6, "of_faiss": rounds.ratio(name, "faiss")}
        for name in rounds.rates
    }


def _work(decode: Callable[[torch.Tensor], torch.Tensor], codes_NTC: torch.Tensor) -> Callable[[int], int]:
    parts = [codes_NTC[start : start + 64] for start in range(0, len(codes_NTC), 64)]  # batches, as in training

    def work(number: int) -> int:
        for part in parts:
            decode(part)
        return codes_NTC.shape[0] * codes_NTC.shape[1]

    return work


def main() -> None:
    options_of = parser(__doc__, quick="fewer rounds, two codecs")
    options_of.add_argument("--work", type=Path, required=True, help="a bed's folder, with its store")
    options_of.add_argument("--bed", choices=BEDS, default="cnn")
    options_of.add_argument("--choices", nargs="*", default=CHOICES, help="none: only what is decoded on one core")
    options = options_of.parse_args()
    choices, rounds_of_all = (options.choices[:2], 5) if options.quick else (options.choices, 11)
    bars, table = Bars(), {}
    store = Store.open(options.work / "store")
    settings: dict[str, Any] = config(options.work / "images", options.work, options.bed)
    source = settings["teachers"][0]["name"]
    for choice in choices:
        name, parts = f"{source}.{plain(choice)}", choice.split("+")
        recode(store, source, choice if len(parts) == 1 else dict(zip(("cls", "patch"), parts, strict=True)), name)
        distill = parse_config(DistillConfig, {**settings["distill"], "teacher": name}, where="distill")
        begin = time.perf_counter()
        rounds = alternate(contestants(store, distill), rounds_of_all)
        ratio = rounds.ratio("ram", "store")
        table[choice] = {
            "store_img_per_s": distill.batch * rounds.median("store"),
            "ram_img_per_s": distill.batch * rounds.median("ram"),
            "step_over_ram": ratio,
            "seconds": time.perf_counter() - begin,
        }
        bars.check(f"step.{options.bed}.{choice}.over_ram", ratio, "<=", 1.05)
    tables: dict[str, Any] = {f"{options.bed}: a cached step": table} if table else {}
    if table:
        print_table("images a second from the store, from RAM, seconds of a step over that from RAM", table)
    decoding = decode_rates(store, source, bars)
    print_table("decoding on one core: million tokens a second, ratio to faiss sa_decode", decoding)
    bars.print()
    write_json(options.json, bars, {**tables, "decoding on one core": decoding})


if __name__ == "__main__":
    main()
