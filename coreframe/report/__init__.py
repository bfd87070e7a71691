"""What a run found, to read: ``report.html`` in one self-contained file, and a model card.

    outcome -> report_data -> report.json -> render -> report.html

``report_data`` takes from an outcome all that is shown, as plain values of bounded size, so that a
page can be drawn again, or several runs side by side, from what a run has stored, without vectors.

    data        what a page needs             examples    single queries
    words       sentences and lines of code   projection  the two-dimensional map
    figures     data to SVG                   page        data to HTML
    card        the model card                compare     several runs
"""

from coreframe.report.card import model_card
from coreframe.report.compare import compare_html
from coreframe.report.data import FILE, read_data, report_data
from coreframe.report.examples import EXAMPLES
from coreframe.report.page import render, report_html
from coreframe.report.words import shorten, usage, verdict

__all__ = [
    "EXAMPLES",
    "FILE",
    "compare_html",
    "model_card",
    "read_data",
    "render",
    "report_data",
    "report_html",
    "shorten",
    "usage",
    "verdict",
]
