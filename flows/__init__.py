"""Prefect flows: how models come to be."""
