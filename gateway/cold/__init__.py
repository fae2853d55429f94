"""Old stretches of the log, outside of the database: C2SP tlog-tiles in a folder or in S3."""
