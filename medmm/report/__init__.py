"""Pages for people: one patient, one cohort, one training run. This room draws; it computes nothing.

Each page is a frozen dataclass of plain values, filled by a story, and one function that renders it to a
self-contained HTML file: inline SVG and PNG, no script, nothing fetched from anywhere.
"""
