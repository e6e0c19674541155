#!/bin/sh
# A database and a role for each of Prefect and MLflow, made when the cluster is; neither sees the other's.
set -eu
for name in prefect mlflow; do
  case $name in
    prefect) password=$PREFECT_DATABASE_PASSWORD ;;
    mlflow) password=$MLFLOW_DATABASE_PASSWORD ;;
  esac
  printf '%s\n' \
    "CREATE ROLE $name LOGIN PASSWORD '$password';" \
    "CREATE DATABASE $name OWNER $name;" \
    "REVOKE ALL ON DATABASE $name FROM PUBLIC;" |
    psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres --quiet
done
