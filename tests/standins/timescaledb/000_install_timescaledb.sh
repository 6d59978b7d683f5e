#!/bin/bash
# As in the public image, new databases have the extension, and so has the one that was asked for.
for database in template1 postgres "$POSTGRES_DB"; do
    psql --quiet --username="$POSTGRES_USER" --dbname="$database" \
        --command='SET client_min_messages = warning' --command='CREATE EXTENSION IF NOT EXISTS timescaledb'
done
