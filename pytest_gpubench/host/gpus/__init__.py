"""GPUs of this host: what is there (:mod:`inventory`), and what a case lacks (:mod:`requirements`)."""
