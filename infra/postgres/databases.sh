#!/bin/sh
# Runs once, when the volume is empty: creates a database and its owner for each service, all with one password.
set -eu
for name in prefect mlflow ledger; do
    psql --set=ON_ERROR_STOP=1 --set=name="$name" --set=password="$POSTGRES_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
