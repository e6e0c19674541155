"""Tests of the channels and of what is told through them."""
