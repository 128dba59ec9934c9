"""What the ops share: backend choice, loading, checks, settings, processor features."""
