"""Read the plan of a dataset, and note what was done with each utterance. Both are SQLite files, so memory stays flat.

`asr_lora.dataset.plan` writes the plan once, whole. The progress stands in a scratch database beside it, which is
made anew whenever `prepare` starts.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from asr_lora.dataset.subsets import UtteranceFacts
from asr_lora.folders.dataset_folder import SPLITS

PAGE = 1000  # rows read from the database together
SCRATCH = """
CREATE TABLE scratch.begun (number INTEGER PRIMARY KEY);
CREATE TABLE scratch.outcome (number INTEGER PRIMARY KEY, reason TEXT, seconds REAL, digest TEXT, pseudonym TEXT);
CREATE TABLE scratch.kept (number INTEGER PRIMARY KEY, split TEXT, id TEXT, speaker TEXT, seconds REAL, gender TEXT,
                           characters INTEGER, person TEXT, sentence INTEGER, digest TEXT);
"""
KEPT_INDICES = """
CREATE INDEX scratch.kept_split ON kept (split, number);
CREATE INDEX scratch.kept_person ON kept (person, split, id);
CREATE INDEX scratch.kept_sentence ON kept (sentence, split, id);
CREATE INDEX scratch.kept_digest ON kept (digest, split, id);
"""
OTHER = "CREATE TABLE scratch.other (split TEXT, id TEXT, sentence INTEGER, person TEXT, digest TEXT);"
OTHER_INDICES = """
CREATE INDEX scratch.other_person ON other (person, split, id);
CREATE INDEX scratch.other_sentence ON other (sentence, split, id);
CREATE INDEX scratch.other_digest ON other (digest, split, id);
"""
NOT_BEGUN = "reason IS NULL AND number NOT IN (SELECT number FROM scratch.begun)"

Outcome = tuple[int, str | None, float | None, str | None, str | None]
"""Number of the utterance, reason to leave it out, seconds, digest of its samples, pseudonym of its speaker."""
OtherUtterance = tuple[str, str, int, str | None, str | None]
"""Split, id, sentence key, person and digest of an utterance of another dataset."""


@dataclass(frozen=True)
class PlannedUtterance:
    """An utterance of the plan that is to be decoded."""

    number: int
    id: str
    start: float  # seconds into the recording
    seconds: float | None  # None: to the end of the recording
    text: str
    speaker: str  # "" where it is not known
    person: str
    split: str
    gender: str
    age: str
    accent: str
    domain: str


class PlanDatabase:
    """An open plan and its scratch database."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        scratch.unlink(missing_ok=True)
        self.database.execute("ATTACH ? AS scratch", (f"{scratch.absolute().as_uri()}?mode=rwc",))
        self.database.executescript(f"PRAGMA scratch.journal_mode=OFF; PRAGMA scratch.synchronous=OFF; {SCRATCH}")

    def close(self) -> None:
        self.database.close()

    def fact(self, name: str) -> Any:
        (value,) = self.database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return json.loads(value)

    def count(self, split: str | None = None) -> int:
        """Count the utterances to decode, of one split or of all."""
        query = "SELECT COUNT(*) FROM utterance WHERE reason IS NULL AND (?1 IS NULL OR split = ?1)"
        return int(self.database.execute(query, (split,)).fetchone()[0])

    def take(self, source: int, recording: str) -> list[PlannedUtterance]:
        """Return the utterances of a recording that were not taken before, and note them as taken."""
        rows = self.database.execute(
            "SELECT number, id, start, seconds, text, speaker, person, split, gender, age, accent, domain "
            f"FROM utterance WHERE source = ? AND recording = ? AND {NOT_BEGUN} ORDER BY number",
            (source, recording),
        ).fetchall()
        self.begin(row[0] for row in rows)
        return [PlannedUtterance(*row) for row in rows]

    def begin(self, numbers: Iterable[int]) -> None:
        """Note utterances as taken."""
        self.database.executemany("INSERT OR IGNORE INTO scratch.begun VALUES (?)", ((number,) for number in numbers))

    def note_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        self.database.execute("BEGIN")
        self.database.executemany("INSERT OR REPLACE INTO scratch.outcome VALUES (?, ?, ?, ?, ?)", outcomes)
        self.database.execute("COMMIT")

    def collect_kept(self) -> None:
        """Collect the utterances of the dataset, once every outcome is noted. The methods below read only these."""
        self.database.executescript(
            "BEGIN; INSERT INTO scratch.kept SELECT u.number, u.split, u.id, o.pseudonym, o.seconds, u.gender, "
            "LENGTH(u.text), CASE WHEN u.speaker <> '' THEN u.person END, u.sentence, o.digest FROM utterance u "
            "JOIN scratch.outcome o ON o.number = u.number WHERE u.reason IS NULL AND o.reason IS NULL; COMMIT; "
            f"{KEPT_INDICES}"
        )

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out utterances of train that were kept: id -> reason."""
        self.database.execute("BEGIN")
        self.database.executemany(
            "UPDATE scratch.outcome SET reason = ? WHERE number IN (SELECT k.number FROM utterance u "
            "JOIN scratch.kept k ON k.number = u.number WHERE u.id = ? AND k.split = 'train')",
            ((reason, id_) for id_, reason in reasons.items()),
        )
        self.database.execute(
            "DELETE FROM scratch.kept WHERE number IN (SELECT number FROM scratch.outcome WHERE reason IS NOT NULL)"
        )
        self.database.execute("COMMIT")

    def kept(self, split: str) -> Iterator[UtteranceFacts]:
        """Yield the utterances of a split of the dataset, in the order of the sources."""
        query = "SELECT id, speaker, seconds, gender, characters FROM scratch.kept WHERE split = ? ORDER BY number"
        return (UtteranceFacts(*row) for row in self.database.execute(query, (split,)))

    def dropped(self) -> Iterator[dict[str, str]]:
        """Yield id, split and reason of every row that was left out, in the order of the sources."""
        rows = self.database.execute(
            "SELECT u.id, u.split, COALESCE(u.reason, o.reason, CASE WHEN o.number IS NULL THEN 'missing' END) AS why "
            "FROM utterance u LEFT JOIN scratch.outcome o ON o.number = u.number WHERE why IS NOT NULL "
            "ORDER BY u.number"
        )
        return ({"id": id_, "split": split, "reason": reason} for id_, split, reason in rows)

    def leaks(self) -> Iterator[dict[str, str]]:
        """Yield the utterances of a split that share speaker, sentence or samples with an earlier split."""
        for one, other in combinations(SPLITS, 2):
            yield from self._shared("kept", other, one)

    def compare(self, others: Iterable[OtherUtterance]) -> Iterator[dict[str, str]]:
        """Yield the utterances that share speaker, sentence or samples with one of another dataset."""
        self.database.executescript(f"DROP TABLE IF EXISTS scratch.other; {OTHER}")
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO scratch.other VALUES (?, ?, ?, ?, ?)", others)
        self.database.execute("COMMIT")
        self.database.executescript(OTHER_INDICES)
        theirs = [split for (split,) in self.database.execute("SELECT DISTINCT split FROM scratch.other ORDER BY 1")]
        for ours in SPLITS:
            for split in theirs:
                yield from self._shared("other", ours, split)

    def _shared(self, table: str, ours: str, theirs: str) -> Iterator[dict[str, str]]:
        """Yield what our split shares with a split of `table`, each with the first id that it shares it with."""
        for kind, column in (("speaker", "person"), ("sentence", "sentence"), ("clip", "digest")):
            rows = self.database.execute(
                f"SELECT k.id, (SELECT MIN(o.id) FROM scratch.{table} o WHERE o.{column} = k.{column} AND o.split = ?) "
                "AS example FROM scratch.kept k WHERE k.split = ? AND example IS NOT NULL ORDER BY k.number",
                (theirs, ours),
            )
            for id_, example in rows:
                yield {"id": id_, "split": ours, "shares": kind, "with": theirs, "example": example}


@dataclass(frozen=True)
class PendingRecordings:
    """The recordings of a source with utterances that were not taken yet."""

    database: sqlite3.Connection
    source: int

    def __iter__(self) -> Iterator[str]:
        last = -1
        while True:  # in pages, since `take` writes in between
            rows = self.database.execute(
                # "+source" keeps SQLite from the index by source, which it would read whole for every page.
                f"SELECT number, recording FROM utterance WHERE +source = ? AND number > ? AND {NOT_BEGUN} "
                "ORDER BY number LIMIT ?",
                (self.source, last, PAGE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from dict.fromkeys(recording for _, recording in rows)

    def __contains__(self, recording: object) -> bool:
        found = self.database.execute(
            f"SELECT 1 FROM utterance WHERE source = ? AND recording = ? AND {NOT_BEGUN} LIMIT 1",
            (self.source, recording),
        )
        return found.fetchone() is not None
