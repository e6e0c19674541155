"""Tables before they are features: contract, privacy, quality, and the rows that a model is asked about."""
