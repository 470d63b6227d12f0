"""Nested low-data subsets of train: 10min within 1h within 10h, the same on every machine."""

import hashlib
import heapq
import re
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_lora.errors import ConfigError, DataError

DEFAULT_SUBSETS = ("2min", "10min", "1h", "10h")
UNIT_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
BALANCED = ("female", "male")
UNLABELLED = "unlabelled"
TICKS = 1_000_000  # a second: whole numbers add up to the same in any order and on any machine
UNKNOWN = -1  # number of nobody in particular
NAMED_IDS = 5  # of an id list that train lacks, which the manifest and a sentence name


class SubsetCandidate(NamedTuple):
    """What the choice of subsets looks at."""

    id: str
    speaker: str  # "" where it is not known; the cap says nothing of such clips
    seconds: float
    gender: str = ""  # female, male, or anything else for unlabelled


@dataclass(frozen=True)
class IdList:
    """A subset that somebody else has chosen."""

    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Subsets:
    """What was chosen: name -> ids, in the order chosen."""

    ids: dict[str, list[str]]
    left_out: dict[str, float] = field(default_factory=dict)  # name -> seconds that train could give
    missing: dict[str, list[str]] = field(default_factory=dict)  # id list -> its ids that train lacks


def subset_seconds(name: str) -> float:
    """Length of a subset from its name: "10min" is 600.0, "0.5h" and "0.5h@2" are 1800.0.

    Raises:
        ConfigError: not a number and s, min or h, perhaps with a seed.
    """
    return _parsed(name)[0]


def subset_seed(name: str, default: int = 0) -> int:
    """Seed of a subset from its name: "1h@2" is the hour drawn with seed 2, "1h" the one drawn with the default."""
    seed = _parsed(name)[1]
    return default if seed is None else seed


def _parsed(name: str) -> tuple[float, int | None]:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|min|h)(?:@([0-9]{1,9}))?", name)
    if not match or float(match[1]) == 0:
        raise ConfigError(f"subset {name!r}: write a length such as 10min or 1h, and perhaps a seed as in 1h@2")
    return float(match[1]) * UNIT_SECONDS[match[2]], None if match[3] is None else int(match[3])


def nested_subsets(
    clips: Iterable[SubsetCandidate], names: Iterable[str], *, seed: int = 0, speaker_cap: float | None = None
) -> Subsets:
    """Choose nested subsets: speakers heard about equally, women and men equally where that is labelled.

    One order serves all of a seed's lengths, and each subset is the longest beginning of it that stays within its
    length; so smaller ones lie within larger ones. The next clip comes from the gender heard least so far, and there
    from the speaker heard least. Speech without a label keeps its share of train. When one gender has no more to give
    the other goes on. Ties and the order within a speaker come from SHA-256 of seed and clip id, so neither the
    machine, nor the order of rows, nor Python's hash seed matters.

    Args:
        clips: every train utterance, in any order, each id once.
        names: lengths, such as "10min", perhaps with a seed, such as "1h@2".
        seed: of names without one.
        speaker_cap: seconds, the most that one speaker gives to a subset: his next clip would go beyond it, so he
            gives no more. A length that train then cannot fill is left out, since "1h" should be an hour.

    Returns:
        The subsets, shortest first, and the lengths that train cannot fill with what it can give to them.

    Raises:
        ConfigError: a name is not a length, or the cap is not above zero.
    """
    require_cap(speaker_cap)
    wanted = sorted({name: subset_seconds(name) for name in names}.items(), key=lambda item: item[1])
    seeds = {name: subset_seed(name, seed) for name, _ in wanted}
    pool = _Pool.of(clips)
    ids: dict[str, list[str]] = {}
    left_out: dict[str, float] = {}
    for drawn in sorted(set(seeds.values())):
        lengths = {name: seconds for name, seconds in wanted if seeds[name] == drawn}
        _cut(pool, pool.in_turn(drawn, speaker_cap), lengths, ids, left_out)
    return Subsets({name: ids[name] for name, _ in wanted if name in ids}, left_out)


def require_cap(seconds: float | None) -> None:
    """See that a cap leaves something.

    Raises:
        ConfigError: it is not above zero.
    """
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"speaker cap {seconds:g}: give the seconds that one speaker may fill, such as 150")


def _cut(
    pool: "_Pool",
    order: Iterator[int],
    lengths: dict[str, float],
    ids: dict[str, list[str]],
    left_out: dict[str, float],
) -> None:
    """Read an order only as far as the longest length needs."""
    taken: list[str] = []
    total = 0
    upcoming = next(order, None)
    for name, seconds in lengths.items():  # shortest first
        while upcoming is not None and total + pool.ticks[upcoming] <= seconds * TICKS:
            total += int(pool.ticks[upcoming])
            taken.append(pool.ids[upcoming])
            upcoming = next(order, None)
        if upcoming is None:
            left_out[name] = total / TICKS
        else:
            ids[name] = list(taken)


