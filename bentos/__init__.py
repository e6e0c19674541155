"""BentoML services: how a model answers. Nothing below here imports prefect, mlflow or whylogs."""
