"""Deciding something once among many writers at a place: a conditional PUT whose answer may be lost.

S3 has no other lock. Whoever creates the file first has decided; an answer that says "it exists", and one that never comes, are both
looked into by reading the file back: it is ours when it holds our bytes, which carry what nobody else writes (an attempt id, a
store's own id).
"""

from .arrival import read_once
from .base import WritablePlace
from .patience import Passing, Patience


def decide(place: WritablePlace, path: str, data: bytes, most: int, patience: Patience) -> bytes:
    """What is decided at `path`: `data` if nobody was first, else what is there.

    Args:
        most: bytes that are read back at most.

    Raises:
        RemoteError: the place did not say. It may have been decided: ask again before anything is undone.
    """

    def once() -> bytes:
        try:
            created = place.create(path, data)
        except Passing:
            created = False  # or it was, and the answer is lost
        found = data if created else read_once(place, path, most)
        if found is None:
            raise Passing("it is neither created nor there")
        return found

    return patience.ask(f"{place.name}/{path}", once)
