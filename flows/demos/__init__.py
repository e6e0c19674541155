"""Demos: the whole loop replayed on past months, and days of simulated payments; each ends with a page."""
