"""Croissant metadata of a store (MLCommons, version 1.0): JSON-LD that dataset catalogues read."""

import hashlib
from typing import Any

from stillhouse.core.licences import licence_id
from stillhouse.storage import layout

from .facts import CardFacts

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
COLUMNS = {
    "key": ("sc:Text", "the sample's key in its source"),
    "label": ("sc:Text", "its label, if it has one"),
    "reason": ("sc:Text", "why it was left out; none for a good sample"),
    "width": ("sc:Integer", "pixels of the decoded image"),
    "height": ("sc:Integer", "pixels of the decoded image"),
    "format": ("sc:Text", "of the encoded image"),
    "source_sha256": ("sc:Text", "sha256 of the encoded image"),
}


def croissant(facts: CardFacts, card: bytes, seal: bytes) -> dict[str, Any]:
    """The metadata as JSON.

    Args:
        card, seal: the bytes of the root's zarr.json and of the seal, which the description pins.
    """
    digest = facts.sealed.content_sha256
    names = ", ".join(one.spec.name for one in facts.teachers) or "no teacher yet"
    num = sum(facts.splits.values())
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"stillhouse-{digest[:12]}",
        "description": f"Images, augmented views and stored features of {names} for {num} images: a stillhouse store.",
        "version": f"{facts.sealed.generation}.0.0",
        "citeAs": f"stillhouse store, content sha256 {digest}",
        "distribution": [
            _file("zarr", layout.CARD, card, "metadata of all arrays; names the seal"),
            _file("seal", layout.seal_path(facts.sealed.generation), seal, "every object with its size and sha256"),
            _files("images", "images/*.tar", "application/x-tar", "encoded images, WebDataset tars"),
            _files("index", "index/*.parquet", "application/x-parquet", "a row a sample"),
            _files("views", "views/**", "application/vnd.zarr", "parameters and pixel hashes of views"),
        ],
        "recordSet": [_samples()],
    }
    if facts.licence:
        found["license"] = licence_id(facts.licence) or facts.licence
    for teacher in facts.teachers:
        for level in teacher.levels:
            array = layout.features_array(teacher.spec.name, level.name)
            what = f"{level.num_tokens} x {level.dim} of {teacher.spec.model}, codec {level.codec}"
            found["distribution"].append(_files(array, f"{array}/**", "application/vnd.zarr", what))
    return found


def _file(name: str, path: str, data: bytes, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": description,
        "contentUrl": path,
        "contentSize": f"{len(data)} B",
        "encodingFormat": "application/json",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _files(name: str, pattern: str, encoding: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name.replace("/", "-"),
        "description": description,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _samples() -> dict[str, Any]:
    def field(name: str, kind: str, description: str) -> dict[str, Any]:
        return {
            "@type": "cr:Field",
            "@id": f"samples/{name}",
            "name": f"samples/{name}",
            "description": description,
            "dataType": kind,
            "source": {"fileSet": {"@id": "index"}, "extract": {"column": name}},
        }

    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "every sample, those that were left out included",
        "key": {"@id": "samples/key"},
        "field": [field(name, *told) for name, told in COLUMNS.items()],
    }
