"""From a cohort's fingerprint to the settings of a recipe, each with its reason.

As nnU-Net does for segmentation: what the images and the counts of patients say fixes the settings by
general rules, so that nobody tunes them per cohort. Nothing here sees how an input relates to the outcome;
of outcomes only the patients are counted.

Source: Isensee et al. 2021, nnU-Net, https://doi.org/10.1038/s41592-020-01008-z.
"""
