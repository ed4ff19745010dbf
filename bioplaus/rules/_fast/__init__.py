"""Fast forms of rules: `_fast/<rule>.py` holds a subclass `Rule` of the plain rule of that name.

It keeps the plain rule's state and meaning and only computes faster; `rules.make` prefers it. Its
docstring says which idea gains what. The contract test (tests/rules/test_fast_forms.py) holds it to
the plain rule in float64.
"""
