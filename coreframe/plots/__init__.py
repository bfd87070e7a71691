"""Plots as inline SVG: plain functions from numbers to text, without a plotting library.

One chart a file. ``coreframe.plots.shapes`` says what they are drawn of.
"""

from coreframe.plots.histograms import distributions, histograms
from coreframe.plots.intervals import interval_plot, share_bar
from coreframe.plots.lines import Line, line_chart
from coreframe.plots.numbers import MINUS, fixed, median, signed, ticks
from coreframe.plots.rank_grid import rank_grid, rank_table
from coreframe.plots.scatter import scatter
from coreframe.plots.whiskers import whisker_chart

__all__ = [
    "MINUS",
    "Line",
    "distributions",
    "fixed",
    "histograms",
    "interval_plot",
    "line_chart",
    "median",
    "rank_grid",
    "rank_table",
    "scatter",
    "share_bar",
    "signed",
    "ticks",
    "whisker_chart",
]
