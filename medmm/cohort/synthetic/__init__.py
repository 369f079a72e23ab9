"""The embedded synthetic cohort: real files, invented people, a planted truth.

Neither image nor tables suffice alone: the finding in the CT and the fields together decide
"deterioration", the finding in the radiograph and other fields "pneumonia". ``truth.json`` says which,
so that a test can ask whether a model and its explanation found it.
"""

from __future__ import annotations

from medmm.cohort.synthetic.write import synthesize

__all__ = ["synthesize"]
