"""The object store that an operator configures: buckets by S3, containers by Swift."""
