"""Features as they are served: rows of values with their times, read from Feast's online store."""
