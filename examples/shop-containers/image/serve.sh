#!/bin/sh
# serve NAME: a web server on port 8080 with /health. What answers at NEEDED_URL is asked once before it starts: no
# retry, so a wrong order shows.
set -eu
mkdir -p /www
if [ -n "${NEEDED_URL:-}" ]; then
    echo "$1: asking $NEEDED_URL"
    wget -q -O /www/index.html "$NEEDED_URL/"  # with -T a static busybox crashes while it looks up a name
    echo "<p>$1, in front of $NEEDED_URL</p>" >> /www/index.html
else
    echo "<h1>In stock</h1><p>12 apples, 7 pears</p>" > /www/index.html
fi
sleep 0.2
echo ok > /www/health
echo "$1: listening on 8080"
httpd -f -p 8080 -h /www &
# The first process of a container gets no default action for TERM.
trap 'kill $!' TERM INT
wait $! || true
