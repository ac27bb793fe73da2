"""What an object is called when its block gets another number."""

from collections.abc import Mapping

from stillhouse.storage import layout


def renamed(path: str, blocks: Mapping[int, int]) -> str:
    """The path of an object whose block `b` is going to be `blocks[b]`; as it is, where it is of no block."""
    match path.split("/"):
        case ["images", name]:
            return layout.images_path(blocks[int(name.partition(".")[0])])
        case ["index", name]:
            return layout.index_path(blocks[int(name.partition(".")[0])])
        case ["views", "params", "c", view, block, _]:
            return layout.params_chunk(int(view), blocks[int(block)])
        case ["views", "hash", "c", view, block]:
            return layout.hash_chunk(int(view), blocks[int(block)])
        case ["features", teacher, level, "c", view, block, "0", "0"] if level != "codecs":
            return layout.features_chunk(teacher, level, int(view), blocks[int(block)])
    return path
