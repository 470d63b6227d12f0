"""Folders of what was measured: a report, a comparison of reports, an analysis of weights."""

from pathlib import Path
from typing import Any

from asr_lora.folders.manifests import Folder


class ReportFolder(Folder[dict[str, Any]]):
    kind = "report"
    manifest_name = "report.json"
    remedy = "Make it with: asr-lora evaluate MODEL DATASET --out FOLDER"

    @property
    def hypotheses(self) -> Path:
        return self.root / "hypotheses.jsonl"

    def whole(self, _: dict[str, Any]) -> bool:
        return self.hypotheses.is_file()

    def partial(self, rank: int) -> Path:
        """What a process has transcribed so far, so that an interrupted evaluation goes on where it stopped."""
        return self.root / f"hypotheses.partial-{rank}.jsonl"

    @property
    def partials(self) -> list[Path]:
        return sorted(self.root.glob("hypotheses.partial-*.jsonl"))


class ComparisonFolder(Folder[dict[str, Any]]):
    kind = "comparison"
    manifest_name = "comparison.json"
    remedy = "Make it with: asr-lora compare REPORT REPORT --out FOLDER"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def csv(self) -> Path:
        return self.root / "table.csv"


class AnalysisFolder(Folder[dict[str, Any]]):
    """What training changed in the weights of some runs."""

    kind = "analysis"
    manifest_name = "analysis.json"
    remedy = "Make it with: asr-lora analyze RUN --out FOLDER"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def matrices(self) -> Path:
        return self.root / "matrices.csv"

    def whole(self, _: dict[str, Any]) -> bool:
        return all(path.is_file() for path in (self.page, self.markdown, self.matrices))
