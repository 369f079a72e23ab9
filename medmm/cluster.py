"""The same map here or on many machines: the one file that imports ray, and only where an address is given.

Ray sees patients only as the arguments and results of a task, in memory: an error comes back as a value,
so that neither its text nor a patient's id is written into Ray's logs, and Ray reports no use to its makers.
"""

from __future__ import annotations

import copy
import io
import os
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

from medmm.errors import ClusterError

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
"""The address that stands for a Ray of its own on this machine, ended with the call."""

RETRIES = 3
"""Times that an item is done again after its worker, or the machine it was on, died."""

AHEAD = 4
"""Items under way for each core of the cluster."""

KNOCK_SECONDS = 5.0
"""How long an address may take to answer; Ray itself would try for more than ten minutes."""

TOLD_SECONDS = 0.5
"""Time between two words about one stage from a process to who waits for it."""

Progress = Callable[[str, int, int], None]

_held: dict[str, Any] = {}
"""In a worker: the work of the call that it serves, unpacked once."""


def mapped(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    lost: Callable[[Item], Result],
    address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Return what a piece of work makes of each item, in the order of the items.

    On a cluster an item whose worker or machine dies is done again elsewhere, so the work must give the same
    result when it is done twice. An error that the work raises is raised here, with its own type, for the
    first item that has one. An interrupt ends what is under way.

    Args:
        work: on a cluster it is sent once to each worker and kept there, so that what it opens is opened
            once; it, the items and the results must be picklable.
        items: in the order of the results.
        lost: what becomes of an item that ended :data:`RETRIES` + 1 workers; called in this process.
        address: None for this process; ``local`` for all cores of this machine; or of a Ray cluster
            (``host:port``, ``auto``), each of whose machines has medmm and sees the same folders.
        progress: called with (done, total).

    Raises:
        ClusterError: if the cluster does not answer, or has no medmm or another one.
    """
    if address is None:
        results = (work(item) for item in items)
        return _counted(results, len(items), progress)
    with joined(address) as ray:
        return _counted(_spread(ray, work, items, lost), len(items), progress)


def _counted(
    results: Iterator[Result], total: int, progress: Callable[[int, int], None] | None
) -> list[Result]:
    found = []
    for result in results:
        found.append(result)
        if progress:
            progress(len(found), total)
    return found


def _spread(
    ray: Any, work: Callable[[Item], Result], items: Sequence[Item], lost: Callable[[Item], Result]
) -> Iterator[Result]:
    """Keep a few items under way for each core, and yield in order; on an early end cancel the rest."""
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_one)
    held = [ray.put(work), version("medmm")]
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[tuple[Item, Any]] = deque()
    rest = iter(items)
    try:
        while True:
            waiting.extend((item, task.remote(held, item)) for item in islice(rest, most - len(waiting)))
            if not waiting:
                return
            item, reference = waiting.popleft()
            yield _fetched(ray, reference, item, lost)
    finally:
        for _, reference in waiting:
            ray.cancel(reference, force=True)


def _fetched(ray: Any, reference: Any, item: Item, lost: Callable[[Item], Result]) -> Result:
    """Return one result, raise what the work raised, or say that the item is lost."""
    dead = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    try:
        done, result = ray.get(reference)
    except dead:
        return lost(item)
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"a worker of the cluster cannot do the work ({type(error).__name__}); install this medmm, and"
            " the same Python, on every machine"
        ) from None
    if not done:
        raise result
    return result  # type: ignore[no-any-return]


def _one(held: Sequence[Any], item: Any) -> tuple[bool, Any]:
    """Do one item in a worker: (True, result), or (False, error).

    Args:
        held: the reference of the work, in a list so that ray does not fetch it for every item, and the
            version of medmm that asks.
        item: of the map.
    """
    reference, asked_by = held
    try:
        own = version("medmm")
        if own != asked_by:
            raise ClusterError(f"a worker has medmm {own}, not {asked_by}; install the same on every machine")
        key = reference.hex()
        if key not in _held:
            import ray

            _held.clear()
            _held[key] = ray.get(reference)
        return True, _held[key](item)
    except Exception as error:
        return False, _portable(error)


def together(
    work: Callable[[Progress], Result], *, processes: int, address: str, progress: Progress | None = None
) -> list[Result]:
    """Do one piece of work in several processes that know of each other, spread over the machines.

    Each has the variables that ``torchrun`` sets (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` …), so that what
    fits under torchrun fits here; each asks for one core. Where one dies all end.

    Args:
        work: picklable; its result, per rank, is returned. What it is given tells (stage, done, total) to
            ``progress`` on this machine.
        processes: how many.
        address: as in :func:`mapped`.
        progress: called here, with the latest of each stage; it never hears of a patient.

    Raises:
        ClusterError: if the cluster has too few cores or a process died.
    """
    with joined(address) as ray:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < processes:
            raise ClusterError(f"{processes} processes need a core each, and the cluster has {cores}")
        member = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0)(_Member)
        board = ray.remote(num_cpus=0)(_Board).remote()
        members = [member.remote() for _ in range(processes)]
        try:
            host, port = ray.get(members[0].meeting.remote())
            told = {"WORLD_SIZE": f"{processes}", "MASTER_ADDR": host, "MASTER_PORT": f"{port}"}
            alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            running = [
                each.run.remote(work, {"RANK": f"{rank}", **told, **alone}, board)
                for rank, each in enumerate(members)
            ]
            return _awaited(ray, running, board, progress)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"a process died ({type(error).__name__}); what is finished is kept, go on with --resume"
            ) from None
        finally:
            for each in (*members, board):
                ray.kill(each)


def _awaited(ray: Any, running: Sequence[Any], board: Any, progress: Progress | None) -> list[Any]:
    """Return what the processes return; whoever fails first ends the others, which wait for it."""
    waiting, heard = list(running), dict[str, tuple[int, int]]()
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=TOLD_SECONDS)
        news = ray.get(board.latest.remote()) if progress else {}
        for stage, counts in news.items():
            if progress and heard.get(stage) != counts:
                progress(stage, *counts)
        heard = news
        for one in ready:
            done, found = ray.get(one)
            if not done:
                raise found
    return [ray.get(each)[1] for each in running]


class _Board:
    """Where the processes of :func:`together` write how far they are, in a worker of its own."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, int]] = {}

    def tell(self, stage: str, done: int, total: int) -> None:
        """Keep the latest of a stage."""
        self._latest[stage] = (done, total)

    def latest(self) -> dict[str, tuple[int, int]]:
        """Return (done, total) of every stage, in the order they began."""
        return self._latest


class _Member:
    """One of several processes that work together, in a worker of the cluster."""

    def meeting(self) -> tuple[str, int]:
        """Return where the processes meet: this machine, and a port that is free."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def run(self, work: Callable[[Progress], Any], variables: dict[str, str], board: Any) -> tuple[bool, Any]:
        """Do the work with these variables set: (True, result), or (False, error)."""
        os.environ.update(variables)
        told: dict[str, float] = {}

        def tell(stage: str, done: int, total: int) -> None:
            now = monotonic()
            if done >= total or now - told.get(stage, -TOLD_SECONDS) >= TOLD_SECONDS:
                told[stage] = now
                board.tell.remote(stage, done, total)

        try:
            return True, work(tell)
        except Exception as error:
            return False, _portable(error)


def _portable(error: Exception) -> Exception:
    """Return an error that can leave the worker, with the place it was raised at for ``--trace``."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    try:
        copy.deepcopy(error)  # by the same protocol as it is packed with
    except Exception:
        return RuntimeError(f"{type(error).__name__} in a worker")
    return error


class _FirstLines(io.TextIOBase):
    """Standard output while a cluster is joined, for what Ray prints of a machine that dies.

    It must not stand among results, and its first line says what happened; the log of the dead machine, of
    which Ray shows the last lines, does not help who asked.
    """

    def write(self, text: str) -> int:
        """Show the first line of a text on standard error."""
        first, _, rest = text.partition("\n")
        sys.stderr.write(first if rest else text)
        return len(text)


@contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Join a cluster, or start one here, and leave it at the end.

    A connection that stands is used, so that several maps inside one such block share it.

    Args:
        address: as in :func:`mapped`; None joins nothing.

    Raises:
        ClusterError: if the cluster does not answer.
    """
    if address is None:
        yield None
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
    try:
        import ray
    except ImportError:
        raise ClusterError("no ray is installed; run `pip install 'medmm[cluster]'`") from None
    if ray.is_initialized():
        yield ray
        return
    knock(address)
    stop = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(_FirstLines()):
        try:
            _start(ray, address)
            _keep_handler(stop)
            yield ray
        finally:
            ray.shutdown()
            _keep_handler(stop)


def _start(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    if address == LOCAL:
        options |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"no Ray cluster can be joined at {address!r} ({type(error).__name__}); `ray status` there shows"
            " whether it is up, and Ray, Python and the token must be the same on every machine"
        ) from error


def _keep_handler(stop: Any) -> None:
    """Give the signal of a scheduler's stop back to whom it belonged before ray took it."""
    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where ray takes none
        return


def knock(address: str | None) -> None:
    """See whether anybody listens at ``host:port``: a command asks before its work.

    Args:
        address: as in :func:`mapped`.

    Raises:
        ClusterError: if nobody does, or the address is none, or there is no ray.
    """
    if address is not None and find_spec("ray") is None:
        raise ClusterError("no ray is installed; run `pip install 'medmm[cluster]'`")
    if address in (None, LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(
            f"{address!r} is no address of a cluster; write host:port, auto, or {LOCAL} for this machine"
        )
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nobody answers at {address}: start a cluster with `ray start --head --port {port}` there, or"
            f" write {LOCAL} for this machine"
        ) from error
