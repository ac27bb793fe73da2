"""Images of a block: a tar that anybody's tools read, and members that are checked when we read them."""

import gc
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import layout
from stillhouse.storage.crc import crc32c
from stillhouse.storage.images import ImageReader, TarLayout, member_header, padding, tar_end
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit

SHAPE = StoreShape()


def tar_path(store: Store, block: int) -> Path:
    return store.root / layout.images_path(block)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_tarfile_reads_names_bytes_and_labels(random_store: Store, block: int) -> None:
    good = random_store.good_rows(block).tolist()
    with tarfile.open(tar_path(random_store, block), errorlevel=2) as tar:
        members = tar.getmembers()
        names = [f"{block * 4 + row:012d}.{kind}" for row in good for kind in ("png", "json")]
        assert [member.name for member in members] == names
        for row, image, described in zip(good, members[::2], members[1::2], strict=True):
            sample = random_store.samples(block)[row]
            assert (image.offset_data, image.size) == (sample.offset, sample.length), (
                "the index agrees with the headers"
            )
            file, text = tar.extractfile(image), tar.extractfile(described)
            assert file is not None and text is not None
            assert file.read() == random_store.image_bytes(block, row) == SHAPE.image(block, row)
            assert json.load(text) == {"key": sample.key, "label": sample.label}
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its tars open
def test_webdataset_reads_samples(random_store: Store) -> None:
    urls = [str(tar_path(random_store, block)) for block in range(3)]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil").to_tuple("png", "json")
    samples = [sample for block in range(3) for sample in random_store.samples(block) if sample.reason is None]
    found = list(dataset)
    gc.collect()
    assert len(found) == 8
    for sample, (image, described) in zip(samples, found, strict=True):
        assert image.size == (sample.width, sample.height)
        assert described == {"key": sample.key, "label": sample.label}


def test_gnu_tar_is_content(random_store: Store) -> None:
    listed = subprocess.run(
        ["tar", "--list", "--file", tar_path(random_store, 0)], capture_output=True, text=True, check=True
    )
    assert listed.stderr == "" and len(listed.stdout.split()) == 6


@given(st.lists(st.binary(max_size=1500), max_size=6))
def test_layout_gives_the_offsets(payloads: list[bytes]) -> None:
    tar, written, offsets = TarLayout(), b"", []
    for number, payload in enumerate(payloads):
        offset, chunks = tar.member(f"{number:012d}.bin", payload)
        written += b"".join(chunks)
        offsets.append(offset)
        assert tar.position == len(written) and len(written) % 512 == 0
    assert [written[o : o + len(p)] for o, p in zip(offsets, payloads, strict=True)] == payloads
    with tarfile.open(fileobj=io.BytesIO(written + tar_end())) as read:
        assert [(m.offset_data, m.size) for m in read] == [(o, len(p)) for o, p in zip(offsets, payloads, strict=True)]


@pytest.mark.parametrize(("num_bytes", "pad"), [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)])
def test_padding(num_bytes: int, pad: int) -> None:
    assert padding(num_bytes) == bytes(pad)


def test_headers_depend_on_nothing_but_name_and_size() -> None:
    header = member_header("000000000000.png", 7)
    assert len(header) == 512 and header == member_header("000000000000.png", 7)
    assert crc32c(header) == 0xE9BC7027


def test_every_bit_of_a_member_is_checked(own_store: Store) -> None:
    sample, path = own_store.samples(1)[0], tar_path(own_store, 1)
    reader = ImageReader(path, path.stat().st_size)
    for bit in range(sample.offset * 8, (sample.offset + sample.length) * 8, 7):
        flip_bit(path, bit)
        with pytest.raises(CorruptError) as caught:
            reader.read(sample.offset, sample.length, sample.crc32c, sample.key)
        assert str(caught.value) == (
            f"image 'künstlich/1/0.png' at offset {sample.offset} of {path} does not match its crc32c; "
            "run `stillhouse verify` on the store"
        )
        flip_bit(path, bit)
    assert reader.read(sample.offset, sample.length, sample.crc32c, sample.key) == SHAPE.image(1, 0)


def test_members_beyond_the_end(random_store: Store) -> None:
    path = tar_path(random_store, 1)
    reader = ImageReader(path, path.stat().st_size)
    with pytest.raises(CorruptError):
        reader.read(path.stat().st_size - 10, 20, 0, "key")


def test_sizes_and_absence(own_store: Store) -> None:
    path = tar_path(own_store, 1)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(CorruptError, match=f"000001.tar has {size - 1} bytes, its record says {size}"):
        own_store.image_bytes(1, 0)
    path.unlink()
    with pytest.raises(MissingError, match=f"images {path} are not there"):
        own_store.image_bytes(1, 0)
