CREATE VIEW hottest_hour AS
SELECT sensor, time_bucket('1 hour', measured_at) AS hour, max(celsius) AS celsius
FROM readings
GROUP BY sensor, hour;
