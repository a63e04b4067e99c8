"""What the project's own tests need. The plugin itself comes through its entry point and is never
listed here."""

pytest_plugins = ["pytester"]
