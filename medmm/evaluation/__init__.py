"""How good a model is: discrimination, calibration, decisions, subgroups and the honest comparison."""
