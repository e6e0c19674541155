"""Where a release can go; one small module each: apply, wait until ready, smoke."""