@dataclass(frozen=True)
class _Pool:
    """All clips as columns, a few dozen bytes each beside the id, so that a million of them fit everywhere."""

    ids: list[str]
    ticks: np.ndarray  # (clips,), int64
    queue: np.ndarray  # (clips,), int32: where a clip waits; there is a queue for each speaker and gender label
    speakers: list[int]  # queue -> number of its speaker; UNKNOWN where it is not known
    genders: list[str]  # queue -> female, male or unlabelled

    @classmethod
    def of(cls, clips: Iterable[SubsetCandidate]) -> "_Pool":
        ids, seconds, queue = [], array("d"), array("i")
        speakers: dict[str, int] = {}
        queues: dict[tuple[int, str], int] = {}
        for clip, speaker, length, gender in clips:
            number = speakers.setdefault(speaker, len(speakers)) if speaker else UNKNOWN
            key = (number, gender if gender in BALANCED else UNLABELLED)
            ids.append(clip)
            seconds.append(length)
            queue.append(queues.setdefault(key, len(queues)))
        ticks = np.ceil(np.array(seconds, dtype=np.float64) * TICKS).astype(np.int64)
        of_queue = [number for number, _ in queues], [gender for _, gender in queues]
        return cls(ids, ticks, np.array(queue, dtype=np.int32), *of_queue)

    def in_turn(self, seed: int, speaker_cap: float | None) -> Iterator[int]:
        """Yield the numbers of clips in the order in which subsets take them."""
        by_digest = self._by_digest(seed)
        places = np.argsort(self.queue[by_digest], kind="stable")  # by queue, and within it by digest
        ends = np.cumsum(np.bincount(self.queue, minlength=len(self.speakers))).tolist()
        upcoming = [0, *ends[:-1]]
        cap = np.inf if speaker_cap is None else speaker_cap * TICKS
        heard = dict.fromkeys(self.speakers, 0)
        weights = self._weights()
        heard_of_gender = dict.fromkeys(weights, 0)
        pace = dict.fromkeys(weights, 0.0)  # heard of a gender, relative to what should be
        heaps: dict[str, list[tuple[int, int, int]]] = {gender: [] for gender in weights}
        for queue, gender in enumerate(self.genders):
            heaps[gender].append((0, int(places[upcoming[queue]]), queue))
        for heap in heaps.values():
            heapq.heapify(heap)
        while pace:
            gender = min(pace, key=pace.__getitem__)
            if not heaps[gender]:
                del pace[gender]
                continue
            so_far, place, queue = heapq.heappop(heaps[gender])
            speaker = self.speakers[queue]
            if so_far != heard[speaker]:  # some of his clips bear another label and were taken meanwhile
                heapq.heappush(heaps[gender], (heard[speaker], place, queue))
                continue
            clip = int(by_digest[place])
            ticks = int(self.ticks[clip])
            if so_far + ticks > cap and speaker != UNKNOWN:
                continue  # this queue gives no more
            yield clip
            heard[speaker] += ticks
            heard_of_gender[gender] += ticks
            pace[gender] = heard_of_gender[gender] / weights[gender]
            upcoming[queue] += 1
            if upcoming[queue] < ends[queue]:
                heapq.heappush(heaps[gender], (heard[speaker], int(places[upcoming[queue]]), queue))

    def _by_digest(self, seed: int) -> np.ndarray:
        """Numbers of the clips in the order of SHA-256 of seed and id, shape (clips,)."""
        digests = bytearray()
        for clip in self.ids:
            digests += hashlib.sha256(f"{seed}:{clip}".encode("utf-8", "surrogatepass")).digest()[:16]
        first, second = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
        return np.lexsort((second, first))

    def _weights(self) -> dict[str, int]:
        """How much each gender should be heard, relative to the others: labelled ones equally, the rest as in train."""
        sums = np.bincount(self.queue, weights=self.ticks, minlength=len(self.genders))  # exact below 2^53
        totals = dict.fromkeys(sorted(set(self.genders)), 0)
        for gender, ticks in zip(self.genders, sums, strict=True):
            totals[gender] += int(ticks)
        labelled = [gender for gender in totals if gender in BALANCED]
        share = sum(totals[gender] for gender in labelled) // max(len(labelled), 1)
        return {gender: max(share if gender in BALANCED else total, 1) for gender, total in totals.items()}


def read_id_list(path: Path) -> IdList:
    """Read a subset that others have published: one id a line; its name is the file's without the ending.

    Blank lines, and what follows a "#", are not read. An id may be written as the name of its clip.

    Raises:
        ConfigError: no text file, no id in it, or a name that would be taken for another subset's.
    """
    name = path.stem
    if not re.fullmatch(r"[\w.+-]+", name) or name == "all" or re.fullmatch(r"[0-9.]+(s|min|h)", name):
        raise ConfigError(f"{path}: its name would be the subset's, and {name!r} is none: call it such as mls-1h.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a list of ids, one a line ({error})") from error
    ids = dict.fromkeys(line.partition("#")[0].strip() for line in lines)
    ids.pop("", None)
    if not ids:
        raise ConfigError(f"{path} holds no ids: write one a line")
    return IdList(name, tuple(ids))


def find_listed(lists: Iterable[IdList], ids: Collection[str]) -> Subsets:
    """Look up lists of ids among those of train.

    Args:
        ids: of every train utterance; a set, where there are many.

    Returns:
        The ids that are there, in the list's order, and those that are not.

    Raises:
        ConfigError: two lists have one name.
        DataError: train has nothing of a list.
    """
    found: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for each in lists:
        if each.name in found:
            raise ConfigError(f"two id lists are called {each.name!r}: give one of the files another name")
        known = {given: given if given in ids else _clip_stem(given) for given in each.ids}
        found[each.name] = list(dict.fromkeys(clip for clip in known.values() if clip in ids))
        absent = [given for given, clip in known.items() if clip not in ids]
        if not found[each.name]:
            raise DataError(
                f"id list {each.name!r}: none of its {len(absent):,} ids is in train, such as {absent[0]!r}: "
                "take a list made for this release and language"
            )
        if absent:
            missing[each.name] = absent
    return Subsets(found, missing=missing)


def _clip_stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
