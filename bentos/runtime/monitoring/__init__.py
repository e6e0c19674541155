"""A table beside a release's reference: sketches, measures, chance, verdict, signs of a broken pipe."""
