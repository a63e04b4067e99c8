"""What must not change unseen: see ``make``."""
