"""GPUs of this host: which there are and what a case lacks (:mod:`inventory`), what they do
meanwhile (:mod:`sampling`)."""
