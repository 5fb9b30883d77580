"""What a run folder shows: rows for the terminal and one self-contained page. Reads files, never imports torch."""

from deleatur.report.heat import Piece, heat_spans
from deleatur.report.page import write_report
from deleatur.report.tables import Row, metric_name, percent, rows_of, set_name, verdict

__all__ = ["Piece", "Row", "heat_spans", "metric_name", "percent", "rows_of", "set_name", "verdict", "write_report"]
