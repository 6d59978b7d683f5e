#!/bin/sh
# Install Debian packages, if MAY_INSTALL says so and this is root on Debian or Ubuntu.
set -eu
if [ -z "${MAY_INSTALL:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "not installed: $*" >&2
    exit 1
fi
echo "Installing $*" >&2
{
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "$@"
} > /dev/null
