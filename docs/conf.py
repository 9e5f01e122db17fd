"""Sphinx: `make docs` builds build/docs; warnings are errors."""

project = "pacemaker-cloud"
author = "The pacemaker-cloud authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "pacemaker-cloud"
myst_heading_anchors = 4
exclude_patterns = ["conf.py"]
suppress_warnings = ["misc.highlighting_failure"]
