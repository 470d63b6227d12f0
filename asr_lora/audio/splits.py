"""Nested low-data subsets of train: 10min within 1h within 10h, the same on every machine."""

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from asr_lora.errors import ConfigError

DEFAULT_SUBSETS = ("2min", "10min", "1h", "10h")
UNIT_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def subset_seconds(name: str) -> float:
    """Length of a subset from its name: "10min" is 600.0, "0.5h" is 1800.0.

    Raises:
        ConfigError: not a number and s, min or h.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", name)
    if not match or float(match[1]) == 0:
        raise ConfigError(f"subset {name!r}: write a length such as 10min or 1h")
    return float(match[1]) * UNIT_SECONDS[match[2]]


def nested_subsets(
    clips: Iterable[tuple[str, str, float]], names: Iterable[str], *, seed: int = 0
) -> dict[str, list[str]]:
    """Choose nested subsets, each speaker about equally often heard in each of them.

    One order serves all: the speaker heard least so far gives the next clip. Each subset is the longest beginning of
    that order that stays within its length, so smaller ones lie within larger ones. Ties and the order within a
    speaker come from SHA-256 of seed and clip id, so neither the machine nor Python's hash seed matters.

    Args:
        clips: (id, speaker, seconds) of every train utterance, in any order.
        names: lengths, such as "10min"; those that train cannot fill are left out.

    Returns:
        Name -> ids in the order chosen, shortest subset first.

    Raises:
        ConfigError: a name is not a length.
    """
    order = _speakers_in_turn(clips, seed)
    total = sum(seconds for _, seconds in order)
    wanted = sorted({name: subset_seconds(name) for name in names}.items(), key=lambda item: item[1])
    return {name: _beginning(order, limit) for name, limit in wanted if limit < total}


def _speakers_in_turn(clips: Iterable[tuple[str, str, float]], seed: int) -> list[tuple[str, float]]:
    speakers: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for clip, speaker, seconds in clips:
        speakers[speaker].append((_rank(seed, clip), clip, seconds))
    heap = []
    for queue in speakers.values():
        queue.sort(reverse=True)  # popped from the end
        heap.append((0.0, queue[-1][0], queue))
    heapq.heapify(heap)
    order = []
    while heap:
        heard, rank, queue = heapq.heappop(heap)
        _, clip, seconds = queue.pop()
        order.append((clip, seconds))
        if queue:
            heapq.heappush(heap, (heard + seconds, rank, queue))
    return order


def _beginning(order: list[tuple[str, float]], limit: float) -> list[str]:
    ids, total = [], 0.0
    for clip, seconds in order:
        total += seconds
        if total > limit:
            break
        ids.append(clip)
    return ids


def _rank(seed: int, clip: str) -> str:
    return hashlib.sha256(f"{seed}:{clip}".encode()).hexdigest()


def summarise(utterances: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Hours, utterances, speakers and seconds by gender of some utterances (with seconds, speaker and gender)."""
    rows = list(utterances)
    genders: dict[str, float] = defaultdict(float)
    for row in rows:
        genders[str(row["gender"]) or "unlabelled"] += float(str(row["seconds"]))
    return {
        "utterances": len(rows),
        "hours": round(sum(genders.values()) / 3600, 4),
        "speakers": len({row["speaker"] for row in rows}),
        "seconds_by_gender": {name: round(seconds, 1) for name, seconds in sorted(genders.items())},
    }
