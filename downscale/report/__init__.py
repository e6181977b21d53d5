"""The report of a run, as a self-contained HTML file and as JSON."""

from downscale.report.beside import Beside
from downscale.report.facts import facts_path, report_facts
from downscale.report.outcome import Outcome
from downscale.report.page import write_report

__all__ = ["Beside", "Outcome", "facts_path", "report_facts", "write_report"]
