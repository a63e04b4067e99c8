"""Who may use which GPUs and cores of this host: :mod:`choice` decides, :mod:`broker` takes, waits
and gives back."""
