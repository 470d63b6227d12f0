"""What splits share with each other, and with other datasets: speakers, sentences, sounds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from asr_lora.dataset.plan_database import PlanDatabase
from asr_lora.dataset.reading import split_rows
from asr_lora.folders.atomic import write_jsonl
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, Overlap
from asr_lora.sources.interface import Utterance
from asr_lora.sources.open import open_source
from asr_lora.text import sentence_key


@dataclass(frozen=True)
class Other:
    """A dataset or source with which nothing should be shared."""

    name: str
    digest: str
    rows: Callable[[], Iterator[tuple[str, str, int, str | None, str | None]]]  # as `PlanDatabase.compare` takes them

    @classmethod
    def open(cls, word: Path | str, locale: str) -> "Other":
        prepared = DatasetFolder(Path(word))
        if prepared.complete:
            return cls(prepared.root.resolve().name, prepared.splits_digest(), lambda: _prepared_rows(prepared))
        source = open_source(str(word), locale=locale)
        return cls(source.name, source.digest(), lambda: _source_rows(source.rows(), source.speaker_namespace))


def _prepared_rows(folder: DatasetFolder) -> Iterator[tuple[str, str, int, str | None, str | None]]:
    for split in SPLITS:
        for row in split_rows(folder, split, ["id", "text", "digest"]):
            yield split, row["id"], sentence_key(row["text"]), None, row["digest"]


def _source_rows(rows: Iterable[Any], speaker_namespace: str) -> Iterator[tuple[str, str, int, str | None, str | None]]:
    for row in rows:
        if isinstance(row, Utterance) and row.text:
            person = f"{speaker_namespace}:{row.speaker}" if row.speaker else None
            yield row.split or "all", row.id, sentence_key(row.text), person, None


def list_leaks(plan: PlanDatabase, folder: DatasetFolder, others: Sequence[Other]) -> dict[str, object]:
    """Write every leak to leaks.jsonl, and count for the manifest what is shared by which pair."""
    shared = Leaks(f"{one} and {other}" for one, other in combinations(SPLITS, 2))
    against = {other.name: Leaks() for other in others}
    lists = [shared.counted("{with} and {split}", plan.leaks())]
    for other in others:
        lists.append(against[other.name].counted("{split} and its {with}", _shared_with(plan, other)))
    write_jsonl(folder.leaks, chain.from_iterable(lists))
    return {
        "shared_between_splits": shared.facts(),
        "shared_with_others": {name: leaks.facts() for name, leaks in against.items()},
    }


def _shared_with(plan: PlanDatabase, other: Other) -> Iterator[dict[str, str]]:
    for leak in plan.compare(other.rows()):
        yield {**leak, "of": other.name}


class Leaks:
    """Counts what leaks between pairs of splits, while it is listed."""

    def __init__(self, pairs: Iterable[str] = ()) -> None:
        # What is shared is told apart by the one utterance of the other side that stands for it.
        self.found: dict[str, dict[str, set[str]]] = {pair: self._none() for pair in pairs}

    def counted(self, pair: str, leaks: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        """Pass leaks on; `pair` says what a pair is called, with the names of a leak's parts in braces."""
        for leak in leaks:
            self.found.setdefault(pair.format(**leak), self._none())[f"{leak['shares']}s"].add(leak["example"])
            yield leak

    def facts(self) -> dict[str, Overlap]:
        return {
            pair: Overlap(**{kind: len(shared) for kind, shared in kinds.items()}) for pair, kinds in self.found.items()
        }

    @staticmethod
    def _none() -> dict[str, set[str]]:
        return {"speakers": set(), "sentences": set(), "clips": set()}
