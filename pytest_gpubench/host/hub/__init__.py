"""Weights in the local Hugging Face cache: found (:mod:`local`), or fetched once under a lock
(:mod:`fetch`)."""
