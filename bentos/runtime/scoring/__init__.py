"""From a batch's rows to decisions: the release record, its model, the inputs and what comes out."""
