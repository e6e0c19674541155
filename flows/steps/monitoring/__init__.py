"""Windows of answers beside the reference: sketches, measures, verdicts, kinds, and what they lead to."""
