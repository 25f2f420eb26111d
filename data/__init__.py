"""The data sets of the jobs, and what these share without Ray or PyTorch.

`python -m data.build` (build.py) makes the built-in data sets with builders/; manifest.py and
documents.py are their files. storage/ reads and writes directories and buckets, errors.py is the
error tree, command_line.py what every command shares.
"""
