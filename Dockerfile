FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils ca-certificates python3 python3-pip

COPY requirements.txt /
RUN pip install --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes --root-user-action ignore \
        --target /rootfs/app --requirement /requirements.txt

# Python without what a client in a container never opens: development, GUIs, servers, other platforms.
RUN set -eu; \
    mkdir -p /rootfs/usr/bin /rootfs/usr/lib; \
    cp /usr/bin/python3.13 /rootfs/usr/bin/; \
    cp -R /usr/lib/python3.13 /rootfs/usr/lib/; \
    cd /rootfs/usr/lib/python3.13; \
    rm -rf EXTERNALLY-MANAGED LICENSE.txt __phello__ _pyrepl bdb.py cProfile.py cmd.py config-3.13-* ctypes curses dbm \
        doctest.py ensurepip ftplib.py html http/server.py idlelib imaplib.py mailbox.py modulefinder.py \
        multiprocessing optparse.py pdb.py pickletools.py plistlib.py poplib.py profile.py pstats.py pydoc* \
        sitecustomize.py smtplib.py sqlite3 test tkinter trace.py turtle* unittest venv webbrowser.py wsgiref xml \
        xmlrpc; \
    cd lib-dynload; \
    rm -f _bz2.* _codecs_* _ctypes* _curses* _dbm.* _interp* _lsprof.* _lzma.* _multibytecodec.* _multiprocessing.* \
        _posixshmem.* _sqlite3.* _test* _xx* readline.* xx*; \
    cd /rootfs/app; \
    rm -rf asyncpg/_testbase; \
    find asyncpg \( -name '*.py[xi]' -o -name '*.pxd' -o -name '*.[ch]' \) -delete; \
    find asyncpg -name '*.so' -exec strip --strip-unneeded {} +

# The shared libraries that all this is linked with, and libgcc_s, which glibc opens by name when a thread is cancelled.
RUN set -eu; \
    cp -P /bin /lib* /rootfs/; \
    find /rootfs -name '*.so' -exec ldd /rootfs/usr/bin/python3.13 {} + \
        | sed -n 's,^\t\(.* => \)\?/lib\(.*\) (0x.*,/usr/lib\2,p' | sort -u \
        | xargs cp -L --parents -t /rootfs /usr/lib/*-linux-gnu/libgcc_s.so.1

# What scanners and lawyers look for: the Debian packages that these files come from, and their licences.
RUN set -eu; \
    cd /rootfs; \
    mkdir -p etc var/lib/dpkg/status.d; \
    cp -P /etc/debian_version /etc/os-release etc/; \
    cp /usr/lib/os-release usr/lib/; \
    { echo ca-certificates; \
      find usr -type f ! -name '*.pyc' -printf '/%p\n' | xargs dpkg -S | cut -d: -f1 | sort -u; \
    } | while read -r package; do \
            dpkg-query --status "$package" > "var/lib/dpkg/status.d/$package"; \
            cp -L --parents "/usr/share/doc/$package/copyright" .; \
        done

# The authorities are those of Debian's package: /etc/ssl/certs may also trust what only the building machine should.
# TLS begins with the curve that Postgres up to 17 takes: with another guess each connection costs a round trip more.
RUN set -eu; \
    cd /rootfs; \
    mkdir -p etc/ssl/certs migrations usr/lib/ssl; \
    mkdir -m 1777 tmp; \
    cat /usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt; \
    cp -P /usr/lib/ssl/cert.pem /usr/lib/ssl/certs usr/lib/ssl/; \
    printf '%s\n' 'openssl_conf = all' '[all]' 'ssl_conf = ssl' '[ssl]' 'system_default = tls' '[tls]' \
        'Groups = P-256:X25519:P-384:P-521:X25519MLKEM768' > usr/lib/ssl/openssl.cnf; \
    printf '%s\n' root:x:0:0:root:/: nonroot:x:65532:65532:nonroot:/: > etc/passwd; \
    printf '%s\n' root:x:0: nonroot:x:65532: > etc/group; \
    echo 'hosts: files dns' > etc/nsswitch.conf; \
    python3 -m compileall -q -b --invalidation-mode unchecked-hash -s /rootfs -p / /rootfs/usr/lib/python3.13 /rootfs/app; \
    find . \( -name '*.py' -o -path '*/__pycache__*' \) -delete

# Only our own code keeps its source: the traceback of a bug shows the line. A checkout's files may be closed to others.
# Rehearsals need a server of their own, which is not here.
COPY LICENSE /rootfs/usr/share/doc/pgslipway/copyright
COPY entrypoint/ /rootfs/app/
RUN set -eu; \
    cd /rootfs; \
    rm -r app/pgslipway/cli/rehearsal; \
    chmod -R a+rX,go-w app/pgslipway usr/share/doc/pgslipway; \
    python3 -m compileall -q --invalidation-mode unchecked-hash -s /rootfs -p / /rootfs/app/pgslipway; \
    printf '%s\n' '#!/usr/bin/python3.13 -IS' 'import sys' 'sys.path.append("/app")' \
        'from pgslipway.__main__ import main' 'main()' > usr/bin/pgslipway; \
    chmod +x usr/bin/pgslipway; \
    find . -exec touch -h -d @0 {} +

# Nothing is missing: every extension module loads, and so does every module of ours.
RUN set -eu; \
    cd /rootfs; \
    { echo 'import sys; sys.path.append("/app"); import asyncpg, tenacity'; \
      find usr/lib/python3.13/lib-dynload -name '*.so' -printf '%f\n' | sed 's/\..*//; s/^/import /'; \
      find app/pgslipway -name '*.py' -printf '%P\n' \
        | sed 's/\.py$//; s,/,.,g; s/^/import pgslipway./; s/\.__init__$//'; \
    } | chroot . /usr/bin/python3.13 -IS -; \
    chroot . /usr/bin/pgslipway --version

# What `FROM pgslipway:1` means: `docker build --target base -t pgslipway:1 .`
FROM scratch AS base
COPY --from=build /rootfs/ /
ENV PATH=/usr/bin
USER 65532:65532
ENTRYPOINT ["pgslipway"]
ARG VERSION=dev
LABEL org.opencontainers.image.title=pgslipway \
      org.opencontainers.image.description="Your Postgres schema, up to date before your app starts." \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=$VERSION

# This repository as your own: `docker build -t my-app-migrations .` bakes its migrations/ in. A bad file fails the build.
FROM base
COPY migrations/ /migrations/
RUN ["pgslipway", "check"]
