"""One script per claim, each printing ratios against a named peer, measured in one run."""
