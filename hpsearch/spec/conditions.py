"""``when``: checked against the parameters that it names, and put in an order in which parents come first."""

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from hpsearch.spec.parameters import Draft, plain
from hpsearch.spec.tree import Item, shown, suggestion

if TYPE_CHECKING:
    from hpsearch.space import Condition, Space


def ordered(drafts: Mapping[str, Draft], constants: Mapping[str, Item], broken: Set[str]) -> "Space":
    """The space of these parameters; a parameter whose condition a constant rules out is left away.

    What names one of the ``broken`` parameters is not reported: what is wrong with those already was.
    """
    from hpsearch.space import Parameter, Space

    ordering = _Ordering(drafts, constants, broken)
    for name in drafts:
        ordering.visit(name)
    declared = tuple(
        Parameter(name=name, distribution=drafts[name].distribution, when=when, labels=drafts[name].labels)
        for name, when in ordering.done.items()
        if when is not None
    )
    return Space(declared=declared, constants={name: plain(item.node) for name, item in constants.items()})


MAX_CHAIN = 50


class _Ordering:
    """Depth first, so that a parameter is done after all that its conditions name."""

    def __init__(self, drafts: Mapping[str, Draft], constants: Mapping[str, Item], broken: Set[str]) -> None:
        self._drafts, self._constants, self._broken = drafts, constants, broken
        self._open: list[str] = []
        self.done: dict[str, tuple[Condition, ...] | None] = {}  # None: never active

    def visit(self, name: str) -> None:
        if name in self.done:
            return
        self._open.append(name)
        conditions: list[Condition] = []
        possible = True
        for parent, item in self._drafts[name].when.items():
            wanted = _wanted(item)
            if parent in self._open:
                loop = " -> ".join([*self._open[self._open.index(parent) :], parent])
                item.problem(f"a condition that depends on itself: {loop}")
            elif len(self._open) > MAX_CHAIN:
                item.problem(f"more than {MAX_CHAIN} conditions in a chain")
            elif parent in self._constants:
                possible = possible and plain(self._constants[parent].node) in wanted
            elif parent in self._broken:
                continue
            elif parent not in self._drafts:
                known = [*self._drafts, *self._constants]
                item.problem(f"there is no parameter {shown(parent)}{suggestion(parent, known)}")
            else:
                self.visit(parent)
                self._check_values(item, parent, wanted)
                possible = possible and self.done.get(parent) is not None
                conditions.append((parent, wanted))
        self._open.pop()
        self.done[name] = tuple(conditions) if possible else None

    def _check_values(self, item: Item, parent: str, wanted: tuple[Any, ...]) -> None:
        from optuna.distributions import CategoricalDistribution

        distribution = self._drafts[parent].distribution
        for value in wanted:
            if isinstance(distribution, CategoricalDistribution):
                if not any(value == choice for choice in distribution.choices):
                    words = [str(choice) for choice in distribution.choices]
                    item.problem(f"{shown(value)} is no choice of {parent}{suggestion(str(value), words)}")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                item.problem(f"{parent} is a number, and {shown(value)} is none")
            elif not distribution._contains(value):
                item.problem(f"{shown(value)} is outside the range of {parent}")


def _wanted(item: Item) -> tuple[Any, ...]:
    """The values of a condition; reports one that could never be a parameter's value."""
    values = list(item.elements()) if isinstance(item.node.value, list) else [item]
    if not values or any(isinstance(value.node.value, list | dict) for value in values):
        item.expected("a value or a list of values")
        return ()
    return tuple(value.node.value for value in values if not isinstance(value.node.value, list | dict))
