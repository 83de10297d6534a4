"""What the stages read and write: tables, parts, manifests and the run directory, on local disk and on S3."""
