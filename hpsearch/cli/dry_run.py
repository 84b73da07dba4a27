"""``hpsearch run --dry-run``: what would run, in words."""

from typing import TYPE_CHECKING

from hpsearch.cli.words import explained, in_short
from hpsearch.console.words import count, pairs

if TYPE_CHECKING:
    from hpsearch.spec import StudySpec


def plan(spec: "StudySpec", *, fresh: bool) -> list[str]:
    """Every setting, the slots, and the first configurations; starts and writes nothing.

    Raises:
        HpsearchError: what would refuse the run, too.
    """
    from hpsearch.coordinator.preview import preview

    seen = preview(spec, fresh=fresh)
    lines = [in_short(spec), "", *(f"  {line}" for line in explained(spec)), ""]
    workers = count(seen.n_workers, "worker")
    lines.append(f"{count(seen.n_slots, 'slot')} on {workers}: as many trials at a time, each {seen.slot}")
    if seen.configurations:
        like = "the first trials, as an empty study with this seed begins"
        lines.append(like if spec.seed is not None else "trials like these (without a seed, each run draws others)")
        lines += [f"  {pairs(configuration)}" for configuration in seen.configurations]
    else:
        lines.append("parameters: the objective suggests them while it runs")
    return [*lines, "", "nothing was started, nothing was written"]
