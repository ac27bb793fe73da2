"""Codecs on a teacher's own tokens: bits on disk, what is kept, how far from the Gaussian bound, how fast.

`python benchmarks/codec_rates.py --store STORE` reads the tokens of a store made with `codec: fp16` (such as the test bed's), fits
every codec on rows of its first block and measures it on rows of the last. Decoding is timed in torch on one core, as in
training.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import Bars, alternate, write_json

from stillhouse.stage2_distill.decoders import build_decoder
from stillhouse.storage.codecs import Codec, fit_codec
from stillhouse.storage.codecs.distortion import measure
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

BITS = (16, 8, 4, 2, 1, 0.5)
FIT_ROWS, TEST_ROWS = 256, 128

Tokens = npt.NDArray[np.float32]


def tokens_of(store: Store, teacher: str, level: str) -> tuple[Tokens, Tokens]:
    """Rows to fit on, of the first block, and rows to measure on, of the last."""
    blocks, codec, features = store.plan.blocks_of(TRAIN), store.codec(teacher, level), store.features(teacher, level)
    if codec.name != "fp16":
        raise SystemExit(f"{teacher}/{level} is stored as {codec.name}; this needs tokens as they were: codec fp16")
    first, last = (features.read(0, block) for block in (blocks[0], blocks[-1]))
    return codec.decode(first[:FIT_ROWS]), codec.decode(last[-TEST_ROWS:])


def choices(dim: int) -> list[str]:
    """Every codec at the rates that it has."""
    parts = [dim // 8 * bits for bits in (0.5, 1, 2) if dim % 16 == 0]
    exact = ["fp16", "bf16", "int8", "int4"]
    return exact + [f"klt:{bits:g}" for bits in BITS if bits < 16] + [f"pq:{int(part)}" for part in parts]


def decode_speed(codec: Codec, tokens_NTD: Tokens) -> float:
    """Tokens a second of the torch decoder on one core, best of some tries."""
    codes, decode = torch.from_numpy(codec.encode(tokens_NTD)), build_decoder(codec, torch.device("cpu"))
    return _rate(lambda: decode(codes), tokens_NTD.shape[0] * tokens_NTD.shape[1])


def _rate(work: Callable[[], Any], tokens: int) -> float:
    def one_round(number: int) -> int:
        work()
        return tokens

    return alternate({"it": one_round}, 5).median("it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="a store of fp16 features")
    parser.add_argument("--teacher", help="default: the only one")
    parser.add_argument("--quick", action="store_true", help="no klt above 4 bits, no codebooks")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(options.store)
    teacher = options.teacher or store.teachers()[0].name
    fitted, held_out = tokens_of(store, teacher, "patch")
    dim, table = fitted.shape[-1], {}
    print("codec: bits a dimension on disk, SNR and its Gaussian bound in dB, cosine, thousand tokens a second")
    for choice in choices(dim):
        if options.quick and (choice.startswith("pq") or choice in ("klt:8",)):
            continue
        codec = fit_codec(choice, fitted)
        begin = time.perf_counter()
        codec.encode(held_out)
        encoded = held_out.shape[0] * held_out.shape[1] / (time.perf_counter() - begin)
        point = measure(choice, codec, held_out)
        row = {"bits": point.bits, "nmse": point.nmse, "snr_db": point.snr_db, "cosine": point.cosine}
        row["bound_db"] = float(-10 * np.log10(max(point.bound_nmse, 1e-30)))
        row |= {"encode_ktok_s": encoded / 1e3, "decode_ktok_s": decode_speed(codec, held_out) / 1e3}
        table[choice] = row
        print(f"  {choice:9} {' '.join(f'{name} {value:9.4g}' for name, value in row.items())}", flush=True)
    write_json(options.json, Bars(), {f"{teacher}/patch, {dim} dimensions": table})


if __name__ == "__main__":
    main()
