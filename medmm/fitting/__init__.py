"""Fitting: the loop, what is fitted on one split, the folds, the baselines beside them."""
