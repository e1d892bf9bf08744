"""Mammograms on disk (or generated) as records, and what training sees of them. Floor 0: knows nothing of methods."""
