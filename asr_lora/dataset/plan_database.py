"""Every utterance that `prepare` will read, in a database on disk: memory stays flat whatever the hours.

The plan is made once, whole (`audio/planning.py`), and then only read; what has been done stands in a scratch database
beside it, which is made anew whenever `prepare` starts.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from asr_lora.folders.dataset_folder import SPLITS

PAGE = 1000  # rows read from the database together
SCRATCH = """
CREATE TABLE scratch.begun (number INTEGER PRIMARY KEY);
CREATE TABLE scratch.heard (number INTEGER PRIMARY KEY, reason TEXT, seconds REAL, digest TEXT, pseudonym TEXT);
CREATE TABLE scratch.kept (number INTEGER PRIMARY KEY, split TEXT, id TEXT, speaker TEXT, seconds REAL, gender TEXT,
                           characters INTEGER, person TEXT, sentence INTEGER, digest TEXT);
"""
KEPT = """
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


@dataclass(frozen=True)
class PlannedUtterance:
    """An utterance of the plan."""

    number: int
    id: str
    clip: str
    start: float
    seconds: float | None
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
        """Utterances that are to be decoded, of one split or of all."""
        query = "SELECT COUNT(*) FROM utterance WHERE reason IS NULL AND (?1 IS NULL OR split = ?1)"
        return int(self.database.execute(query, (split,)).fetchone()[0])

    def wanted(self, source: int) -> "PendingRecordings":
        return PendingRecordings(self.database, source)

    def take(self, source: int, clip: str) -> list[PlannedUtterance]:
        """The utterances of a recording that were not taken before."""
        rows = self.database.execute(
            "SELECT number, id, clip, start, seconds, text, speaker, person, split, gender, age, accent, domain "
            "FROM utterance WHERE source = ? AND clip = ? AND reason IS NULL "
            "AND number NOT IN (SELECT number FROM scratch.begun) ORDER BY number",
            (source, clip),
        ).fetchall()
        self.begin(row[0] for row in rows)
        return [PlannedUtterance(*row) for row in rows]

    def begin(self, numbers: Iterable[int]) -> None:
        """Note utterances as taken."""
        self.database.executemany("INSERT OR IGNORE INTO scratch.begun VALUES (?)", ((number,) for number in numbers))

    def hear(self, rows: Iterable[tuple[int, str | None, float | None, str | None, str | None]]) -> None:
        """Note what became of utterances: number, reason to leave it out, seconds, digest of its sound, pseudonym."""
        self.database.execute("BEGIN")
        self.database.executemany("INSERT OR REPLACE INTO scratch.heard VALUES (?, ?, ?, ?, ?)", rows)
        self.database.execute("COMMIT")

    def settle(self) -> None:
        """Gather what is kept, once all has been heard: what follows asks about that alone."""
        self.database.executescript(
            "BEGIN; INSERT INTO scratch.kept SELECT u.number, u.split, u.id, h.pseudonym, h.seconds, u.gender, "
            "LENGTH(u.text), CASE WHEN u.speaker <> '' THEN u.person END, u.sentence, h.digest FROM utterance u "
            f"JOIN scratch.heard h ON h.number = u.number WHERE u.reason IS NULL AND h.reason IS NULL; COMMIT; {KEPT}"
        )

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out utterances of train after all: id -> why."""
        self.database.execute("BEGIN")
        self.database.executemany(
            "UPDATE scratch.heard SET reason = ? WHERE number IN (SELECT k.number FROM utterance u "
            "JOIN scratch.kept k ON k.number = u.number WHERE u.id = ? AND k.split = 'train')",
            ((reason, clip) for clip, reason in reasons.items()),
        )
        self.database.execute(
            "DELETE FROM scratch.kept WHERE number IN (SELECT number FROM scratch.heard WHERE reason IS NOT NULL)"
        )
        self.database.execute("COMMIT")

    def kept(self, split: str) -> Iterator[dict[str, Any]]:
        """What is in the dataset, without audio and text: enough for subsets and summaries."""
        names = ("id", "speaker", "seconds", "gender", "characters")
        query = f"SELECT {', '.join(names)} FROM scratch.kept WHERE split = ? ORDER BY number"
        return (dict(zip(names, row, strict=True)) for row in self.database.execute(query, (split,)))

    def dropped(self) -> Iterator[dict[str, str]]:
        """What was left out and why, in the order of the rows."""
        rows = self.database.execute(
            "SELECT u.id, u.split, COALESCE(u.reason, h.reason, CASE WHEN h.number IS NULL THEN 'missing' END) AS why "
            "FROM utterance u LEFT JOIN scratch.heard h ON h.number = u.number WHERE why IS NOT NULL ORDER BY u.number"
        )
        return ({"id": clip, "split": split, "reason": reason} for clip, split, reason in rows)

    def leaks(self) -> Iterator[dict[str, str]]:
        """Utterances of a split that share speaker, sentence or sound with an earlier split."""
        for one, other in combinations(SPLITS, 2):
            yield from self._shared("kept", other, one)

    def compare(self, rows: Iterable[tuple[str, str, int, str | None, str | None]]) -> Iterator[dict[str, str]]:
        """Utterances of ours that share something with another dataset's: its split, id, sentence, person, digest."""
        self.database.executescript(f"DROP TABLE IF EXISTS scratch.other; {OTHER}")
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO scratch.other VALUES (?, ?, ?, ?, ?)", rows)
        self.database.execute("COMMIT")
        self.database.executescript(OTHER_INDICES)
        theirs = [split for (split,) in self.database.execute("SELECT DISTINCT split FROM scratch.other ORDER BY 1")]
        for ours in SPLITS:
            for split in theirs:
                yield from self._shared("other", ours, split)

    def _shared(self, table: str, ours: str, theirs: str) -> Iterator[dict[str, str]]:
        """What our split shares with a split of a table, each with the first of the ids that it shares it with."""
        for kind, column in (("speaker", "person"), ("sentence", "sentence"), ("clip", "digest")):
            rows = self.database.execute(
                f"SELECT k.id, (SELECT MIN(o.id) FROM scratch.{table} o WHERE o.{column} = k.{column} AND o.split = ?) "
                "AS example FROM scratch.kept k WHERE k.split = ? AND example IS NOT NULL ORDER BY k.number",
                (theirs, ours),
            )
            for clip, example in rows:
                yield {"id": clip, "split": ours, "shares": kind, "with": theirs, "example": example}


@dataclass(frozen=True)
class PendingRecordings:
    """The recordings of a source that hold utterances not taken yet."""

    database: sqlite3.Connection
    source: int

    def __iter__(self) -> Iterator[str]:
        last = -1
        while True:  # in pages, as `take` writes in between
            rows = self.database.execute(
                # "+source" keeps the index by source out of it, which would be read whole for every page.
                "SELECT number, clip FROM utterance WHERE +source = ? AND reason IS NULL AND number > ? "
                "AND number NOT IN (SELECT number FROM scratch.begun) ORDER BY number LIMIT ?",
                (self.source, last, PAGE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from dict.fromkeys(clip for _, clip in rows)

    def __contains__(self, clip: object) -> bool:
        found = self.database.execute(
            "SELECT 1 FROM utterance WHERE source = ? AND clip = ? AND reason IS NULL "
            "AND number NOT IN (SELECT number FROM scratch.begun) LIMIT 1",
            (self.source, clip),
        )
        return found.fetchone() is not None
