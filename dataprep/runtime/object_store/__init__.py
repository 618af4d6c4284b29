"""What is peculiar to S3-compatible object stores: what their errors mean, and how large objects are read in parts."""
