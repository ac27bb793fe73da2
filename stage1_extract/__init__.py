if __name__ != "stillhouse.stage1_extract":
    raise ImportError(f"import stillhouse.stage1_extract, not {__name__} (the repository root is not a package path)")
