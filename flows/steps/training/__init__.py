"""From rows to a candidate: search, fit, export, metrics, and the folder that a release is made of."""
