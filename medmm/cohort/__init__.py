"""Who is in a cohort, and what was known of each person at the prediction time."""
