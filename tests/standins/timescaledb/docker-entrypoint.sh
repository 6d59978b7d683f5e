#!/bin/bash
# The public image's entrypoint as its documentation tells it: the same variables, the same order of events.
set -euo pipefail
shopt -s nullglob

if [[ ${1:-} == -* ]]; then
    set -- postgres "$@"
fi
if [[ ${1:-} != postgres ]]; then
    exec "$@"
fi

if [[ $(id -u) == 0 ]]; then
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    chown -R postgres "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    for name in POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB POSTGRES_INITDB_ARGS; do
        file=${name}_FILE
        [[ -z ${!file:-} ]] || declare "$name=$(< "${!file}")"
    done
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    export PGUSER=$POSTGRES_USER
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z ${POSTGRES_PASSWORD:-} && $method != trust ]]; then
        echo 'Error: Database is uninitialized and superuser password is not specified.' >&2
        exit 1
    fi

    # shellcheck disable=SC2086  # the arguments are words
    initdb --username="$POSTGRES_USER" --pwfile=<(echo "${POSTGRES_PASSWORD:-}") ${POSTGRES_INITDB_ARGS:-}
    echo "host all all all $method" >> "$PGDATA/pg_hba.conf"

    # Nobody gets in from outside before it is all there.
    pg_ctl --wait --options="-c listen_addresses=''" start
    if [[ $POSTGRES_DB != postgres ]]; then
        createdb "$POSTGRES_DB"
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        echo "$0: running $file"
        case $file in
            *.sh) "$file" ;;
            *.sql) psql --quiet --set=ON_ERROR_STOP=1 --dbname="$POSTGRES_DB" --file="$file" ;;
        esac
    done
    pg_ctl --wait --mode=fast stop
    echo 'PostgreSQL init process complete; ready for start up.'
fi

exec "$@"
