"""`card`: the README and the Croissant metadata of a store, beside it or where they are wanted."""

import json
from pathlib import Path
from typing import Any

from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.cards.croissant import croissant
from stillhouse.storage.cards.facts import CardFacts, facts_of
from stillhouse.storage.cards.readme import Scores, pin, readme
from stillhouse.storage.disk import replace_file
from stillhouse.storage.store import Store

README, CROISSANT = "README.md", "croissant.json"


def write_card(store: Store, folder: Path, scores_in: Path | None, licence: str, reporter: Reporter) -> dict[str, Any]:
    """Write both files into a folder; returns what was told in them, for JSON.

    Args:
        scores_in: the `eval` folder of a run of `stillhouse eval --stored` on this store.
        licence: of the images.

    Raises:
        UsageError: the store was never sealed, or the scores are of another one.
    """
    facts = facts_of(store, licence)
    scores = {} if scores_in is None else _scores(store, facts, scores_in)
    card, sealed = (
        (store.root / path).read_bytes() for path in (layout.CARD, layout.seal_path(facts.sealed.generation))
    )
    described = croissant(facts, card, sealed)
    text = json.dumps(described, indent=1, ensure_ascii=False, sort_keys=False)
    replace_file(folder / README, readme(facts, scores).encode())
    replace_file(folder / CROISSANT, f"{text}\n".encode())
    for warning in facts.warnings:
        reporter.say(f"mind: {warning}")
    reporter.say(f"card: {folder / README} and {folder / CROISSANT}, of the store with pin {pin(facts)}")
    return {
        "readme": str(folder / README),
        "croissant": str(folder / CROISSANT),
        "pin": pin(facts),
        "scores": scores,
        "warnings": list(facts.warnings),
    }


def _scores(store: Store, facts: CardFacts, folder: Path) -> Scores:
    from stillhouse.eval.stored import kept_scores  # it needs torch

    return kept_scores(store, [teacher.spec.name for teacher in facts.teachers], folder)


def card_folder(store: Store, where: str) -> Path:
    """Beside a store that lies here, never in it: what is in a store is named by its records."""
    return Path("card") if store.objects is not None else Path(where).with_name(f"{Path(where).resolve().name}.card")
