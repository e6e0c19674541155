"""Pure functions that the flows call: no prefect, no network, no clock of their own."""
