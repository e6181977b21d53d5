"""The report of a run, as a self-contained HTML file and as JSON."""

from downscale.report.page import Beside, Outcome, facts_path, report_facts, write_report

__all__ = ["Beside", "Outcome", "facts_path", "report_facts", "write_report"]
