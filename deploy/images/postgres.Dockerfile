# PostgreSQL of Debian's packages, for where no registry can be reached; elsewhere take the official image. BASE has them: see deploy/images/base.
ARG BASE
FROM ${BASE}
COPY postgres-entrypoint /usr/local/bin/
RUN install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
USER postgres
VOLUME /var/lib/postgresql/data
EXPOSE 5432
HEALTHCHECK --interval=5s --timeout=5s --retries=10 CMD ["/bin/sh", "-c", "pg_isready -q -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\""]
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/postgres-entrypoint"]
