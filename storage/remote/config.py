"""The section `remote` of a pipeline: how stores elsewhere are reached, and what of them is kept here."""

from pathlib import Path

from pydantic import Field

from stillhouse.core.config import Config
from stillhouse.storage.places.base import Access

from .opening import Reach


class RemoteConfig(Config):
    """Keys and passwords have no place here: they are found where the provider's own tools find them."""

    endpoint: str | None = None
    """Of S3 servers other than Amazon's, such as http://127.0.0.1:8333."""
    region: str | None = None
    anonymous: bool = False
    """Send no signature: a public bucket."""
    cache: str | None = None
    """Folder for what is fetched; None: ~/.cache/stillhouse."""
    cache_gb: float = Field(default=50.0, gt=0)
    """What stays there, in 10^9 bytes."""
    expect: str | None = None
    """The pin of the store: sha256:…"""

    def reach(self) -> Reach:
        access = Access(self.endpoint, self.region, self.anonymous)
        return Reach(access, Path(self.cache) if self.cache else None, self.cache_gb)
