"""Where a logit comes from: exact Shapley values of modalities and fields, and gated image maps."""
