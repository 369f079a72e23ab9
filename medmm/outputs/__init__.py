"""A score written down: the same numbers in every encoding."""
