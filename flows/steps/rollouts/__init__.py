"""Steps of a rollout: whether a canary may answer more, and who was champion when."""
