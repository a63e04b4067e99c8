"""Evaluations: questions with known answers, asked of the server that the speed is measured on. The
work is lm-eval's (extra ``eval``), in a process of its own (:mod:`lm_eval_run`)."""
