"""Plan a dataset: read every row of its sources and decide the split of each utterance, before audio is decoded."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError
from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.sources.interface import ADDED, SPLIT_HERE, BadRow, Utterance, WeightedSource
from asr_lora.text import DOTTED, TextCleaning, sentence_key

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 2000  # size of dev and of test where the splits are made here
PROLIFIC_SHARE = 0.1  # a speaker who would fill more of dev or test than this is prolific, and goes to train first
IN_DEV_OR_TEST = "sentence is in dev or test"
COLUMNS = ("number", "source", "corpus", "id", "recording", "start", "seconds", "text", "sentence", "person", "speaker",
           "split", "gender", "age", "accent", "domain", "reason")  # fmt: skip
SCHEMA = f"""
CREATE TABLE utterance ({", ".join(COLUMNS).replace("number,", "number INTEGER PRIMARY KEY,", 1)});
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT);
"""
INDICES = """
CREATE INDEX by_id ON utterance (id, number);
CREATE INDEX by_recording ON utterance (source, recording);
CREATE INDEX by_person ON utterance (person);
CREATE INDEX by_sentence ON utterance (sentence);
"""


@dataclass(frozen=True)
class SelectionRules:
    """How texts are changed, and which rows are used."""

    text: TextCleaning = field(default_factory=TextCleaning)
    keep_shared_sentences: bool = False  # whether train keeps sentences of dev and test, where splits are made here
    held_out_from_train: bool = False  # whether dev and test are taken from train where the sources lack them
    seed: int = 0
    drop: tuple[str, ...] = ()  # label rules whose findings are left out of train, once it is decoded
    language: str = ""  # code, by whose rules texts are changed

    def asked(self) -> dict[str, object]:
        """Return the rules without the seed, for a fingerprint."""
        rules = asdict(replace(self, seed=0))
        if not self.held_out_from_train:
            del rules["held_out_from_train"]  # datasets of earlier versions, which had no such rule, stay valid
        if not self.text.lower_case or self.language not in DOTTED:
            del rules["language"]  # it changes nothing
        return rules


def build_plan(path: Path, sources: Sequence[WeightedSource], rules: SelectionRules) -> None:
    """Read every row of the sources and write the plan. `path` exists only when the plan is whole.

    Raises:
        DataError: a source cannot be read, or a split has no usable utterance.
    """
    draft = path.with_name(f"{path.name}.tmp")
    draft.unlink(missing_ok=True)
    database = sqlite3.connect(draft, isolation_level=None)
    database.create_function("rank", 1, lambda name: rank(rules.seed, name), deterministic=True)
    try:
        database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {SCHEMA}")
        database.execute("BEGIN")
        total = _insert(database, sources, rules)
        database.execute("COMMIT")
        database.executescript(INDICES)
        _mark_repeats(database)
        only, lacking = _only_split(database), _lacking_splits(database)
        notes: list[str] = []
        if lacking and rules.held_out_from_train:
            notes, lacking = _take_from_train(database, lacking, rules), []
        for corpus in sorted({weighted.corpus for weighted in sources}):
            notes += _split(database, corpus, rules, f"only {only}" if only else "no splits")
            _hold_out(database, corpus)
        for number, weighted in enumerate(sources):
            _apply_weight(database, number, weighted.weight)
        _require_splits(database, sources, lacking)
        by_chance = bool(notes) or any(weighted.weight < 1 for weighted in sources)
        salt = hashlib.sha256(str(total).encode()).hexdigest()[:16]
        facts = {"salt": salt, "notes": notes, "seed": rules.seed if by_chance else None, "lacking": lacking}
        for name, value in facts.items():
            database.execute("INSERT INTO fact VALUES (?, ?)", (name, json.dumps(value)))
    finally:
        database.close()
    os.replace(draft, path)


def rank(seed: int, name: str) -> str:
    """Return a text to sort by: the order is random, and the same on every machine."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _insert(database: sqlite3.Connection, sources: Sequence[WeightedSource], rules: SelectionRules) -> int:
    """Insert every row. Return a number that depends on all ids and speakers, but not on their order."""
    several = len({weighted.corpus for weighted in sources}) > 1
    total, number = 0, 0
    statement = f"INSERT INTO utterance VALUES ({', '.join('?' * len(COLUMNS))})"
    for index, weighted in enumerate(sources):
        prefix = f"s{weighted.corpus + 1}-" if several else ""
        speakers = weighted.source.speaker_namespace  # once: it may be a digest of all files
        for row in weighted.source.rows():
            values = _values(row, prefix, speakers, rules)
            database.execute(statement, (number, index, weighted.corpus, *values))
            total += int.from_bytes(hashlib.sha256(f"{values[0]}|{values[6]}".encode()).digest())
            number += 1
    return total


