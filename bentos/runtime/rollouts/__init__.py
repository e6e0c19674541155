"""Who answers: the rollout file, how it splits entities over arms, and the shadows beside them."""
