if __name__ != "stillhouse.storage":
    raise ImportError(f"import stillhouse.storage, not {__name__} (the repository root is not a package path)")
