"""The stateful defences, one per file, with their packaged constructors."""
