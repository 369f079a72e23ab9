"""How many epochs of a run are done, when fits stop early and several go on side by side."""

from __future__ import annotations


class Epochs:
    """Counts the epochs of fits, of which each counts as whole once it has ended.

    A fit has ended with its last epoch; or, since it may stop early, when another begins in its place: then
    it is the one that was heard of longest ago.

    Args:
        each: epochs of one fit, at most.
        jobs: fits at a time.
    """

    def __init__(self, each: int, jobs: int = 1) -> None:
        self._each, self._jobs = each, jobs
        self._running: dict[str, int] = {}
        self._ended: set[str] = set()

    def count(self, name: str, epoch: int) -> int:
        """Return the epochs that are done, after the one of a fit with this number, from 0."""
        if name not in self._ended:
            self._running.pop(name, None)
            self._running[name] = epoch + 1
            if epoch + 1 >= self._each:
                self._end(name)
            elif len(self._running) > self._jobs:
                self._end(next(iter(self._running)))
        return len(self._ended) * self._each + sum(self._running.values())

    def _end(self, name: str) -> None:
        del self._running[name]
        self._ended.add(name)
