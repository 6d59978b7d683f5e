#!/bin/bash
# Have the tools of these names in bench/.peers: those that tests/faults/test_moving.py moves in from.
set -euo pipefail
tests=$(dirname "$(dirname "$(realpath "$0")")")
export PATH=$tests/../.venv/bin:$PATH
# shellcheck source=../../bench/install.sh
source "$tests/../bench/install.sh"

# Its migrations are run by a program of the team's own, such as this one.
npm_drizzle() {
    npm_install drizzle-orm@0.45 pg &&
        cat > "$bin/drizzle" << 'END' &&
#!/usr/bin/env node
const { drizzle } = require("drizzle-orm/node-postgres");
const { migrate } = require("drizzle-orm/node-postgres/migrator");
const { Client } = require("pg");

async function main() {
    const client = new Client({ connectionString: process.env.DATABASE_URL });
    await client.connect();
    try {
        await migrate(drizzle(client), { migrationsFolder: process.argv[2] });
    } finally {
        await client.end();
    }
}

main().catch((error) => {
    console.error(error.message, error.cause ? error.cause.message : "");
    process.exitCode = 1;
});
END
        chmod +x "$bin/drizzle"
}

# Its engine as WebAssembly: the native one is in no registry.
npm_prisma() {
    local home
    home=$(dirname "$bin")
    npm_scripts --ignore-scripts prisma@6.19.3 @prisma/adapter-pg@6.19.3 &&
        printf '%s\n' 'datasource db {' 'provider = "postgresql"' 'url = ""' '}' > "$home/schema.prisma" &&
        cat > "$home/prisma.config.mjs" << 'END'
import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";

const NAME = 19, TEXT = 25;

// The engine asks for columns of the type name, which the adapter does not know.
class Client extends pg.Client {
    query(...given) {
        const done = given.pop();
        if (typeof done !== "function") {
            return super.query(...given, done)?.then?.(asText);
        }
        return super.query(...given, (error, result) => done(error, result && asText(result)));
    }
}

function asText(result) {
    for (const field of result.fields ?? []) {
        field.dataTypeID = field.dataTypeID === NAME ? TEXT : field.dataTypeID;
    }
    return result;
}

export default {
    schema: "./schema.prisma",
    migrations: { path: process.env.MIGRATIONS },
    engine: "js",
    experimental: { adapter: true },
    adapter: async () => new PrismaPg(new pg.Pool({ connectionString: process.env.DATABASE_URL, Client })),
};
END
}

have drizzle drizzle npm_drizzle
have prisma prisma npm_prisma
