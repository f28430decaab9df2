#!/bin/sh
# Of what the official image does, the part that is used: templates are filled in from the environment.
set -eu
names=$(env | sed -n "s/^\(${NGINX_ENVSUBST_FILTER:-}[A-Za-z0-9_]*\)=.*/\${\1}/p")
for template in /etc/nginx/templates/*.template; do
    envsubst "$names" <"$template" >"${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}/$(basename "$template" .template)"
done
exec "$@"
