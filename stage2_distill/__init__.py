if __name__ != "stillhouse.stage2_distill":
    raise ImportError(f"import stillhouse.stage2_distill, not {__name__} (the repository root is not a package path)")
