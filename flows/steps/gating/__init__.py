"""The gates: what is measured on a candidate, and whether it may replace the champion."""