def _values(row: Utterance | BadRow, prefix: str, speaker_namespace: str, rules: SelectionRules) -> tuple[Any, ...]:
    if isinstance(row, Utterance) and not _is_unicode(row):
        row = BadRow(row.id.encode(errors="replace").decode(), "a name or text is not UTF-8", row.split)
    if isinstance(row, BadRow):
        name = row.id.encode(errors="replace").decode()
        return (f"{prefix}{name}", None, 0.0, None, "", None, None, "", row.split, "", "", "", "", row.reason)
    words = rules.text.apply(row.text, rules.language)
    person = f"{speaker_namespace}:{row.speaker}" if row.speaker else f"{speaker_namespace}:clip:{row.recording}"
    reason = None if words else "text is empty"
    return (
        f"{prefix}{row.id}", row.recording, row.start, row.seconds, words, sentence_key(words), person, row.speaker,
        row.split, row.gender, row.age, row.accent, row.domain, reason,
    )  # fmt: skip


def _is_unicode(row: Utterance) -> bool:
    try:
        for value in (row.id, row.recording, row.text, row.speaker, row.gender, row.age, row.accent, row.domain):
            value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mark_repeats(database: sqlite3.Connection) -> None:
    database.execute(
        "UPDATE utterance SET reason = 'utterance is listed before' WHERE reason IS NULL AND number > "
        "(SELECT MIN(number) FROM utterance AS before WHERE before.id = utterance.id AND before.reason IS NULL)"
    )


def _only_split(database: sqlite3.Connection) -> str | None:
    """Take the split from the rows of sources that have one split alone, and return it: `prepare` makes all three."""
    named = {split for (split,) in database.execute("SELECT DISTINCT split FROM utterance")} - {SPLIT_HERE}
    if len(named) != 1 or not named <= set(SPLITS) or _without_split(database):
        return None
    database.execute(f"UPDATE utterance SET split = '{SPLIT_HERE}'")
    return str(named.pop())


def _without_split(database: sqlite3.Connection) -> bool:
    query = f"SELECT 1 FROM utterance WHERE split = '{SPLIT_HERE}' AND recording IS NOT NULL LIMIT 1"
    return database.execute(query).fetchone() is not None


def _lacking_splits(database: sqlite3.Connection) -> list[str]:
    """Return which of dev and test the sources do not have, where they bring their own splits."""
    named = {split for (split,) in database.execute("SELECT DISTINCT split FROM utterance")}
    ready = "train" in named and not _without_split(database)
    return [split for split in ("dev", "test") if ready and split not in named]


def _take_from_train(database: sqlite3.Connection, lacking: Sequence[str], rules: SelectionRules) -> list[str]:
    """Take splits that the sources lack from train, by speaker. Return notes for the user."""
    how = _hold_out_units(database, "split = 'train' AND reason IS NULL", lacking, "", rules)
    what = "them" if len(lacking) > 1 else "it"
    return [f"the source has no {' and no '.join(lacking)}: prepare took {what} from train {how}"]


def _split(database: sqlite3.Connection, corpus: int, rules: SelectionRules, found: str) -> list[str]:
    """Give rows without a split one, by speaker. Return notes for the user."""
    ours = f"corpus = {corpus} AND split = '{SPLIT_HERE}' AND reason IS NULL"
    how = _hold_out_units(database, ours, ("test", "dev"), f"corpus = {corpus} AND", rules)
    database.execute(f"UPDATE utterance SET split = 'train' WHERE {ours}")
    what = "them" if found == "no splits" else "all three"
    return [f"the source has {found}: prepare made {what} {how}"] if how else []


