#!/bin/sh
# Of what the official image does, the part that is used: the first start makes the cluster.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA" && chmod 700 "$PGDATA"
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    # shellcheck disable=SC2086  # these are several arguments
    initdb -D "$PGDATA" -U postgres --pwfile=/tmp/password ${POSTGRES_INITDB_ARGS:---auth=scram-sha-256}
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
command=$1
shift
exec "$command" -D "$PGDATA" -c listen_addresses='*' "$@"
