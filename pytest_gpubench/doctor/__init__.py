"""The doctor: a server's death, foretold before the launch.

`rules` turn a server spec, its cases, the models' config.json and the hardware into findings;
everything is pure except what `configs` reads.
"""
