"""The results of a run: its directory with a manifest, its training history, its report.

Start in run_directory.py: a result counts once `manifest.json` lists it. history.py is what a
training recorded of itself; page.py renders a report page from page.html, figures.py its plots,
report.py the page of the SAE and PII pipeline. Needs neither Ray nor PyTorch.
"""
