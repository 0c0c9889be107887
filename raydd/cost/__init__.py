"""What a planned run takes, before it starts: bytes of disk and memory, seconds of a core."""
