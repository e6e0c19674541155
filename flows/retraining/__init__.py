"""Whether to train again: what asks for it, what it must wait for, and who decides."""
