"""Choose nested low-data subsets of train: 10min within 1h within 10h, the same on every machine."""

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
TICKS = 1_000_000  # in a second: sums of integers do not depend on the order of the terms
UNKNOWN = -1  # in place of the number of a speaker who is not known
NAMED_IDS = 5  # missing ids of a list that the manifest and a warning name


class UtteranceFacts(NamedTuple):
    """What subsets and summaries need to know of an utterance."""

    id: str
    speaker: str  # a pseudonym; "" where it is not known, and then the speaker cap does not apply
    seconds: float
    gender: str = ""  # female, male, or anything else for unlabelled
    characters: int = 0  # of the text


@dataclass(frozen=True)
class IdList:
    """A subset given as a list of ids."""

    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Subsets:
    """Chosen subsets."""

    ids: dict[str, list[str]]  # name -> ids in the order in which they were chosen
    left_out: dict[str, float] = field(default_factory=dict)  # name that train cannot fill -> seconds that it has
    missing: dict[str, list[str]] = field(default_factory=dict)  # name of a list -> its ids that train does not have


def subset_seconds(name: str) -> float:
    """Return the seconds of a subset by its name: "10min" is 600.0, "0.5h" and "0.5h@2" are 1800.0.

    Raises:
        ConfigError: the name is not a number with s, min or h, and perhaps @ and a seed.
    """
    return _parsed(name)[0]


def subset_seed(name: str, default: int = 0) -> int:
    """Return the seed of a subset by its name: "1h@2" has seed 2, "1h" has the default."""
    seed = _parsed(name)[1]
    return default if seed is None else seed


def _parsed(name: str) -> tuple[float, int | None]:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|min|h)(?:@([0-9]{1,9}))?", name)
    if not match or float(match[1]) == 0:
        raise ConfigError(f"subset {name!r} is no length: write a length such as 10min or 1h, or 1h@2 for another seed")
    return float(match[1]) * UNIT_SECONDS[match[2]], None if match[3] is None else int(match[3])


def nested_subsets(
    utterances: Iterable[UtteranceFacts], names: Iterable[str], *, seed: int = 0, speaker_cap: float | None = None
) -> Subsets:
    """Choose nested subsets with even speakers, and with as much labelled speech of women as of men.

    All lengths of a seed are cut from one order: each subset is the longest beginning of it that fits, so that smaller
    subsets lie within larger ones. The next utterance of the order comes from the gender with the least speech so far,
    and there from the speaker with the least. Speech without a gender label keeps its share of train. When one gender
    has no more speech, the others continue. SHA-256 of seed and id decides ties and the order within a speaker, so the
    choice depends neither on the machine, nor on the order of the rows, nor on Python's hash seed.

    Args:
        utterances: all utterances of train, in any order, with unique ids.
        names: lengths such as "10min", perhaps with a seed, such as "1h@2".
        seed: seed of names without one.
        speaker_cap: most seconds of one speaker in a subset. A speaker whose next utterance would exceed it is left
            out from then on. A subset that train then cannot fill is left out, since "1h" should be an hour.

    Returns:
        The subsets, shortest first, and the lengths that train cannot fill.

    Raises:
        ConfigError: a name is not a length, or the cap is not above zero.
    """
    require_cap(speaker_cap)
    wanted = sorted({name: subset_seconds(name) for name in names}.items(), key=lambda item: item[1])
    seeds = {name: subset_seed(name, seed) for name, _ in wanted}
    pool = _Pool.of(utterances)
    ids: dict[str, list[str]] = {}
    left_out: dict[str, float] = {}
    for drawn in sorted(set(seeds.values())):
        lengths = {name: seconds for name, seconds in wanted if seeds[name] == drawn}
        _cut(pool, pool.in_turn(drawn, speaker_cap), lengths, ids, left_out)
    return Subsets({name: ids[name] for name, _ in wanted if name in ids}, left_out)


def require_cap(seconds: float | None) -> None:
    """Check a speaker cap.

    Raises:
        ConfigError: the cap is not above zero.
    """
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"--speaker-cap {seconds:g}: write the most seconds of one speaker in a subset, such as 150")


