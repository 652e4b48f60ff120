"""The HTML reports of the demo and of the study, each one self-contained file."""
