"""The modalities that come with medmm; each is found by its entry point."""