def _hold_out_units(
    database: sqlite3.Connection, ours: str, held: Sequence[str], corpus: str, rules: SelectionRules
) -> str:
    """Give some of our rows the splits `held`, and leave their sentences out of the others. Return how it was done.

    Args:
        ours: SQL condition of the rows to choose from.
        corpus: SQL condition, with AND, of the rows whose sentences ours may not share.
    """
    total, speakers, unknown = database.execute(
        f"SELECT COUNT(*), COUNT(DISTINCT CASE WHEN speaker <> '' THEN person END), TOTAL(speaker = '') "
        f"FROM utterance WHERE {ours}"
    ).fetchone()
    if not total:
        return ""
    how, unit = "by speaker", "person"
    if unknown:
        how = f"by speaker, and {int(unknown)} utterances without a speaker by recording"
    elif speakers < 3:
        how, unit = "by utterance, since there are fewer than three speakers", "id"
    for split, units in zip(held, _held_out_units(database, ours, unit, total, len(held)), strict=True):
        database.executemany(
            f"UPDATE utterance SET split = '{split}' WHERE {ours} AND {unit} = ?", ((name,) for name in units)
        )
    if not rules.keep_shared_sentences:
        database.execute(
            f"UPDATE utterance SET reason = '{IN_DEV_OR_TEST}', split = 'train' WHERE {ours} AND sentence IN "
            f"(SELECT sentence FROM utterance WHERE {corpus} split IN ('dev', 'test') AND reason IS NULL)"
        )
    return how


def _held_out_units(database: sqlite3.Connection, ours: str, unit: str, total: int, splits: int) -> list[list[str]]:
    """Choose the speakers of test and dev at random; prolific ones are chosen only where the others are too few.

    Each speaker goes to the smaller of the splits, until all are large enough. The last speaker stays in train.
    """
    wanted = max(1, min(HELD_OUT_MOST, round(HELD_OUT_SHARE * total)))
    most = max(1, round(PROLIFIC_SHARE * wanted))
    order = database.execute(
        f"SELECT {unit}, COUNT(*) AS size, COUNT(*) > {most} AS prolific FROM utterance WHERE {ours} GROUP BY {unit} "
        f"ORDER BY prolific, CASE WHEN COUNT(*) > {most} THEN COUNT(*) END, "
        "rank(MIN(CASE WHEN speaker <> '' THEN speaker ELSE id END))"
    )
    chosen: list[list[str]] = [[] for _ in range(splits)]
    sizes = [0] * splits
    waiting: tuple[str, int, int] | None = None
    for name, size, prolific in order:
        if waiting is not None:
            place = sizes.index(min(sizes))
            if sizes[place] >= (wanted / 2 if waiting[2] else wanted):
                break
            chosen[place].append(waiting[0])
            sizes[place] += waiting[1]
        waiting = name, size, prolific
    return chosen


def _hold_out(database: sqlite3.Connection, corpus: int) -> None:
    """Put the rows of deltas into train, unless their speaker or sentence is in dev or test."""
    held = f"FROM utterance WHERE corpus = {corpus} AND split IN ('dev', 'test') AND reason IS NULL"
    for column, reason in (("person", "speaker is in dev or test"), ("sentence", IN_DEV_OR_TEST)):
        database.execute(
            f"UPDATE utterance SET reason = '{reason}' WHERE corpus = {corpus} AND split = '{ADDED}' "
            f"AND reason IS NULL AND {column} IN (SELECT {column} {held})"
        )
    database.execute(f"UPDATE utterance SET split = 'train' WHERE corpus = {corpus} AND split = '{ADDED}'")


def _apply_weight(database: sqlite3.Connection, source: int, weight: float) -> None:
    if weight == 1.0:
        return
    train = f"source = {source} AND split = 'train' AND reason IS NULL"
    (total,) = database.execute(f"SELECT COUNT(*) FROM utterance WHERE {train}").fetchone()
    database.execute(
        f"UPDATE utterance SET reason = 'not in the share asked for' WHERE number IN (SELECT number FROM utterance "
        f"WHERE {train} ORDER BY rank(id) LIMIT -1 OFFSET ?)",
        (max(1, round(weight * total)),),
    )


def _require_splits(database: sqlite3.Connection, sources: Sequence[WeightedSource], lacking: Sequence[str]) -> None:
    for split in (split for split in SPLITS if split not in lacking):
        query = "SELECT reason, COUNT(*) FROM utterance WHERE split IN (?, '') GROUP BY reason ORDER BY COUNT(*) DESC"
        reasons = dict(database.execute(query, (split,)).fetchall())
        if None not in reasons:
            listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "no rows"
            names = ", ".join(weighted.source.name for weighted in sources)
            raise DataError(
                f"no utterance for {split} in {names} can be used ({listed}): name a source that has {split}, or one "
                "of three utterances or more without splits, for which prepare makes them"
            )
