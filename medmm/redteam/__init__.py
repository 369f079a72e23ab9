"""Trying to predict the outcome from what should not know it: leaks, shortcuts, copies.

Nothing here knows a cohort. docs/red-team.md states each rule, its level and its source.
"""
