"""pgslipway: your Postgres schema, up to date before your app starts."""

__version__ = "1.0.0"
