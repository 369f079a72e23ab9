"""medmm: multimodal medical diagnosis, from DICOM, records and biomarkers to explained scores."""
