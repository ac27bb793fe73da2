"""Is this the store that was meant? A pin is the sha256 of a seal: it covers every object and all that records say.

Whoever shares a store tells it with the address, on another way than the store itself comes.
"""

import re

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import Seal, content_digest, facts_digest, read_seal, records, seal_generations
from stillhouse.storage.store import Store

from .documents import units_of

ASK = "do not use it: ask who shared it"
_PIN = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def check_pin(given: str) -> str:
    """The hex digits of `sha256:…`; UsageError for anything else."""
    found = _PIN.fullmatch(given)
    if found is None:
        message = f"{given[:80]!r} is no pin"
        raise UsageError(message, hint="a pin is sha256: and 64 hex digits; `stillhouse inspect` tells that of a store")
    return found[1]


def require_sealed(store: Store, sealed: Seal, where: str) -> None:
    """Hold what the records of a store say against its seal.

    Raises:
        CorruptError: names the first object, or the unit, that is another one than was sealed.
    """
    names = set(units_of(sealed))
    found = [record for record in records(store.root) if record.unit in names]
    by_path = {entry.path: entry for record in found for entry in record.objects}
    for entry in sealed.objects:
        if by_path.get(entry.path) != entry:
            raise CorruptError(
                f"{entry.path} of {where} is not the one that was sealed: {_told(entry, by_path)}", hint=ASK
            )
    if content_digest(list(sealed.objects)) != sealed.content_sha256:
        raise CorruptError(f"the seal of {where} gives another digest than its objects have", hint=ASK)
    if sealed.facts_sha256 and facts_digest(store.at(sealed.growths), found) != sealed.facts_sha256:
        raise CorruptError(f"the records of {where} say something else than when it was sealed", hint=ASK)


def require_pinned(store: Store, sealed: Seal | None, pin: str, where: str) -> None:
    """CorruptError unless the store's seal is the one that was pinned; names the first object that differs where it can."""
    digits = check_pin(pin)
    if sealed is None:
        raise CorruptError(f"{where} was never sealed, expected seal sha256:{digits}", hint=ASK)
    if sealed.root_sha256 == digits:
        return
    if sealed.content_sha256 == digits:
        message = f"sha256:{digits[:12]}… is the digest of the objects of {where}, not its pin"
        raise UsageError(
            message,
            hint=f"the pin, which covers its records too, is sha256:{sealed.root_sha256}: is it the one you were told?",
        )
    known = _seal_of(store, digits)
    differs = "" if known is None else f"; the first object that differs is {_first_difference(known, sealed)}"
    message = f"{where} has seal sha256:{sealed.root_sha256}, expected sha256:{digits}{differs}"
    raise CorruptError(message, hint="ask who shared it: was it sealed anew, or is it another store?")


def _seal_of(store: Store, digits: str) -> Seal | None:
    """An earlier seal of the store that has this pin."""
    seals = (read_seal(store.root, number) for number in seal_generations(store.root))
    return next((one for one in seals if digits in (one.root_sha256, one.content_sha256)), None)


def _first_difference(known: Seal, found: Seal) -> str:
    ours, theirs = ({entry.path: entry for entry in seal.objects} for seal in (known, found))
    paths = [path for path in sorted(ours.keys() | theirs.keys()) if ours.get(path) != theirs.get(path)]
    return paths[0] if paths else "none: its records differ"


def _told(entry: ObjectEntry, by_path: dict[str, ObjectEntry]) -> str:
    other = by_path.get(entry.path)
    if other is None:
        return "no record names it"
    return f"sha256 {other.sha256[:12]}, sealed as {entry.sha256[:12]}"
