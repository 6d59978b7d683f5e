CREATE TABLE readings (
    measured_at timestamptz NOT NULL,
    sensor text NOT NULL,
    celsius double precision NOT NULL
);

SELECT create_hypertable('readings', by_range('measured_at'));
