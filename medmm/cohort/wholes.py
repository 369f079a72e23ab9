"""Placing what must not be divided: subjects, families, sites, and the time before and after a cut.

Every placement is decided by (seed, name) and by strata alone, so no order of rows, files or processes
matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medmm.cohort.division import Splits as Settings
from medmm.errors import DataError

TRAIN, HELD_OUT = "train", "held_out"
Places = dict[str, tuple[str, int]]
"""Per subject, its split and its fold (-1 when held out)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One subject to be placed.

    Attributes:
        subject: its id.
        stratum: what every part has its share of.
        whole: what it must not be divided from: a site, a family, itself.
        day: of its prediction time.
    """

    subject: str
    stratum: tuple[str, ...]
    whole: str
    day: float


def by_subject(members: Iterable[Member], settings: Settings) -> Places:
    """Draw subjects: systematic sampling along the strata, each of which gives its share, rounded."""
    ordered = sorted(members, key=lambda m: (m.stratum, _rank(settings.seed, m.subject)))
    of: Places = {}
    place = 0
    for position, member in enumerate(ordered):
        if int((position + 1) * settings.held_out + 0.5) > int(position * settings.held_out + 0.5):
            of[member.subject] = (HELD_OUT, -1)
        else:
            of[member.subject] = (TRAIN, place % settings.folds)
            place += 1
    return of


def by_group(members: Sequence[Member], settings: Settings) -> Places:
    """Draw whole groups, the largest first, each to where its strata are missed most.

    Raises:
        DataError: if there are fewer groups than parts.
    """
    shares = [(1 - settings.held_out) / settings.folds] * settings.folds
    if settings.held_out:
        shares.append(settings.held_out)
    wholes = _wholes(members)
    if len(wholes) < len(shares):
        raise DataError(
            f"splits.groups: {len(wholes)} groups cannot fill {len(shares)} parts; lower splits.folds"
        )
    placed = _balanced(wholes, shares, settings.seed)
    return {
        member.subject: (TRAIN, part) if part < settings.folds else (HELD_OUT, -1)
        for whole, part in placed.items()
        for member in wholes[whole]
    }


def by_site(members: Sequence[Member], settings: Settings) -> Places:
    """Hold out whole sites, and keep every site whole in one fold.

    Raises:
        DataError: if a named site is unknown, or fewer sites are left than folds.
    """
    sites = _wholes(members)
    unknown = sorted(set(settings.held_out_sites) - set(sites))
    if unknown:
        raise DataError(f"splits.held_out_sites: {unknown} are no sites; known: {sorted(sites)[:20]}")
    held = set(settings.held_out_sites) or _drawn_sites(sites, settings)
    kept = {site: of for site, of in sites.items() if site not in held}
    if len(kept) < settings.folds:
        raise DataError(
            f"splits.by site: {len(kept)} sites are left for {settings.folds} folds; lower splits.folds"
        )
    placed = _balanced(kept, [1 / settings.folds] * settings.folds, settings.seed)
    of = {m.subject: (TRAIN, part) for site, part in placed.items() for m in kept[site]}
    return of | {m.subject: (HELD_OUT, -1) for site in held for m in sites[site]}


def by_whole(members: Sequence[Member], settings: Settings) -> dict[str, int]:
    """Return another division into folds of what must not be divided, in a seeded order whatever its size."""
    wholes = _wholes(members)
    shares = [1 / settings.folds] * settings.folds
    placed = _balanced(wholes, shares, settings.seed, largest_first=False)
    return {member.subject: part for whole, part in placed.items() for member in wholes[whole]}


def by_time(members: Sequence[Member], settings: Settings) -> Places:
    """Hold out those with the latest prediction times, whole days; the others are drawn into folds.

    Raises:
        DataError: if no cut leaves somebody on both sides.
    """
    days = sorted(member.day for member in members)
    wanted = len(days) * (1 - settings.held_out)
    cuts = sorted(set(days))[1:]
    if not cuts:
        raise DataError(
            "splits.by time: everybody has the same prediction time, so nobody is later; divide by patient"
        )
    before = Counter(days)
    earlier = {cut: sum(n for day, n in before.items() if day < cut) for cut in cuts}
    cut = min(cuts, key=lambda day: (abs(earlier[day] - wanted), day))
    training = [member for member in members if member.day < cut]
    of = by_subject(training, settings.model_copy(update={"held_out": 0.0}))
    return of | {member.subject: (HELD_OUT, -1) for member in members if member.day >= cut}


def nested(
    training: Sequence[Member], of: Mapping[str, tuple[str, int]], settings: Settings
) -> dict[str, tuple[int, ...]]:
    """Return each training subject's inner fold inside the training part of every outer fold.

    What must not be divided is not divided here either.

    Raises:
        DataError: if there are fewer groups or sites than inner folds.
    """
    found: dict[str, list[int]] = {member.subject: [] for member in training}
    for outer in range(settings.folds):
        inside = [member for member in training if of[member.subject][1] != outer]
        wholes = _wholes(inside)
        count = settings.inner_folds or 2
        if len(wholes) < count:
            raise DataError(
                f"{len(wholes)} groups or sites cannot fill {count} inner folds; lower inner_folds"
            )
        placed = _balanced(wholes, [1 / count] * count, settings.seed + 1 + outer)
        for member in training:
            inner = placed[member.whole] if of[member.subject][1] != outer else -1
            found[member.subject].append(inner)
    return {subject: tuple(places) for subject, places in found.items()}


def _wholes(members: Iterable[Member]) -> dict[str, list[Member]]:
    wholes: dict[str, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda m: m.subject):
        wholes[member.whole].append(member)
    return dict(wholes)


def _drawn_sites(sites: Mapping[str, Sequence[Member]], settings: Settings) -> set[str]:
    """Draw sites in a seeded order while they bring the held-out share nearer to what was asked."""
    wanted = settings.held_out * sum(map(len, sites.values()))
    held: set[str] = set()
    size = 0
    for site in sorted(sites, key=lambda name: _rank(settings.seed, name)):
        more = size + len(sites[site])
        if abs(more - wanted) < abs(size - wanted):
            held.add(site)
            size = more
    if wanted and not held:
        raise DataError(
            "splits.by site: no site is small enough to be the held-out share; name `held_out_sites`"
        )
    return held


def _balanced(
    wholes: Mapping[str, Sequence[Member]], shares: Sequence[float], seed: int, *, largest_first: bool = True
) -> dict[str, int]:
    """Return the part of each whole: largest first, to where it leaves size and strata nearest their shares.

    An empty part comes first, so that none stays empty.
    """
    totals = Counter(member.stratum for of in wholes.values() for member in of)
    filled = [Counter[tuple[str, ...]]() for _ in shares]
    placed: dict[str, int] = {}
    ordered = sorted(wholes, key=lambda name: (-len(wholes[name]) * largest_first, _rank(seed, name)))
    for name in ordered:
        adds = Counter(member.stratum for member in wholes[name])

        def cost(part: int, adds: Counter[tuple[str, ...]] = adds) -> tuple[bool, float, int]:
            have = filled[part]
            over = sum(
                ((have[s] + n) ** 2 - have[s] ** 2) / (shares[part] * totals[s]) for s, n in adds.items()
            )
            size, more = have.total(), adds.total()
            over += ((size + more) ** 2 - size**2) / (shares[part] * totals.total())
            return bool(size), over, part

        placed[name] = min(range(len(shares)), key=cost)
        filled[placed[name]].update(adds)
    return placed


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
