"""The bytes that all checkpoints of a study may take, and what goes first when they take more."""

from collections.abc import Callable, Collection, Mapping, Sequence

from hpsearch.checkpoint.kept import KEPT
from hpsearch.checkpoint.places import Place

Sizes = Mapping[int, Sequence[tuple[str, int]]]  # trial -> name and bytes of each checkpoint, the newest first


def surplus(sizes: Sizes, quota_bytes: int, over: Collection[int], best: int | None) -> list[tuple[int, str]]:
    """Trial and name of what has to go, in this order, until the rest fits.

    First what trials that are over have left, except the best trial; then what trials that are not over keep beyond
    their newest two, the oldest first. What a later attempt may need stays, even if that is too much.
    """
    finished = [
        (trial, name, n_bytes)
        for trial in sorted(set(sizes) & set(over) - {best})
        for name, n_bytes in reversed(sizes[trial])
    ]
    older = [
        (trial, name, n_bytes)
        for trial in sorted(set(sizes) - set(over))
        for name, n_bytes in reversed(sizes[trial][KEPT:])
    ]
    total = sum(n_bytes for kept in sizes.values() for _, n_bytes in kept)
    gone: list[tuple[int, str]] = []
    for trial, name, n_bytes in finished + older:
        if total <= quota_bytes:
            break
        gone.append((trial, name))
        total -= n_bytes
    return gone


def enforce(
    place_of: Callable[[int], Place],
    sizes: dict[int, list[tuple[str, int]]],
    quota_bytes: int,
    over: Collection[int],
    best: int | None,
) -> int:
    """Remove what is too much, from the disk and from ``sizes``; returns the bytes that are left.

    Of a trial that is not over nothing is removed while none of its newest two verifies. OSError: the place refuses.
    """
    for trial, name in surplus(sizes, quota_bytes, over, best):
        place = place_of(trial)
        if trial not in over and not any(place.verified(newer) for newer, _ in sizes[trial][:KEPT]):
            continue
        place.remove(name)
        sizes[trial] = [kept for kept in sizes[trial] if kept[0] != name]
    return sum(n_bytes for kept in sizes.values() for _, n_bytes in kept)
