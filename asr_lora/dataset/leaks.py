"""List what the splits of a dataset share with each other and with other datasets: speakers, sentences, samples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from asr_lora.dataset.plan_database import OtherUtterance, PlanDatabase
from asr_lora.dataset.reading import split_rows
from asr_lora.folders.atomic import write_jsonl
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, Overlap
from asr_lora.sources.interface import BadRow, Utterance
from asr_lora.sources.open import open_source
from asr_lora.text import sentence_key


@dataclass(frozen=True)
class OtherDataset:
    """A dataset or source with which the new dataset should share nothing."""

    name: str
    digest: str
    utterances: Callable[[], Iterator[OtherUtterance]]

    @classmethod
    def open(cls, name: Path | str, locale: str) -> "OtherDataset":
        prepared = DatasetFolder(Path(name))
        if prepared.complete:
            digest = prepared.splits_digest()
            return cls(prepared.root.resolve().name, digest, lambda: _prepared_utterances(prepared))
        source = open_source(str(name), locale=locale)
        return cls(source.name, source.digest(), lambda: _source_utterances(source.rows(), source.speaker_namespace))


def _prepared_utterances(folder: DatasetFolder) -> Iterator[OtherUtterance]:
    for split in folder.read().splits:
        for row in split_rows(folder, split, ["id", "text", "digest"]):
            yield split, row["id"], sentence_key(row["text"]), None, row["digest"]


def _source_utterances(rows: Iterable[Utterance | BadRow], speaker_namespace: str) -> Iterator[OtherUtterance]:
    for row in rows:
        if isinstance(row, Utterance) and row.text:
            person = f"{speaker_namespace}:{row.speaker}" if row.speaker else None
            yield row.split or "all", row.id, sentence_key(row.text), person, None


def list_leaks(plan: PlanDatabase, folder: DatasetFolder, others: Sequence[OtherDataset]) -> dict[str, object]:
    """Write every leak to leaks.jsonl. Return the keys of the manifest that count what each pair shares."""
    between = LeakCounts(f"{one} and {other}" for one, other in combinations(SPLITS, 2))
    against = {other.name: LeakCounts() for other in others}
    leaks = [between.count("{with} and {split}", plan.leaks())]
    for other in others:
        leaks.append(against[other.name].count("{split} and its {with}", _leaks_to(other, plan)))
    write_jsonl(folder.leaks, chain.from_iterable(leaks))
    return {
        "shared_between_splits": between.overlaps(),
        "shared_with_others": {name: counts.overlaps() for name, counts in against.items()},
    }


def _leaks_to(other: OtherDataset, plan: PlanDatabase) -> Iterator[dict[str, str]]:
    for leak in plan.compare(other.utterances()):
        yield {**leak, "of": other.name}


class LeakCounts:
    """Counts the leaks between pairs of splits while they are written."""

    def __init__(self, pairs: Iterable[str] = ()) -> None:
        # One utterance of the other side stands for each shared speaker, sentence or recording.
        self.found: dict[str, dict[str, set[str]]] = {pair: self._none() for pair in pairs}

    def count(self, pair: str, leaks: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        """Yield the leaks. `pair` is the name of a pair, with the keys of a leak in braces."""
        for leak in leaks:
            self.found.setdefault(pair.format(**leak), self._none())[f"{leak['shares']}s"].add(leak["example"])
            yield leak

    def overlaps(self) -> dict[str, Overlap]:
        return {
            pair: Overlap(**{kind: len(shared) for kind, shared in kinds.items()}) for pair, kinds in self.found.items()
        }

    @staticmethod
    def _none() -> dict[str, set[str]]:
        return {"speakers": set(), "sentences": set(), "clips": set()}
