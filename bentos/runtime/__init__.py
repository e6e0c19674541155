"""What the services and batch scoring share: manifest, scorer, online reads, journal, rollout."""
