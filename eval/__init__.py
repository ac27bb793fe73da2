if __name__ != "stillhouse.eval":
    raise ImportError(f"import stillhouse.eval, not {__name__} (the repository root is not a package path)")
