"""What can be measured of a clip: `ingest` selects by it, `eval` reports it."""
