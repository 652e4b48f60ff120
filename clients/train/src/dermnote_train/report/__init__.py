"""The HTML report of a run: one self-contained file."""

from dermnote_train.report.demo.page import write_report

__all__ = ["write_report"]
