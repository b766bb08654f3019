"""The Parquet store: flushes of minutes, sorted into a file per hour."""
