"""The attacks, one per file, and the code that several attacks share."""
