"""WebDataset tars: members that share a name up to the first dot are one sample.

Which files a pattern names and where a key ends is decided by the webdataset package's own functions. The members are
listed with the standard library's tarfile and read by position; nothing is unpacked and no decoder of webdataset runs.
"""

import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePath
from typing import Literal

from pydantic import field_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError

from .base import IMAGE_EXTENSIONS, Item, check_items, item_key
from .folder import plain_extensions
from .local_files import expand_patterns, read_bytes, unreadable

BLOCK = tarfile.BLOCKSIZE
META = re.compile(r"__[^/]*__($|/)")  # names that webdataset keeps for itself
MAX_LABEL_BYTES = 1 << 20


class WebDatasetSource(Config):
    """Samples in tar files, by the WebDataset convention."""

    kind: Literal["webdataset"] = "webdataset"
    path: str | tuple[str, ...]
    """A tar, a pattern such as `train-{0000..0099}.tar` or `train-*.tar`, or a list of them."""
    image_extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    """The member of a sample that is the image: the first of these extensions that it has."""
    label: str | None = None
    """The member of a sample that holds its label: `cls`, `txt`, or `json:<field>`. Then every sample must have it."""
    prefix_tar: bool = False
    """Put the tar's name in front of every key: `train-0000/000001`. For tars that each count from zero."""

    @field_validator("image_extensions")
    @classmethod
    def _plain(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return plain_extensions(extensions)

    @field_validator("label")
    @classmethod
    def _one_member(cls, label: str | None) -> str | None:
        if label is not None and (not re.fullmatch(r"json:.+|(?!json$)[a-z0-9_.]+", label)):
            raise ValueError("name a member such as 'cls', or a field of the json member as 'json:<field>'")
        return label


@dataclass(slots=True)
class Sample:
    """The members of one sample of one tar: extension -> (offset, length) of its bytes."""

    tar: str
    name: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class WebDatasetReader:
    """Reads a `WebDatasetSource`."""

    def __init__(self, config: WebDatasetSource) -> None:
        self.config = config
        self.where = f"source webdataset {config.path if isinstance(config.path, str) else ', '.join(config.path)}"

    def items(self) -> list[Item]:
        """One item a sample.

        Raises:
            DataError: no such tar, a tar that is compressed, cut short or damaged, a sample without an image or label,
                two samples with one key.
        """
        patterns = (self.config.path,) if isinstance(self.config.path, str) else self.config.path
        # webdataset imports torch: seconds, which reading a sample must not cost.
        from webdataset.shardlists import expand_urls
        from webdataset.tariterators import base_plus_ext

        tars = expand_patterns(patterns, self.where, expand_urls)
        samples = chain.from_iterable(list_samples(tar, self.where, base_plus_ext) for tar in tars)
        return check_items(
            (self._item(sample) for sample in samples),
            self.where,
            unique="make keys unique or set prefix_tar: true",
            filled="name tars that hold samples",
        )

    def read(self, item: Item) -> bytes:
        """The bytes of the item's image member."""
        tar, offset, length = item.locator
        return read_bytes(str(tar), self.where, int(offset), int(length))

    def _item(self, sample: Sample) -> Item:
        image = next((name for name in self.config.image_extensions if name in sample.members), None)
        if image is None:
            raise DataError(
                f"{self.where}: sample {sample.name!r} of {sample.tar} has no image, only {', '.join(sample.members)}",
                hint="add its extension to image_extensions, or remove the sample",
            )
        name = item_key(sample.name.removeprefix("./"))  # `tar -C folder .` writes the step
        key = f"{PurePath(sample.tar).stem}/{name}" if self.config.prefix_tar else name
        return Item(key, self._label(sample), (sample.tar, *sample.members[image]))

    def _label(self, sample: Sample) -> str | None:
        if self.config.label is None:
            return None
        extension, _, json_field = self.config.label.partition(":")
        offset, length = sample.members.get(extension, (0, MAX_LABEL_BYTES + 1))
        if length <= MAX_LABEL_BYTES:
            content = read_bytes(sample.tar, self.where, offset, length)
            try:
                found = json.loads(content)[json_field] if json_field else content.decode()
            except (ValueError, KeyError, TypeError):
                found = None
            if isinstance(found, str | int | float) and (text := " ".join(str(found).split())):
                return text
        raise DataError(
            f"{self.where}: sample {sample.name!r} of {sample.tar} has no label {self.config.label!r}",
            hint="name the member that holds it, or leave `label` out",
        )


def list_samples(tar: str, where: str, split_name: Callable[[str], tuple[str | None, str]]) -> Iterator[Sample]:
    """The samples of one tar in its order: runs of members with one name.

    Args:
        split_name: member name -> (sample name, extensions); a sample name of None is no part of a sample.
    """
    sample: Sample | None = None
    for member in list_members(tar, where):
        name, extension = split_name(member.name)
        if name is None:
            continue
        if sample is None or name != sample.name:
            if sample is not None:
                yield sample
            sample = Sample(tar, name)
        if extension.lower() in sample.members:
            raise DataError(f"{where}: {tar} holds {member.name!r} twice in one sample", hint="remove one of the two")
        sample.members[extension.lower()] = member.offset_data, member.size
    if sample is not None:
        yield sample


def list_members(tar: str, where: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of one tar, without webdataset's `__meta__` ones.

    A tar says where it ends. One that does not was cut between two members, or has a damaged header, and tarfile (like
    webdataset) would take what came before for the whole.
    """
    copy_again = "copy the tar again, or write it anew"
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isdir() or META.match(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{where}: {tar} holds {member.name!r}, which is not a plain file",
                        hint="write the tar with links followed: tar --dereference --hard-dereference",
                    )
                yield member
            end = archive.offset
        if read_bytes(tar, where, end, BLOCK).strip(b"\0"):
            raise DataError(f"{where}: {tar} has no valid header at byte {end}", hint=copy_again)
    except tarfile.ReadError as error:
        remedy = "a compressed tar cannot be read by position: decompress it" if _compressed(tar) else copy_again
        raise DataError(f"{where}: {tar} is not a whole tar: {error}", hint=remedy) from error
    except OSError as error:
        raise unreadable(tar, where, error) from error


def _compressed(tar: str) -> bool:
    with open(tar, "rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
