"""Backtesting: history replayed under retraining policies, each of which sees only what was known then."""
