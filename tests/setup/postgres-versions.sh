#!/bin/bash
# Have the servers of PostgreSQL 14 to 18 in .venv/postgres/14 and so on, at the versions and hashes of the lock file.
# One that there is no package of for this machine is left out.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
locked=$here/postgres-versions
cd "$here/../.."
export PATH=$PWD/.venv/bin:$PATH

if cmp -s "$locked/package-lock.json" .venv/postgres/package-lock.json; then
    exit
fi
if ! npm --version > /dev/null 2>&1; then
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement "$locked/npm.txt"
fi
rm -rf .venv/postgres
mkdir .venv/postgres
cp "$locked/package.json" .venv/postgres/
# npm looks for its lock file in the working directory only; the name tells another run that all of this is done.
cp "$locked/package-lock.json" .venv/postgres/npm-shrinkwrap.json
cd .venv/postgres
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null
# npm leaves out what does not fit this machine, and says nothing when it leaves out more: cd fails then.
for package in $(grep -o "postgres-[0-9]*-$(node -p process.arch)" package.json); do
    # The packages cannot hold the links of their libraries: this script of theirs makes them.
    (cd "node_modules/$package" && node scripts/hydrate-symlinks.js)
    version=${package#postgres-}
    ln -s "node_modules/$package/native" "${version%-*}"
done
mv npm-shrinkwrap.json package-lock.json
