#!/bin/sh
# Makes clos-shop:latest without any registry: a static busybox of this machine is all that is in it.
set -eu
cd "$(dirname "$0")/image"
busybox=${BUSYBOX:-$(command -v busybox || true)}
if [ -z "$busybox" ]; then
    echo "busybox is missing; on Debian: apt-get install busybox-static" >&2
    exit 1
fi
cp "$busybox" busybox
chmod 755 busybox
docker build --quiet --tag clos-shop:latest .
