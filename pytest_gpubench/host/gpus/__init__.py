"""GPUs of this host: which there are and what a case lacks (:mod:`inventory`), how they are set and
what they do meanwhile (:mod:`drivers`)."""
