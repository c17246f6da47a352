"""Every attack, one a file, and what several of them share."""
