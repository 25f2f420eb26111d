"""Generators of the built-in data sets: labelled personal data, clean prose, WaltzRL's world.

Everything is drawn from a seed and split by its value, so that no value of the training texts is
in the test texts. Start in pii.py (documents) and waltz_world.py (the invented text world);
texts/ has the templates, one file a language.
"""
