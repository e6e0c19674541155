"""Alerts on their way: channels that a user configured, and what each of them was told."""