def _cut(
    pool: "_Pool",
    order: Iterator[int],
    lengths: dict[str, float],
    ids: dict[str, list[str]],
    left_out: dict[str, float],
) -> None:
    """Cut subsets from an order, which is read only as far as the longest subset needs."""
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
    """All utterances as columns, with a few dozen bytes each beside the id, so that a million fit into memory."""

    ids: list[str]
    ticks: np.ndarray  # (utterances,), int64
    queue: np.ndarray  # (utterances,), int32: number of its queue; each speaker and gender label has a queue
    speakers: list[int]  # queue -> number of its speaker, or UNKNOWN
    genders: list[str]  # queue -> female, male or unlabelled

    @classmethod
    def of(cls, utterances: Iterable[UtteranceFacts]) -> "_Pool":
        ids, seconds, queue = [], array("d"), array("i")
        speakers: dict[str, int] = {}
        queues: dict[tuple[int, str], int] = {}
        for id_, speaker, length, gender, _ in utterances:
            number = speakers.setdefault(speaker, len(speakers)) if speaker else UNKNOWN
            key = (number, gender if gender in BALANCED else UNLABELLED)
            ids.append(id_)
            seconds.append(length)
            queue.append(queues.setdefault(key, len(queues)))
        ticks = np.ceil(np.array(seconds, dtype=np.float64) * TICKS).astype(np.int64)
        of_queue = [number for number, _ in queues], [gender for _, gender in queues]
        return cls(ids, ticks, np.array(queue, dtype=np.int32), *of_queue)

    def in_turn(self, seed: int, speaker_cap: float | None) -> Iterator[int]:
        """Yield the numbers of utterances in the order in which subsets take them."""
        by_digest = self._by_digest(seed)
        places = np.argsort(self.queue[by_digest], kind="stable")  # by queue, and within it by digest
        ends = np.cumsum(np.bincount(self.queue, minlength=len(self.speakers))).tolist()
        upcoming = [0, *ends[:-1]]
        cap = np.inf if speaker_cap is None else speaker_cap * TICKS
        ticks_of_speaker = dict.fromkeys(self.speakers, 0)
        weights = self._weights()
        ticks_of_gender = dict.fromkeys(weights, 0)
        pace = dict.fromkeys(weights, 0.0)  # ticks of a gender, relative to its weight
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
            if so_far != ticks_of_speaker[speaker]:  # utterances of the speaker with another label were taken meanwhile
                heapq.heappush(heaps[gender], (ticks_of_speaker[speaker], place, queue))
                continue
            number = int(by_digest[place])
            ticks = int(self.ticks[number])
            if so_far + ticks > cap and speaker != UNKNOWN:
                continue  # the speaker has reached the cap
            yield number
            ticks_of_speaker[speaker] += ticks
            ticks_of_gender[gender] += ticks
            pace[gender] = ticks_of_gender[gender] / weights[gender]
            upcoming[queue] += 1
            if upcoming[queue] < ends[queue]:
                heapq.heappush(heaps[gender], (ticks_of_speaker[speaker], int(places[upcoming[queue]]), queue))

    def _by_digest(self, seed: int) -> np.ndarray:
        """Return the numbers of the utterances in the order of SHA-256 of seed and id, shape (utterances,)."""
        digests = bytearray()
        for id_ in self.ids:
            digests += hashlib.sha256(f"{seed}:{id_}".encode("utf-8", "surrogatepass")).digest()[:16]
        first, second = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
        return np.lexsort((second, first))

    def _weights(self) -> dict[str, int]:
        """Return the share of each gender in a subset: labelled genders equally, unlabelled speech as in train."""
        sums = np.bincount(self.queue, weights=self.ticks, minlength=len(self.genders))  # exact below 2^53
        totals = dict.fromkeys(sorted(set(self.genders)), 0)
        for gender, ticks in zip(self.genders, sums, strict=True):
            totals[gender] += int(ticks)
        labelled = [gender for gender in totals if gender in BALANCED]
        share = sum(totals[gender] for gender in labelled) // max(len(labelled), 1)
        return {gender: max(share if gender in BALANCED else total, 1) for gender, total in totals.items()}


def read_id_list(path: Path) -> IdList:
    """Read a published subset: one id, or name of a recording, a line. "#" begins a comment. The file names the subset.

    Raises:
        ConfigError: the file cannot be read, has no ids, or has a name that a subset cannot have.
    """
    name = path.stem
    if not re.fullmatch(r"[\w.+-]+", name) or name == "all" or re.fullmatch(r"[0-9.]+(s|min|h)", name):
        raise ConfigError(f"{path}: a subset cannot be called {name!r}. Rename the file, to such as mls-1h.txt")
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line ends may stand within an id
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a list of ids, one a line ({error})") from error
    ids = dict.fromkeys(line.partition("#")[0].strip() for line in lines)
    ids.pop("", None)
    if not ids:
        raise ConfigError(f"{path} has no ids: write one a line")
    return IdList(name, tuple(ids))


def find_listed(lists: Iterable[IdList], ids: Collection[str]) -> Subsets:
    """Look up lists of ids in train.

    Args:
        ids: all ids of train, best as a set.

    Returns:
        The ids that train has, in the order of the list, and those that it does not have.

    Raises:
        ConfigError: two lists have the same name.
        DataError: train has no id of a list.
    """
    found: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for each in lists:
        if each.name in found:
            raise ConfigError(f"two id lists are called {each.name!r}: give one of the files another name")
        known = {given: given if given in ids else _recording_stem(given) for given in each.ids}
        found[each.name] = list(dict.fromkeys(id_ for id_ in known.values() if id_ in ids))
        absent = [given for given, id_ in known.items() if id_ not in ids]
        if not found[each.name]:
            raise DataError(
                f"id list {each.name!r}: none of its {len(absent):,} ids is in train, such as {absent[0]!r}: "
                "use a list that was made for this release and language"
            )
        if absent:
            missing[each.name] = absent
    return Subsets(found, missing=missing)


def _recording_stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
