"""Folders of measurements: the report of one system, a comparison of reports, an analysis of weights."""

from collections.abc import Iterable
from pathlib import Path

from asr_lora.folders.manifests import Folder
from asr_lora.folders.measurements import AnalysisRecord, ComparisonRecord, ReportRecord
from asr_lora.folders.tabular import Column, Tabular, difference_columns, scored_columns


class ReportFolder(Folder[ReportRecord], Tabular):
    """Scores and hypotheses of one system on one split of a dataset."""

    kind = "report"
    record = ReportRecord
    manifest_name = "report.json"
    remedy = "Make it with: asr-lora evaluate MODEL DATASET --out FOLDER"
    columns = (
        Column("system", "System", source="system.name"),
        Column("split", "Split", source="dataset.split"),
        Column("utterances", "Utterances", ",", "dataset.utterances"),
        *scored_columns("wer", "scores."),
        *scored_columns("cer", "scores."),
        Column("raw_wer", "WER as written", ".1%", "scores.raw_wer"),
        Column("raw_cer", "CER as written", ".1%", "scores.raw_cer"),
        Column("mer", "MER", ".1%", "scores.mer"),
        Column("wil", "WIL", ".1%", "scores.wil"),
        Column("rtfx", "RTFx", ".1f"),
    )

    def entries(self) -> Iterable[object]:
        return [self.read_json()]

    def caption(self) -> str:
        (row,) = self.rows()
        return f"WER {row['wer']:.1%}, CER {row['cer']:.1%} on {row['utterances']} utterances of {row['split']}"

    @property
    def hypotheses(self) -> Path:
        return self.root / "hypotheses.jsonl"

    def whole(self, _: ReportRecord) -> bool:
        return self.hypotheses.is_file()

    def partial(self, rank: int) -> Path:
        """Hypotheses of one process so far, from which an interrupted evaluation continues."""
        return self.root / f"hypotheses.partial-{rank}.jsonl"

    @property
    def partials(self) -> list[Path]:
        return sorted(self.root.glob("hypotheses.partial-*.jsonl"))

    def remove_partials(self) -> None:
        for path in self.partials:
            path.unlink()


class ComparisonFolder(Folder[ComparisonRecord], Tabular):
    """Scores of several systems on the same utterances, each compared with the first."""

    kind = "comparison"
    record = ComparisonRecord
    manifest_name = "comparison.json"
    remedy = "Make it with: asr-lora compare REPORT REPORT --out FOLDER"
    columns = (
        Column("system", "System", source="system.system.name"),
        *scored_columns("wer", "system.scores."),
        *scored_columns("cer", "system.scores."),
        *difference_columns("difference"),
        Column("verdict", "Verdict", source="pair.verdict"),
        Column("p", "MAPSSWE p", ".3f", "pair.mapsswe.p"),
        Column("trainable_parameters", "Trainable parameters", ",", "system.system.training.trainable_parameters"),
        Column("weights_bytes", "Checkpoint, bytes", ",", "system.system.training.weights_bytes"),
        Column("seconds", "Training, s", ",.0f", "system.system.training.seconds"),
        Column("peak_memory_bytes", "Peak memory, bytes", ",", "system.system.training.peak_memory_bytes"),
        Column("rtfx", "RTFx", ".1f", "system.rtfx"),
    )

    def entries(self) -> Iterable[object]:
        """Return each system with its comparison with the first; the difference is of the leading rate."""
        body = self.read_json()
        first = body["systems"][0]["system"]["name"]
        pairs = {pair["b"]: pair for pair in body["pairs"] if pair["a"] == first}
        for system in body["systems"]:
            pair = pairs.get(system["system"]["name"])
            yield {"system": system, "pair": pair, "difference": pair[body["lead"]] if pair else None}

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def csv(self) -> Path:
        return self.root / "table.csv"

    @property
    def rendered(self) -> tuple[Path, ...]:
        """The files that show the comparison to people."""
        return self.page, self.markdown, self.csv


class AnalysisFolder(Folder[AnalysisRecord], Tabular):
    """What training changed in the weights of some runs."""

    kind = "analysis"
    record = AnalysisRecord
    manifest_name = "analysis.json"
    remedy = "Make it with: asr-lora analyze RUN --out FOLDER"
    columns = (
        Column("run", "Run"),
        Column("matrix", "", source="facts.matrix"),
        Column("half", "Half", source="facts.half"),
        Column("layer", "Layer", source="facts.layer"),
        Column("projection", "Projection", source="facts.projection"),
        Column("rank", "Rank", source="facts.rank"),
        Column("frobenius", "Norm of the update", ".3g", "facts.frobenius"),
        Column("relative", "Norm, relative", ".2%", "facts.relative"),
        Column("effective_rank", "Effective rank", ".1f", "facts.effective_rank"),
        Column("stable_rank", "Stable rank", ".1f", "facts.stable_rank"),
    )

    def entries(self) -> Iterable[object]:
        return [{"run": run["name"], "facts": facts} for run in self.read_json()["runs"] for facts in run["matrices"]]

    def caption(self) -> str:
        body = self.read_json()
        count = sum(len(run["matrices"]) for run in body["runs"])
        return f"{count} matrices that training changed in {len(body['runs'])} runs of {body['base']}"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def matrices(self) -> Path:
        return self.root / "matrices.csv"

    def whole(self, _: AnalysisRecord) -> bool:
        return all(path.is_file() for path in (self.page, self.markdown, self.matrices))
