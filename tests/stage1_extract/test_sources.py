"""What every source promises, and the words of every refusal."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import UsageError
from stillhouse.stage1_extract.sources import (
    SOURCES,
    CropsSource,
    FolderSource,
    PackageSource,
    ParquetSource,
    SklearnSource,
    Source,
    SourceConfig,
    WebDatasetSource,
    key_fault,
    open_source,
)
from stillhouse.storage.decode import decode, encode_png

IMAGES = [encode_png(np.full((6, 8, 3), 20 * number, dtype=np.uint8)) for number in range(9)]


def write_folder(root: Path) -> Path:
    for number, image in enumerate(IMAGES):
        path = root / "photos" / f"class {number % 3}" / f"é{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (root / "photos" / "README.txt").write_text("not an image")
    (root / "photos" / ".hidden.png").write_text("not an image either")
    return root / "photos"


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_tars(root: Path) -> str:
    for number in range(3):
        members = [("__meta__/info.json", b"{}"), ("._apple.png", b"?")]
        for row, image in enumerate(IMAGES[number * 3 : number * 3 + 3]):
            name = f"./part/{number}{row}"
            about = json.dumps({"class": row}).encode()
            members += [
                (f"{name}.json", about),
                (f"{name}.PNG", image),
                (f"{name}.cls", b" 7\n"),
                (f"{name}.seg.png", b"?"),
            ]
        write_tar(root / f"train-{number:03d}.tar", members)
    return f"{root}/train-{{000..002}}.tar"


def write_parquet(root: Path, images: Any = None) -> str:
    table = pa.table(
        {"image": IMAGES if images is None else images, "id": [f"k{n}" for n in range(9)], "label": [*range(8), None]}
    )
    pq.write_table(table, root / "rows.parquet", row_group_size=4)
    return str(root / "rows.parquet")


class SourceTests:
    """Every source passes these; a subclass gives `kind` and `config`, with at least eight items."""

    kind: ClassVar[str]

    @pytest.fixture
    def source(self, config: Any) -> Source:
        return open_source(config)

    def test_items_are_sorted_unique_and_keyed_by_the_rule(self, source: Source) -> None:
        items = source.items()
        assert len(items) >= 8
        keys = [item.key for item in items]
        assert keys == sorted(set(keys))
        assert not any(key_fault(key) for key in keys)
        assert all(item.label is None or item.label.strip() for item in items)

    def test_bytes_decode_and_are_the_same_each_time(self, source: Source) -> None:
        for item in source.items()[:8]:
            content = source.read(item)
            assert decode(content).mode == "RGB"
            assert source.read(item) == content

    def test_threads_and_another_process_read_the_same(self, source: Source, config: Any) -> None:
        items = source.items()[:8]
        expected = [source.read(item) for item in items]
        fresh = open_source(config)  # has listed nothing, as in a worker that was sent config and items
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(fresh.read, items * 4)) == expected * 4
        assert open_source(config).items()[:8] == items

    def test_the_config_survives_yaml_and_refuses_unknown_keys(self, config: Config) -> None:
        adapter: TypeAdapter[Config] = TypeAdapter(SourceConfig)
        assert adapter.validate_python(config.model_dump(mode="json")) == config
        with pytest.raises(UsageError, match="unknown key 'pth'"):
            parse_config(type(config), {**config.model_dump(mode="json"), "pth": 1}, where="config")

    def test_every_field_has_a_docstring(self, config: Config) -> None:
        fields = type(config).model_fields
        assert [name for name in fields if name != "kind" and not fields[name].description] == []


class TestFolder(SourceTests):
    kind = "folder"

    @pytest.fixture
    def config(self, tmp_path: Path) -> FolderSource:
        return FolderSource(path=write_folder(tmp_path))

    def test_keys_and_labels(self, source: Source) -> None:
        assert [(item.key, item.label) for item in source.items()[:2]] == [
            ("class 0/é0.PNG", "class 0"),
            ("class 0/é3.PNG", "class 0"),
        ]


class TestWebDataset(SourceTests):
    kind = "webdataset"

    @pytest.fixture
    def config(self, tmp_path: Path) -> WebDatasetSource:
        return WebDatasetSource(path=write_tars(tmp_path), label="cls")

    def test_keys_labels_and_bytes(self, source: Source) -> None:
        items = source.items()
        assert [(item.key, item.label) for item in items[:2]] == [("part/00", "7"), ("part/01", "7")]
        assert [source.read(item) for item in items] == IMAGES

    def test_the_package_itself_reads_the_same_samples(self, source: Source, config: WebDatasetSource) -> None:
        from webdataset.tariterators import group_by_keys, tar_file_iterator

        def members() -> Iterator[dict[str, Any]]:
            for number in range(3):
                with open(str(config.path).replace("{000..002}", f"{number:03d}"), "rb") as stream:
                    yield from ({**member, "__url__": ""} for member in tar_file_iterator(stream))

        theirs = {sample["__key__"].removeprefix("./"): sample["png"] for sample in group_by_keys(members())}
        assert theirs == {item.key: source.read(item) for item in source.items()}


class TestParquet(SourceTests):
    kind = "parquet"

    @pytest.fixture
    def config(self, tmp_path: Path) -> ParquetSource:
        return ParquetSource(path=write_parquet(tmp_path), key_column="id", label_column="label")

    def test_keys_labels_and_bytes(self, source: Source) -> None:
        items = source.items()
        assert (items[0].key, items[0].label, items[8].label) == ("k0", "0", None)
        assert [source.read(item) for item in items] == IMAGES


class TestParquetOfStructs(SourceTests):
    kind = "parquet"

    @pytest.fixture
    def config(self, tmp_path: Path) -> ParquetSource:
        rows = [{"bytes": image, "path": "x.png"} for image in IMAGES]
        return ParquetSource(path=write_parquet(tmp_path, rows).replace("rows", "r*"))

    def test_keys_and_bytes(self, source: Source) -> None:
        items = source.items()
        assert (items[8].key, items[8].label) == ("rows/00000008", None)
        assert [source.read(item) for item in items] == IMAGES


class TestCrops(SourceTests):
    kind = "crops"

    @pytest.fixture
    def config(self) -> CropsSource:
        return CropsSource(sklearn_samples=True, num=10, output_side=32)


class TestSklearn(SourceTests):
    kind = "sklearn"

    @pytest.fixture
    def config(self) -> SklearnSource:
        return SklearnSource()

    def test_digits(self, source: Source) -> None:
        items = source.items()
        assert (len(items), items[1].key, items[1].label) == (1797, "00001", "1")
        pixels_HWC = np.asarray(decode(source.read(items[0])))
        assert pixels_HWC.shape == (8, 8, 3) and pixels_HWC.max() == 239  # 15 of 16


class TestPackage(SourceTests):
    kind = "package"

    @pytest.fixture
    def config(self) -> PackageSource:
        pytest.importorskip("conformal_clip_data")
        return PackageSource(package="conformal_clip_data", folder="data/textile_images/simulated")

    def test_the_demo_has_its_images(self, source: Source) -> None:
        items = source.items()
        assert len(items) == 2000 and {item.label for item in items} == {"nominal", "local", "global"}


def test_every_source_is_tested() -> None:
    assert {case.kind for case in SourceTests.__subclasses__()} == set(SOURCES)
