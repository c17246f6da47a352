"""Every defence, one a file."""
