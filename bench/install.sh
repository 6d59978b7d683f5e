#!/bin/bash
# Have the migration tools that the benchmark compares with in bench/.peers, each at its newest version from its own
# registry. What is there stays; what cannot be had is a line in bench/.peers/missing.tsv and stops nothing.
# With names only these; tests/setup/movers.sh reads this file, for its functions.
set -euo pipefail
asked=" $* "
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
peers=$here/.peers
missing=$peers/missing.tsv

# have NAME PROGRAM COMMAND...: unless NAME has its PROGRAM or is not asked for, run the command, which puts it into
# $bin.
have() {
    local name=$1 program=$2 reason
    shift 2
    if [[ $asked != "  " && $asked != *" $name "* ]]; then
        return
    fi
    bin=$peers/$name/bin
    forget "$name"
    if [[ -x $bin/$program ]]; then
        return
    fi
    echo "Installing $name" >&2
    mkdir -p "$bin"
    if ! "$@" > "$work/log" 2>&1 || [[ ! -x $bin/$program ]]; then
        rm -rf "${peers:?}/$name"
        reason=$(grep . "$work/log" | tail -n 1 | tr '\t' ' ') || reason="$program was not made"
        printf '%s\t%s\n' "$name" "$reason" >> "$missing"
        echo "$name is missing: $reason" >&2
    fi
}

forget() {
    awk -F '\t' -v name="$1" '$1 != name' "$missing" > "$work/missing"
    cat "$work/missing" > "$missing"
}

# The same settings as the makers' own releases.
go_install() {
    local module=$1 package=$2 tags=${3:-} version
    version=$(go list -m -f '{{.Version}}' "$module@latest") &&
        CGO_ENABLED=0 GOBIN=$bin nice -n 10 go install -trimpath -tags "$tags" \
            -ldflags "-s -w -X main.version=$version -X main.Version=$version" "$package@$version"
}

npm_install() {
    npm install --prefix "$(dirname "$bin")" --no-audit --no-fund --loglevel=error "$@"
}

npm_program() {
    local package program=$2
    package=$1-$(node -p process.arch) &&
        npm_install --ignore-scripts "$package" &&
        install "$(dirname "$bin")/node_modules/$package/bin/$program" "$bin/$program" &&
        rm -r "$(dirname "$bin")"/{node_modules,package*.json}
}

npm_scripts() {
    npm_install "$@" && rmdir "$bin" && ln -s node_modules/.bin "$bin"
}

pip_install() {
    python3 -m venv "$(dirname "$bin")" && "$bin/pip" install --quiet --disable-pip-version-check "$@"
}

cargo_install() {
    nice -n 10 cargo install --quiet --locked --no-track --root "$(dirname "$bin")" --no-default-features \
        --features "$2" "$1"
}

# The real psql: the one in Debian's PATH is a Perl script that looks for it, at some cost each time.
link_psql() {
    local psql
    psql=$(newest_psql) || { debian postgresql-client && psql=$(newest_psql); } || psql=$(command -v psql) || return
    ln -sf "$psql" "$bin/psql"
}

newest_psql() {
    printf '%s\n' /usr/lib/postgresql/*/bin/psql | sort --version-sort | tail -n 1 | xargs ls
}

psql_per_file() {
    link_psql &&
        cat > "$bin/psql-per-file" << 'END' &&
#!/bin/sh
# Apply every .sql file of a folder, each by a psql of its own.
set -eu
for file in "$1"/*.sql; do
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction --file="$file"
done
END
        chmod +x "$bin/psql-per-file"
}

link_sqitch() {
    { command -v sqitch && perl -MDBD::Pg -e 1; } || debian libdbd-pg-perl sqitch || return
    link_psql && ln -sf "$(command -v sqitch)" "$bin/sqitch"
}

# The newest version of each whose jars can all be had; of all databases' drivers only ours.
java_program() {
    local name=$1 class=$2 artifact
    shift 2
    debian_java &&
        {
            echo '<project><modelVersion>4.0.0</modelVersion><groupId>bench</groupId><artifactId>bench</artifactId>'
            echo '<version>1</version><dependencies>'
            for artifact in "$@"; do
                artifact_of "$artifact"
            done
            echo '</dependencies></project>'
        } > pom.xml &&
        mvn --quiet --batch-mode dependency:copy-dependencies -DoutputDirectory="$(dirname "$bin")/lib" &&
        cat > "$bin/$name" << END &&
#!/bin/sh
exec java -cp "\$(dirname "\$(realpath "\$0")")/../lib/*" $class "\$@"
END
        chmod +x "$bin/$name"
}

# artifact_of GROUP:NAME:VERSION[:alone]
artifact_of() {
    local group name version alone
    IFS=: read -r group name version alone <<< "$1"
    echo "<dependency><groupId>$group</groupId><artifactId>$name</artifactId><version>$version</version>"
    if [[ $alone ]]; then
        echo '<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>'
    fi
    echo '</dependency>'
}

debian_java() {
    { command -v javac && command -v mvn; } || debian default-jdk-headless maven
}

debian() {
    "$here/../tests/setup/apt-install.sh" "$@"
}

mkdir -p "$peers"
touch "$missing"
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
cd "$work"
have psql-one-session psql link_psql
have psql-per-file psql-per-file psql_per_file
have sqitch sqitch link_sqitch
have dbmate dbmate npm_program @dbmate/linux dbmate
have tern tern go_install github.com/jackc/tern/v2 github.com/jackc/tern/v2
have golang-migrate migrate go_install github.com/golang-migrate/migrate/v4 \
    github.com/golang-migrate/migrate/v4/cmd/migrate postgres
have goose goose go_install github.com/pressly/goose/v3 github.com/pressly/goose/v3/cmd/goose
have refinery refinery cargo_install refinery_cli postgresql
have sqlx sqlx cargo_install sqlx-cli postgres,rustls
have alembic alembic pip_install alembic 'psycopg[binary]'
have yoyo yoyo pip_install yoyo-migrations 'psycopg[binary]' setuptools
have pogo-migrate pogo pip_install pogo-migrate
have node-pg-migrate node-pg-migrate npm_scripts node-pg-migrate pg
have graphile-migrate graphile-migrate npm_scripts graphile-migrate
have flyway flyway java_program flyway org.flywaydb.commandline.Main org.flywaydb:flyway-commandline:12.4.0:alone \
    org.flywaydb:flyway-database-postgresql:12.4.0 tools.jackson.dataformat:jackson-dataformat-toml:3.1.1 \
    org.postgresql:postgresql:42.7.7
have liquibase liquibase java_program liquibase liquibase.integration.commandline.LiquibaseCommandLine \
    org.liquibase:liquibase-core:4.33.0 info.picocli:picocli:4.7.7 org.postgresql:postgresql:42.7.7
# Atlas, only for many tenants (bench/targets.py), is in no registry of packages, and its module replaces another one,
# which `go install` refuses: it is measured where somebody has built it into .peers/atlas/bin.
# Only where they are asked for: the linters that bench/linters.py compares with. Two of them need a libclang to build.
if [[ $asked != "  " ]]; then
    have squawk squawk pip_install squawk-cli
    have eugene eugene cargo_install eugene ''
    have pgfence pgfence npm_scripts @flvmnt/pgfence
    have pgsafe pgsafe cargo_install pgsafe cli
    have safemigrate safemigrate-lint pip_install safemigrate-lint
fi
