"""What a run folder shows: rows for the terminal, one self-contained page, other tools' formats.

It reads files and never imports torch. Belongs elsewhere: computing a figure (`evaluation`, `auditing`).
"""

from deleatur.report.compare import ComparedMethod, gather
from deleatur.report.compare_page import write_comparison
from deleatur.report.compare_text import compare_table
from deleatur.report.heat import Piece, heat_spans
from deleatur.report.page import write_report
from deleatur.report.tables import Row, metric_name, percent, rows_of, set_name
from deleatur.report.verdict import Verdict, verdict

__all__ = [
    "ComparedMethod",
    "Piece",
    "Row",
    "Verdict",
    "compare_table",
    "gather",
    "heat_spans",
    "metric_name",
    "percent",
    "rows_of",
    "set_name",
    "verdict",
    "write_comparison",
    "write_report",
]
