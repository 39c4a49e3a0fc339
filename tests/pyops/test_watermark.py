"""The watermark's rules, held against a model of a source with transactions of any length."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pyops.records import Watermark
from pyops.sources.postgres.watermark import advance, still_open
from tests.pyops.conftest import examples


@dataclass
class Source:
    """Transactions that write rows with rising cursors, and commit, are prepared, or roll back."""

    clock: int = 0
    opened: dict[str, list[int]] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)

    def begin(self) -> None:
        self.clock += 1
        self.opened[f"v{self.clock}"] = []

    def write(self, which: int) -> None:
        self.clock += 1
        if self.opened:
            list(self.opened.values())[which % len(self.opened)].append(self.clock)

    def end(self, which: int, how: str) -> None:
        if not self.opened:
            return
        name = list(self.opened)[which % len(self.opened)]
        rows = self.opened.pop(name)
        if how == "prepare" and name.startswith("v"):
            self.opened[f"p{name}"] = rows
        elif how != "roll back":
            self.committed |= set(rows)

    def largest(self, bound: str | None) -> str | None:
        reached = [row for row in self.committed if bound is None or row >= int(bound)]
        return str(max(reached)) if reached else None


actions = st.sampled_from(["begin and write", "short", "write", "commit", "prepare", "roll back"])
steps = st.lists(st.tuples(actions, st.integers(0, 2)), max_size=5)
runs = st.lists(st.tuples(steps, steps, steps, steps), min_size=1, max_size=6)


def do(source: Source, taken: list[tuple[str, int]]) -> None:
    for action, which in taken:
        if action == "begin and write":
            source.begin()
            source.write(-1)
        elif action == "short":
            source.clock += 1
            source.committed.add(source.clock)
        elif action == "write":
            source.write(which)
        else:
            source.end(which, action)


@settings(max_examples=examples(500))
@given(runs)
def test_no_row_is_lost_or_appended_twice_whatever_commits_when(
    history: list[tuple[list[tuple[str, int]], ...]],
) -> None:
    """Behaviour 1: something may happen before and between any two looks that a run takes."""
    source = Source()
    stored = Watermark()
    merged: set[int] = set()
    appended: list[int] = []
    quiet: tuple[list[tuple[str, int]], ...] = ([], [], [], [])
    ending: list[tuple[str, int]] = [("commit", 0)] * 200
    for before, after_first, after_noted, after_now in [*history, (ending, [], [], []), quiet]:
        do(source, before)
        largest = source.largest(stored.bound)
        do(source, after_first)
        noted = frozenset(source.opened)
        do(source, after_noted)
        now = frozenset(source.opened)
        do(source, after_now)
        mark = advance(stored, largest=largest, noted=noted, now=now)
        lower = int(stored.bound or 0)
        merged |= {row for row in source.committed if row >= lower}
        if mark.bound is not None:
            appended += [row for row in source.committed if lower <= row < int(mark.bound)]
        assert lower <= int(mark.bound or 0), "a bound never falls"
        stored = mark
    assert merged == source.committed
    newest = max(source.committed, default=0)
    assert sorted(appended) == sorted(source.committed - {newest})


def test_virtual_transaction_that_is_gone_may_be_any_prepared_one() -> None:
    """Behaviour 1."""
    assert still_open(frozenset({"v1"}), frozenset({"p7", "v2"})) == {"p7"}
    assert still_open(frozenset({"v1"}), frozenset({"v1", "p7"})) == {"v1"}
    assert still_open(frozenset({"p7"}), frozenset({"p8"})) == frozenset()
