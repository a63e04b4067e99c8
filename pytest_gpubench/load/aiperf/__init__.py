"""AIPerf in place of our own client: its command line, its process, and what it writes."""
