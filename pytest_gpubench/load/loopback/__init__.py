"""A server with known times: the truth that the client is calibrated against."""
