"""Groups with too few examples for one tuple."""

import warnings

RARE = ("repeat", "drop", "error")


def check_rare(rare):
    """Raises a `ValueError` unless `rare` is a known word."""
    if rare not in RARE:
        raise ValueError(
            f"Invalid value for argument `rare`. Expected one of {RARE}. "
            f"Received: rare={rare}"
        )


def report_rare(names, sizes, needed, rare):
    """Warns of rare groups, or raises, as `rare` says.

    Args:
        names: Iterable of integers, the groups.
        sizes: Iterable of integers, how many examples each has.
        needed: Integer, how many examples one tuple needs.
        rare: String, one of `RARE`.
    """
    listed = [f"{name} ({size})" for name, size in zip(names, sizes)]
    if not listed or rare == "drop":
        return
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    message = (
        f"Some groups have fewer training examples than the {needed} of one "
        "tuple (one for each shard of each replica), or none left to "
        f"validate. Group (examples): {', '.join(listed[:20])}{more}."
    )
    if rare == "error":
        raise ValueError(
            f"{message} Lower `num_shards`, merge groups with `stratify_by`, "
            "or pass rare='repeat' or rare='drop'. Received: rare='error'"
        )
    warnings.warn(
        f"{message} Their examples are repeated to fill one tuple an epoch; "
        "rare='drop' leaves them out.",
        stacklevel=4,
    )
