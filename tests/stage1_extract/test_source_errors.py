"""What sources refuse, and in which words."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import DataError, ResourceError, UsageError
from stillhouse.stage1_extract.sources import (
    FolderSource,
    Item,
    PackageSource,
    ParquetSource,
    WebDatasetSource,
    check_items,
    key_fault,
    open_source,
)
from stillhouse.storage.decode import encode_png

IMAGE = encode_png(np.zeros((4, 4, 3), dtype=np.uint8))


def refusal(config: Any) -> str:
    """The message with which a source refuses to list, or to read its first item."""
    source = open_source(config)
    with pytest.raises(DataError) as caught:
        source.read(source.items()[0])
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def write_tar(path: Path, *names: str, kind: bytes = tarfile.REGTYPE, content: bytes = IMAGE) -> str:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "elsewhere"
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "has 0 bytes, not 1 to 512"),
        ("x" * 513, "has 513 bytes, not 1 to 512"),
        ("é" * 257, "has 514 bytes, not 1 to 512"),
        ("a\nb", "holds a control character or line separator"),
        ("a\u2028b", "holds a control character or line separator"),
        ("a\x9bb", "holds a control character or line separator"),
        ("/etc/passwd", "is an absolute path"),
        ("../a", "holds an empty, '.' or '..' step"),
        ("a/../../b", "holds an empty, '.' or '..' step"),
        ("a//b", "holds an empty, '.' or '..' step"),
        ("./a", "holds an empty, '.' or '..' step"),
        ("a/", "holds an empty, '.' or '..' step"),
        ("a\\b", "holds a backslash"),
        ("e\u0301", "is not in Unicode form NFC"),
        ("\udcff.jpg", "is not valid UTF-8"),
        ("x" * 512, ""),
        ("ä b/..c/日本.jpg", ""),
    ],
)
def test_keys(key: str, fault: str) -> None:
    assert key_fault(key) == fault
    if fault:
        with pytest.raises(DataError) as caught:
            check_items([Item(key, None, ("x.tar", 512))], "source webdataset x.tar")
        text = f"source webdataset x.tar: the key {key!r} of 'x.tar:512' {fault}; rename the sample"
        assert str(caught.value) == text


def test_empty_listing_and_duplicate_keys() -> None:
    with pytest.raises(DataError) as caught:
        check_items([], "source folder /x")
    assert str(caught.value) == "source folder /x: no images found; check its path"
    with pytest.raises(DataError) as caught:
        check_items([Item("a/b", None, ("one", 1)), Item("a/b", None, ("two", 2))], "source folder /x")
    assert str(caught.value) == "source folder /x: two samples have the key 'a/b' (one:1 and two:2); make keys unique"


class TestFolder:
    def test_missing_and_empty(self, tmp_path: Path) -> None:
        config = FolderSource(path=tmp_path / "no")
        assert refusal(config) == f"source folder {tmp_path}/no: no such folder; set `path` to a folder of images"
        (tmp_path / "a.txt").write_text("x")
        assert "no images found; put files there that end in one of jpg, jpeg" in refusal(FolderSource(path=tmp_path))

    def test_links(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.png").write_bytes(IMAGE)
        (tmp_path / "data" / "b.png").symlink_to(tmp_path / "elsewhere" / "a.png")
        (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
        source = open_source(FolderSource(path=tmp_path / "data"))
        assert [item.key for item in source.items()] == ["b.png", "c/a.png"]
        assert [source.read(item) for item in source.items()] == [IMAGE] * 2
        assert len(open_source(FolderSource(path=tmp_path / "data", recursive=False)).items()) == 1
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
        assert "leads back to a folder above it; remove the link" in refusal(FolderSource(path=tmp_path / "data"))
        (tmp_path / "elsewhere" / "back").unlink()
        (tmp_path / "data" / "d.png").symlink_to("nowhere.png")
        text = f"the link {tmp_path}/data/d.png leads nowhere; remove or mend the link"
        assert text in refusal(FolderSource(path=tmp_path / "data"))

    def test_names_that_are_no_keys(self, tmp_path: Path) -> None:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(IMAGE)
        assert r"the key '\udcff.png' of '\udcff.png' is not valid UTF-8" in refusal(FolderSource(path=tmp_path))

    def test_names_spelled_two_ways(self, tmp_path: Path) -> None:
        for name in ("é.png", "e\u0301.png"):
            (tmp_path / name).write_bytes(IMAGE)
        assert "two samples have the key 'é.png'" in refusal(FolderSource(path=tmp_path))

    def test_file_gone_or_forbidden(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(IMAGE)
        source = open_source(FolderSource(path=tmp_path))
        (item,) = source.items()
        (tmp_path / "a.png").unlink()
        with pytest.raises(DataError, match=r"cannot read .*/a.png: No such file or directory; correct the path, or"):
            source.read(item)
        (tmp_path / "a.png").mkdir()
        with pytest.raises(DataError, match=r"cannot read .*/a.png: Is a directory; check the file"):
            source.read(item)

    def test_extensions(self, tmp_path: Path) -> None:
        (tmp_path / "a.JPX").write_bytes(IMAGE)
        assert len(open_source(FolderSource(path=tmp_path, extensions=(".jpx",))).items()) == 1
        with pytest.raises(UsageError, match="name at least one extension"):
            parse_config(FolderSource, {"path": str(tmp_path), "extensions": []}, where="config")


class TestWebDataset:
    def test_duplicate_keys(self, tmp_path: Path) -> None:
        one, two = write_tar(tmp_path / "a.tar", "x/1.png"), write_tar(tmp_path / "b.tar", "x/1.png")
        text = refusal(WebDatasetSource(path=f"{tmp_path}/?.tar"))
        assert text.startswith(f"source webdataset {tmp_path}/?.tar: two samples have the key 'x/1' ({one}:512:")
        assert text.endswith("; make keys unique or set prefix_tar: true")
        items = open_source(WebDatasetSource(path=(one, two), prefix_tar=True)).items()
        assert [item.key for item in items] == ["a/x/1", "b/x/1"]

    @pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "a/../1.png", "a\\1.png", "a\n1.png"])
    def test_names_that_climb_out(self, tmp_path: Path, name: str) -> None:
        assert "the key " in refusal(WebDatasetSource(path=write_tar(tmp_path / "a.tar", "0.png", name)))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_members_that_are_not_files(self, tmp_path: Path, kind: bytes) -> None:
        path = write_tar(tmp_path / "a.tar", "0.png", kind=kind)
        assert f"{path} holds '0.png', which is not a plain file" in refusal(WebDatasetSource(path=path))

    @pytest.mark.parametrize("size", [0, 100, 512, 600, 1024, 1300, 1536, 2048])
    def test_cut_tars(self, tmp_path: Path, size: int) -> None:
        path = Path(write_tar(tmp_path / "a.tar", "0.png", "1.png"))
        assert len(IMAGE) < 512
        path.write_bytes(path.read_bytes()[:size])
        text = refusal(WebDatasetSource(path=str(path)))
        assert str(path) in text and ("copy the tar again" in text or "copy the file again" in text)

    def test_damaged_header(self, tmp_path: Path) -> None:
        path = Path(write_tar(tmp_path / "a.tar", "0.png", "1.png"))
        content = bytearray(path.read_bytes())
        content[1024] ^= 1
        path.write_bytes(content)
        assert f"{path} has no valid header at byte 1024; copy the tar" in refusal(WebDatasetSource(path=str(path)))

    def test_compressed(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
            pass
        assert "decompress it" in refusal(WebDatasetSource(path=f"{tmp_path}/a.tar.gz"))

    def test_no_image_no_label_twice(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "a.tar", "0.txt", "0.json")
        text = f"sample '0' of {path} has no image, only txt, json; add its extension to image_extensions"
        assert text in refusal(WebDatasetSource(path=path))
        path = write_tar(tmp_path / "a.tar", "0.png")
        assert f"sample '0' of {path} has no label 'cls'" in refusal(WebDatasetSource(path=path, label="cls"))
        path = write_tar(tmp_path / "a.tar", "0.png", "0.json", content=b'{"a": [1]}')
        assert "has no label 'json:a'" in refusal(WebDatasetSource(path=path, label="json:a"))
        assert "has no label 'json:b'" in refusal(WebDatasetSource(path=path, label="json:b"))
        path = write_tar(tmp_path / "a.tar", "0.png", "0.PNG")
        assert "holds '0.PNG' twice in one sample" in refusal(WebDatasetSource(path=path))

    @pytest.mark.parametrize("label", ["json", "", "/etc", "json:"])
    def test_labels_that_name_no_member(self, label: str) -> None:
        with pytest.raises(UsageError, match="name a member such as 'cls'"):
            parse_config(WebDatasetSource, {"path": "x", "label": label}, where="config")

    @pytest.mark.parametrize("path", ["pipe:cat a.tar", "https://host/a.tar", "a.tar::b.tar", "${HOME}/a.tar"])
    def test_what_is_not_a_local_path(self, path: str) -> None:
        assert f"{path!r} is not a local path; copy the files" in refusal(WebDatasetSource(path=path))

    def test_patterns(self, tmp_path: Path) -> None:
        assert f"no file '{tmp_path}/1.tar'" in refusal(WebDatasetSource(path=f"{tmp_path}/{{1..3}}.tar"))
        assert "Unbalanced braces" in refusal(WebDatasetSource(path=f"{tmp_path}/{{1..3.tar"))
        odd = write_tar(tmp_path / "a{1..2}[x].tar", "0.png")
        assert len(open_source(WebDatasetSource(path=odd)).items()) == 1


class TestParquet:
    def write(self, root: Path, **columns: Any) -> str:
        pq.write_table(pa.table(columns), root / "a.parquet")
        return str(root / "a.parquet")

    def test_columns(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, image=["a", "b"], key=["x", None], size=[0.5, 1.5])
        text = f"column 'image' of {path} is string, not bytes or a struct with a field 'bytes'; set image_column"
        assert text in refusal(ParquetSource(path=path))
        text = f"{path} has no column 'img'; its columns: image, key, size"
        assert text in refusal(ParquetSource(path=path, image_column="img"))
        path = self.write(tmp_path, image=[IMAGE, None], key=["x", None], twice=["x", "x"])
        assert "the key of row 1 of" in refusal(ParquetSource(path=path, key_column="key"))
        assert "two samples have the key 'x'" in refusal(ParquetSource(path=path, key_column="twice"))
        assert "has no column 'no'" in refusal(ParquetSource(path=path, label_column="no"))

    def test_rows_without_bytes(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, image=[{"bytes": None, "path": "x.jpg"}, {"bytes": IMAGE, "path": None}])
        assert "row 0 of row group 0" in (text := refusal(ParquetSource(path=path)))
        assert "has no bytes in 'image'; embed the images" in text

    def test_damage(self, tmp_path: Path) -> None:
        path = Path(self.write(tmp_path, image=[IMAGE]))
        path.write_bytes(path.read_bytes()[:-3])
        assert f"{path} is not a sound Parquet file" in refusal(ParquetSource(path=str(path)))
        assert f"no file '{tmp_path}/no'" in refusal(ParquetSource(path=f"{tmp_path}/no"))


class TestPackage:
    def test_missing_package_and_folder(self) -> None:
        with pytest.raises(ResourceError, match=r"'no_such_package' is not installed; install the package"):
            open_source(PackageSource(package="no_such_package", folder="data"))
        with pytest.raises(DataError, match="source package numpy:no/such: the package has no such folder; look"):
            open_source(PackageSource(package="numpy", folder="no/such"))

    @pytest.mark.parametrize("bad", [{"package": "os.path"}, {"folder": "../.."}, {"folder": "/etc"}])
    def test_names_that_climb_out(self, bad: dict[str, str]) -> None:
        with pytest.raises(UsageError):
            parse_config(PackageSource, {"package": "numpy", "folder": "x", **bad}, where="config")
