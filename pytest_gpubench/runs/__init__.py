"""What a run does with its cases, whoever asks: servers, measurements, records, verdicts."""
