"""The model that a server is for lm-eval."""


class LM:
    pass
