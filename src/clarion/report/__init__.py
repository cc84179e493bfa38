"""Runs -> static, offline HTML: one page a run, one page comparing several, and the same for a tracker.

files.py       a run directory, read defensively
cases.py       which samples to show: best, worst, missed
overlays.py    truth and prediction drawn on an image
charts.py      inline SVG
results.py     metrics -> rows of tables
page.py        one run's page          comparison.py   several runs
study.py       one eye's measurements   progression.py  two visits of it
"""

from clarion.report.comparison import write_comparison
from clarion.report.page import write_run_report
from clarion.report.publish import publish_results

__all__ = ["publish_results", "write_comparison", "write_run_report"]
