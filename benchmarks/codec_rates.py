"""Codecs on a teacher's own tokens: bits on disk, what is kept, how far from the Gaussian bound, how fast.

`python benchmarks/codec_rates.py --store STORE` reads the tokens of a store made with `codec: fp16` (such as the test bed's), fits
every codec on the first rows of view 0 and measures it on rows of the last block. Encoding is timed with packing, unpacking
and decoding apart: a loader thread unpacks, the training device decodes. All on one core.
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
from stillhouse.storage.codecs import Codec, fit_codec, pack, stored_type, unpack
from stillhouse.storage.codecs.distortion import Spectrum, decibels, measure
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

BITS = (4, 2, 1, 0.5, 0.25)
FIT_ROWS, TEST_ROWS = 2048, 256
QUICK = ("fp16", "int4", "ecsq:1", "klt:1")
WIDEST = {"opq": 512, "rq": 512}
"""Dimensions up to which a codec is tried: its fit takes an hour beyond. `rq` is encoded at 300 tokens a second, so at one rate."""

Tokens = npt.NDArray[np.float32]


def tokens_of(store: Store, teacher: str, level: str) -> tuple[Tokens, Tokens]:
    """Rows to fit on, of the first block, and rows to measure on, of the last."""
    blocks, codec, features = store.plan.blocks_of(TRAIN), store.codec(teacher, level), store.features(teacher, level)
    if codec.name != "fp16":
        raise SystemExit(f"{teacher}/{level} is stored as {codec.name}; this needs tokens as they were: codec fp16")
    found: list[Tokens] = []
    for block in blocks[:-1]:
        found.append(codec.decode(features.read(0, block)))
        if sum(map(len, found)) >= FIT_ROWS:
            break
    return np.concatenate(found)[:FIT_ROWS], codec.decode(features.read(0, blocks[-1])[-TEST_ROWS:])


def choices(dim: int) -> list[str]:
    """Every codec at the rates that it has."""
    parts = [m for m in (dim // 16, dim // 8, dim // 4) if m and dim % m == 0]
    coded = [f"{name}:{bits:g}" for name in ("ecsq", "klt") for bits in BITS]
    books = [f"{name}:{part}" for name in ("pq", "opq", "rq") for part in parts if dim <= WIDEST.get(name, dim)]
    books = [choice for choice in books if not choice.startswith("rq") or choice == f"rq:{parts[0]}"]
    return ["fp16", "bf16", "int8", "int4", *coded, *books]


def speeds(codec: Codec, tokens_NTD: Tokens) -> dict[str, float]:
    """Thousand tokens a second: encode and pack, unpack, decode in torch."""
    codes, decode = codec.encode(tokens_NTD), build_decoder(codec, torch.device("cpu"))
    stored, tensor = pack(codec, codes), torch.from_numpy(codes)
    work = {
        "encode_ktok_s": lambda: pack(codec, codec.encode(tokens_NTD)),
        "unpack_ktok_s": lambda: unpack(codec, stored),
        "decode_ktok_s": lambda: decode(tensor),
    }
    found = {name: _rate(one, tokens_NTD.shape[0] * tokens_NTD.shape[1]) / 1e3 for name, one in work.items()}
    if stored_type(codec) == codec.code_type:
        del found["unpack_ktok_s"]
    return found


def _rate(work: Callable[[], Any], tokens: int) -> float:
    def one_round(number: int) -> int:
        work()
        return tokens

    return alternate({"it": one_round}, 3).median("it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="a store of fp16 features")
    parser.add_argument("--teacher", help="default: the only one")
    parser.add_argument("--quick", action="store_true", help="four codecs")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(options.store)
    teacher = options.teacher or store.teachers()[0].name
    fitted, held_out = tokens_of(store, teacher, "patch")
    dim, table = fitted.shape[-1], {}
    spectrum = Spectrum.of(np.concatenate([fitted, held_out]))
    wanted = [choice for choice in choices(dim) if not options.quick or choice in QUICK]
    print("codec: bits a dimension on disk, dB from the Gaussian bound at these bits, thousand tokens a second")
    for choice in wanted:
        begin = time.perf_counter()
        codec = fit_codec(choice, fitted, store.teacher(teacher).levels["patch"].grid)
        seconds = time.perf_counter() - begin
        point = measure(choice, codec, held_out, spectrum)
        row = {"bits": point.bits, "nmse": point.nmse, "snr_db": point.snr_db, "cosine": point.cosine}
        row["over_bound_db"] = point.snr_db - decibels(point.bound_nmse)
        row["leading_db"] = decibels(point.leading_nmse)
        row |= {"fit_s": seconds, **speeds(codec, held_out)}
        table[choice] = row
        print(f"  {choice:9} {' '.join(f'{name} {value:9.4g}' for name, value in row.items())}", flush=True)
    write_json(options.json, Bars(), {f"{teacher}/patch, {dim} dimensions": table})


if __name__ == "__main__":
    main()
